//! `[[services]]` of `agent.toml`: what is offered, and how its local application is spoken to.

mod access;
mod connection;
mod header_rules;
mod limits;
mod quiet;
mod rules;

use std::time::Duration;

use rustls::pki_types::ServerName;

use super::local_url::{LocalScheme, LocalUrl};
use crate::protocol::access::AccessPolicy;
use crate::protocol::json;
use crate::protocol::login::{MAX_DOMAINS, MAX_SERVICES, PathPrefix, ServiceKind, ServiceLimits, ServiceOffer};
use crate::schema::{Entry, Origin, Table, key};
use crate::transport::tls::LocalTrust;
use crate::values::{ClientId, Domain, Name, split_host_port};
pub use header_rules::HeaderRules;
pub use rules::{HeaderCondition, Rule};

/// Bytes of a message to the server that all services may take; the rest is left for who the agent is.
const MAX_OFFERS: usize = json::MAX - 2 * 1024;

/// One local application that is offered under a public name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The public name it claims. Default: the client's id.
    pub name: Name,
    /// What it carries. Default: HTTP.
    pub kind: ServiceKind,
    /// Where it listens, and what it speaks there. Gets what no rule fits.
    pub local: LocalUrl,
    /// Which requests go to other applications: the first that fits decides.
    pub rules: Vec<Rule>,
    /// The public port that a `tcp` service wants; `None` takes any that the client may have.
    pub remote_port: Option<u16>,
    /// Whether it also answers for every host below its name. Default: no.
    pub wildcard: bool,
    /// Domains under which it can be reached beside its name.
    pub domains: Vec<Domain>,
    /// Shares its visitors with other agents that offer the name in the same group.
    pub group: Option<Name>,
    /// Which visitors get in. Default: all.
    pub access: AccessPolicy,
    /// Lower limits for visitors than the server's. Default: none.
    pub limits: Option<ServiceLimits>,
    /// The `Host` it is told.
    pub host_header: HostHeader,
    /// What happens to its name on path routes.
    pub path_prefix: PathPrefix,
    /// How an `https` application shows who it is.
    pub trust: LocalTrust,
    /// The name that an `https` application is asked for in the handshake. Default: the name in `host_header`, or the host
    /// in its address.
    pub server_name: Option<ServerName<'static>>,
    /// Whether it is told the visitor's address by the PROXY protocol, ahead of each connection. Default: no.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether connections to the application are used for several requests. Default: yes.
    pub keep_alive: bool,
    /// Whether identity fields such as `Remote-User` are removed from requests. Default: no.
    pub remove_identity_headers: bool,
    /// How long its streams may be silent. Default: as long as the server allows.
    pub quiet_timeout: Option<Duration>,
    /// What is changed in the heads of requests.
    pub request_headers: HeaderRules,
    /// What is changed in the heads of answers.
    pub response_headers: HeaderRules,
    /// Whether it was named on the command line: then advice names flags, not keys.
    pub by_flags: bool,
}

impl Service {
    /// Returns an HTTP service with the defaults of a `[[services]]` section.
    pub fn new(name: Name, local: LocalUrl) -> Self {
        Self {
            name,
            kind: ServiceKind::Http,
            local,
            rules: Vec::new(),
            remote_port: None,
            wildcard: false,
            domains: Vec::new(),
            group: None,
            access: AccessPolicy::default(),
            limits: None,
            host_header: HostHeader::Preserve,
            path_prefix: PathPrefix::Strip,
            trust: LocalTrust::System,
            server_name: None,
            proxy_protocol: None,
            keep_alive: true,
            remove_identity_headers: false,
            quiet_timeout: None,
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            by_flags: false,
        }
    }

    /// The name for TLS with its applications, if that is not the host in their address.
    pub fn tls_name(&self) -> Option<ServerName<'static>> {
        let by_host = || match &self.host_header {
            HostHeader::Value(host) => {
                let (host, _) = split_host_port(host).ok()?;
                ServerName::try_from(host).ok().filter(|name| matches!(name, ServerName::DnsName(_)))
            }
            HostHeader::Preserve | HostHeader::Local => None,
        };
        self.server_name.clone().or_else(by_host)
    }

    /// What the server is told of it.
    pub fn offer(&self) -> ServiceOffer {
        ServiceOffer {
            remote_port: self.remote_port,
            wildcard: self.wildcard,
            domains: self.domains.clone(),
            group: self.group.clone(),
            access: self.access.clone(),
            limits: self.limits,
            path_prefix: self.path_prefix,
            ..ServiceOffer::new(self.name.clone(), self.kind)
        }
    }

    /// Whether it leads to the same applications in the same way as `other`, whoever may come and from where.
    pub fn leads_like(&self, other: &Self) -> bool {
        let (domains, access) = (other.domains.clone(), other.access.clone());
        let Self { name, remote_port, wildcard, group, limits, path_prefix, .. } = other.clone();
        Self { name, remote_port, wildcard, domains, group, access, limits, path_prefix, ..self.clone() } == *other
    }

    /// Every application that it may lead to; some perhaps more than once.
    pub fn locals(&self) -> impl Iterator<Item = &LocalUrl> {
        std::iter::once(&self.local).chain(self.rules.iter().map(|rule| &rule.local))
    }
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

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// All services of an agent; `id` is the name of one that has none.
pub(crate) fn resolve_all(root: &mut Table<'_>, id: Option<&ClientId>) -> Vec<Service> {
    let report = root.report();
    let entries = root.take("services", &key::any("").of_sections()).map(Entry::list);
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
        let (key, domains_key) = (table.key("name"), table.key("domains"));
        let Some(service) = resolve(table, id) else { continue };
        if services.iter().any(|other| other.name == service.name) {
            report.problem(key, format!("`{}` is the name of another service already; choose another", service.name));
        }
        let of_others = |domain: &&Domain| services.iter().any(|other| other.domains.contains(domain));
        for domain in service.domains.iter().filter(of_others) {
            report.problem(&domains_key, format!("`{domain}` leads to another service already; remove one"));
        }
        services.push(service);
    }
    let offers: Vec<ServiceOffer> = services.iter().map(Service::offer).collect();
    if let Err(json::JsonError::TooLarge { length, limit }) = json::encode_within(MAX_OFFERS, &offers) {
        let message = format!(
            "take {length} bytes in the message to the server, {limit} at most; list fewer domains, networks or users"
        );
        report.problem("services", message);
    }
    services
}

fn resolve(mut table: Table<'_>, id: Option<&ClientId>) -> Option<Service> {
    let name =
        match table.take("name", &key::any("a name, none twice").without("the client's id").doc("The public name.")) {
            Some(entry) => entry.parse(Name::new),
            None => id.cloned().map(Name::from),
        };
    let kind = kind(&mut table);
    let (local, rules) = rules::resolve(&mut table, kind);
    let is_http = kind == ServiceKind::Http;
    let mut locals = local.iter().chain(rules.iter().map(|rule| &rule.local));
    let is_https = is_http && (local.is_none() || locals.any(|local| local.scheme() == LocalScheme::Https));
    let remote_port = remote_port(&mut table, kind);
    let (wildcard, domains) = hosts(&mut table, kind);
    let group = group(&mut table);
    let access = access::resolve(&mut table, kind);
    let limits = limits::resolve(&mut table);
    let host = key::text("`preserve`, `local`, or a host", host_header)
        .without("`preserve`")
        .doc("The `Host` that the application sees: what the visitor asked for, the local address, or this one.");
    let host_header = table.get("host_header", host);
    only_for(&table, "host_header", host_header.is_some(), is_http, HTTP);
    let path_prefix = path_prefix(&mut table, is_http);
    let trust = connection::trust(&mut table, |table, key| {
        only_for(table, key, true, is_https, "a local https:// application")
    });
    let server_name = connection::server_name(&mut table, is_https);
    let proxy_protocol = connection::proxy_protocol(&mut table);
    let keep_alive = connection::keep_alive(&mut table, is_http);
    let remove_identity_headers = header_rules::remove_identity_headers(&mut table, is_http);
    let quiet_timeout = quiet::resolve(&mut table);
    let [request_headers, response_headers] = header_rules::read(&mut table);
    for (key, rules) in [("request_headers", &request_headers), ("response_headers", &response_headers)] {
        only_for(&table, key, *rules != HeaderRules::default(), is_http, HTTP);
    }
    Some(Service {
        name: name?,
        kind,
        local: local?,
        rules,
        remote_port,
        wildcard,
        domains,
        group,
        access,
        limits,
        host_header: host_header.unwrap_or(HostHeader::Preserve),
        path_prefix,
        trust,
        server_name,
        proxy_protocol,
        keep_alive,
        remove_identity_headers,
        quiet_timeout,
        request_headers,
        response_headers,
        by_flags: table.origin() == Origin::Flags,
    })
}

/// Reads what happens to the name on path routes.
fn path_prefix(table: &mut Table<'_>, is_http: bool) -> PathPrefix {
    let strip = key::boolean(true).doc(
        "`http` only, on path routes: `/alice/x` becomes `/x` for the application, and `X-Forwarded-Prefix` says `/alice`. \
         `false` for an application that serves its pages below `/alice/`: then nothing is changed.",
    );
    let strip = table.get("strip_prefix", strip);
    let knows = key::boolean(false).doc(
        "`http` only, on path routes: the application reads `X-Forwarded-Prefix` and adds the prefix to its redirects and \
         cookies. Otherwise the server adds it.",
    );
    let knows = table.get("knows_prefix", knows);
    only_for(table, "strip_prefix", !strip, is_http, HTTP);
    only_for(table, "knows_prefix", knows, is_http, HTTP);
    if knows && !strip {
        table.problem("knows_prefix", "has no meaning with strip_prefix = false; remove one of the two");
    }
    match (strip, knows) {
        (false, _) => PathPrefix::Keep,
        (true, true) => PathPrefix::Known,
        (true, false) => PathPrefix::Strip,
    }
}

/// Reads the public port that a `tcp` service wants.
fn remote_port(table: &mut Table<'_>, kind: ServiceKind) -> Option<u16> {
    let port =
        key::optional_number(1..=65_535).within(", one of the client's `tcp_ports`").without("the first that is free");
    let remote_port = table.get("remote_port", port.doc("`tcp` only: the public port."));
    only_for(table, "remote_port", remote_port.is_some(), kind == ServiceKind::Tcp, "services of the kind tcp");
    remote_port.and_then(|port| u16::try_from(port).ok())
}

fn group(table: &mut Table<'_>) -> Option<Name> {
    let group = key::text("a name", Name::new).doc(
        "Agents of one client that offer the name in the same group share its visitors. Without a group, the agent that \
         was started last serves them all and the others stand by.",
    );
    table.get("group", group)
}

const HTTP: &str = "services of the kind http";

/// Complains of a key that has no meaning here.
fn only_for(table: &Table<'_>, key: &str, given: bool, fits: bool, what: &str) {
    if given && !fits {
        table.problem(key, format!("is only for {what}; remove it"));
    }
}

fn kind(table: &mut Table<'_>) -> ServiceKind {
    let kinds = [ServiceKind::Http, ServiceKind::Tcp, ServiceKind::Tls].map(|kind| (kind.word(), kind));
    let kind = key::choice("a kind of service", &kinds).or("`http`", ServiceKind::Http);
    table.get(
        "kind",
        kind.doc(
            "Requests; connections to a public port; connections to the HTTPS port by name, with the application's own TLS.",
        ),
    )
}

/// `wildcard` and `domains`: the hosts under which it can be reached beside its name.
fn hosts(table: &mut Table<'_>, kind: ServiceKind) -> (bool, Vec<Domain>) {
    let wildcard = key::boolean(false)
        .doc("`http` and `tls`: also every host below the name, `*.alice.<domain>`, if the operator allows it.");
    let wildcard = table.get("wildcard", wildcard);
    let mut domains: Vec<Domain> = Vec::new();
    let key = key::any(format!("at most {MAX_DOMAINS} domains, none in two services"));
    let key = key.doc("`http` and `tls`: further hosts, like `blog.alice.example`, if the operator allows them.");
    let entries = table.take("domains", &key).and_then(Entry::list).unwrap_or_default();
    if entries.len() > MAX_DOMAINS {
        let message = format!("has {} entries, at most {MAX_DOMAINS} are allowed", entries.len());
        table.report().problem(table.key("domains"), message);
    }
    for entry in entries {
        let read = |text: &str| match Domain::new(text) {
            Ok(domain) if domains.contains(&domain) => Err(format!("`{domain}` is listed twice; remove one")),
            read => read.map_err(|error| error.to_string()),
        };
        domains.extend(entry.parse(read));
    }
    let has_hosts = kind != ServiceKind::Tcp;
    only_for(table, "wildcard", wildcard, has_hosts, "services of the kinds http and tls");
    only_for(table, "domains", !domains.is_empty(), has_hosts, "services of the kinds http and tls");
    (wildcard, domains)
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

#[cfg(test)]
mod tests;
