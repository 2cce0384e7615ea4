//! `[[services]]` of `agent.toml`: what is offered, and how its local application is spoken to.

use std::path::PathBuf;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use super::address::{LocalScheme, LocalUrl, split_host_port};
use super::table::{Entry, Table};
use crate::protocol::login::{MAX_SERVICES, ServiceKind};
use crate::values::{ClientId, Name};

/// One local application that is offered under a public name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The public name it claims. Default: the client's id.
    pub name: Name,
    /// What it carries. Default: HTTP.
    pub kind: ServiceKind,
    /// Where it listens, and what it speaks there.
    pub local: LocalUrl,
    /// The public port that a `tcp` service wants; `None` takes any that the client may have.
    pub remote_port: Option<u16>,
    /// The `Host` it is told.
    pub host_header: HostHeader,
    /// How an `https` application shows who it is.
    pub trust: LocalTrust,
    /// Whether it is told the visitor's address by the PROXY protocol, ahead of each connection. Default: no.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What is changed in the heads of requests.
    pub request_headers: HeaderRules,
    /// What is changed in the heads of answers.
    pub response_headers: HeaderRules,
}

/// The `Host` header the local application sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostHeader {
    /// What the visitor asked for.
    Preserve,
    /// The local address, for applications that answer to nothing else.
    Local,
    /// This one.
    Value(String),
}

/// What the certificate of an `https` application is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalTrust {
    /// The certificate authorities of the system.
    System,
    /// The authorities in this PEM file, and no others.
    CaFile(PathBuf),
    /// Nothing: whoever answers is taken for the application.
    Anybody,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Changes to the fields of a head, made in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// All values of these go.
    pub remove: Vec<HeaderName>,
    /// These values take the place of whatever is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// These come beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderRules {
    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// All services of an agent; `id` is the name of one that has none.
pub(super) fn resolve_all(root: &mut Table<'_>, id: Option<&ClientId>) -> Vec<Service> {
    let report = root.report();
    let entries = root.take("services").map(Entry::list);
    match entries.as_ref().map(Option::as_deref) {
        Some(None) => {}
        None | Some(Some([])) => {
            report.problem("services", "is missing; add a [[services]] section with local = \"http://127.0.0.1:3000\"");
        }
        Some(Some(entries)) if entries.len() > MAX_SERVICES => {
            report.problem("services", format!("has {} entries, at most {MAX_SERVICES} are allowed", entries.len()));
        }
        Some(Some(_)) => {}
    }
    let mut services: Vec<Service> = Vec::new();
    for table in entries.flatten().into_iter().flatten().filter_map(Entry::table) {
        let key = table.key("name");
        let Some(service) = resolve(table, id) else { continue };
        if services.iter().any(|other| other.name == service.name) {
            report.problem(key, format!("`{}` is the name of another service already; choose another", service.name));
        }
        services.push(service);
    }
    services
}

fn resolve(mut table: Table<'_>, id: Option<&ClientId>) -> Option<Service> {
    let name = match table.take("name") {
        Some(entry) => entry.parse(Name::new),
        None => id.cloned().map(Name::from),
    };
    let kind = table.parse("kind", |text| match text {
        "http" => Ok(ServiceKind::Http),
        "tcp" => Ok(ServiceKind::Tcp),
        "tls" => Ok(ServiceKind::Tls),
        _ => Err(format!("`{text}` is not a kind of service; use \"http\", \"tcp\" or \"tls\"")),
    });
    let kind = kind.unwrap_or(ServiceKind::Http);
    let local = match table.take("local") {
        Some(entry) => entry.parse_or_number(|text| local(text, kind)),
        None => {
            table.report().problem(table.key("local"), "is missing; say where the application listens, like 3000");
            None
        }
    };
    let scheme = local.as_ref().map(LocalUrl::scheme);
    let only_for = |table: &Table<'_>, key: &str, given: bool, fits: bool, what: &str| {
        if given && !fits {
            table.report().problem(table.key(key), format!("is only for {what}; remove it"));
        }
    };
    let is_http = kind == ServiceKind::Http;
    let is_https = is_http && scheme.is_none_or(|scheme| scheme == LocalScheme::Https);
    let remote_port = table.take("remote_port").and_then(|entry| entry.number(1..=65_535));
    only_for(&table, "remote_port", remote_port.is_some(), kind == ServiceKind::Tcp, "services of the kind tcp");
    let host_header = table.parse("host_header", host_header);
    only_for(&table, "host_header", host_header.is_some(), is_http, "services of the kind http");
    let trust = trust(&mut table, |table, key| only_for(table, key, true, is_https, "a local https:// application"));
    let proxy_protocol = table.parse("proxy_protocol", |text| match text {
        "v1" => Ok(ProxyProtocol::V1),
        "v2" => Ok(ProxyProtocol::V2),
        _ => Err(format!("`{text}` is not a version of the PROXY protocol; use \"v1\" or \"v2\"")),
    });
    let request_headers = rules(table.section("request_headers"));
    let response_headers = rules(table.section("response_headers"));
    for (key, rules) in [("request_headers", &request_headers), ("response_headers", &response_headers)] {
        only_for(&table, key, *rules != HeaderRules::default(), is_http, "services of the kind http");
    }
    Some(Service {
        name: name?,
        kind,
        local: local?,
        remote_port: remote_port.and_then(|port| u16::try_from(port).ok()),
        host_header: host_header.unwrap_or(HostHeader::Preserve),
        trust,
        proxy_protocol,
        request_headers,
        response_headers,
    })
}

/// A local address that fits the kind of service.
fn local(text: &str, kind: ServiceKind) -> Result<LocalUrl, String> {
    let local: LocalUrl = text.parse()?;
    match (kind, local.scheme) {
        (_, None) => Ok(local),
        (ServiceKind::Http, Some(LocalScheme::Tcp)) => {
            Err(format!("`{text}` is for services of the kind tcp; use http://, https://, h2c:// or unix:"))
        }
        (ServiceKind::Http, _) | (_, Some(LocalScheme::Tcp)) => Ok(local),
        (ServiceKind::Tcp | ServiceKind::Tls, _) => Err(format!(
            "`{text}` is for services of the kind http; a service of the kind {} has host:port, tcp://host:port or unix:",
            kind.word()
        )),
    }
}

fn host_header(text: &str) -> Result<HostHeader, String> {
    match text {
        "preserve" => Ok(HostHeader::Preserve),
        "local" => Ok(HostHeader::Local),
        _ => split_host_port(text)
            .map(|_| HostHeader::Value(text.to_owned()))
            .map_err(|_| format!("`{text}` is no host; use \"preserve\", \"local\" or a host like app.internal")),
    }
}

fn trust(table: &mut Table<'_>, given: impl Fn(&Table<'_>, &str)) -> LocalTrust {
    let ca = table.path("ca");
    let skip = table.boolean("insecure_skip_verify", false);
    if ca.is_some() {
        given(table, "ca");
    }
    if skip {
        given(table, "insecure_skip_verify");
    }
    match (ca, skip) {
        (None, false) => LocalTrust::System,
        (Some(ca), false) => LocalTrust::CaFile(ca),
        (None, true) => LocalTrust::Anybody,
        (Some(ca), true) => {
            let message = "is given together with ca; keep one of the two, ca if you can";
            table.report().problem(table.key("insecure_skip_verify"), message);
            LocalTrust::CaFile(ca)
        }
    }
}

/// `remove`, `set` and `add`.
fn rules(mut table: Table<'_>) -> HeaderRules {
    let remove = table.list("remove", field_name).unwrap_or_default();
    let set = fields(table.section("set"));
    let add = fields(table.section("add"));
    HeaderRules { remove, set, add }
}

fn fields(mut table: Table<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::new();
    for key in table.keys() {
        let name = field_name(&key).map_err(|message| table.report().problem(table.key(&key), message)).ok();
        let value = table.parse(&key, |text| {
            HeaderValue::from_str(text).map_err(|_| "has characters that a field cannot have".to_owned())
        });
        fields.extend(name.zip(value));
    }
    fields
}

/// A field that may be changed: not one that says where a message goes, how long it is, or what becomes of the connection.
fn field_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not the name of a field"))?;
    match name {
        HOST => Err("is what host_header is for".to_owned()),
        CONNECTION | CONTENT_LENGTH | TE | TRAILER | TRANSFER_ENCODING | UPGRADE => {
            Err(format!("`{name}` belongs to the connection, not to the message, and cannot be changed"))
        }
        _ if ["keep-alive", "proxy-connection"].contains(&name.as_str()) => {
            Err(format!("`{name}` belongs to the connection, not to the message, and cannot be changed"))
        }
        _ => Ok(name),
    }
}
