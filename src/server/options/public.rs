//! The `[public]` section of `server.toml`: what visitors meet.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{OwnCertificate, own_certificate};
use crate::routing::{HostPattern, RoutingMode};
use crate::schema::{Entry, Table};
use crate::values::{NETWORKS, dns_name, network};

/// The `[public]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicOptions {
    /// The DNS name under which names live, in lower case. Default: `localhost`.
    pub domain: String,
    /// Where visitors connect over plain HTTP. Default: `[::]:9090`.
    pub http: SocketAddr,
    /// Where visitors connect over TLS; `None` means nowhere.
    pub https: Option<SocketAddr>,
    /// The certificates that visitors see, chosen by the name they ask for; the first is the default. Empty: a self-made
    /// one for the domain and the names below it.
    pub certificates: Vec<OwnCertificate>,
    /// Hosts whose plain HTTP is sent to HTTPS. Default: none.
    pub redirect_to_https: Vec<HostPattern>,
    /// Peers whose connections begin with a PROXY protocol header that names the visitor. Default: none.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Whether applications get the `Forwarded` field (RFC 7239) too. Default: false.
    pub forwarded: bool,
    /// What agents are told as their public address, with `{name}` in it, when something stands in front.
    pub url: Option<String>,
    /// The ways a request may name its tunnel, tried in this order. Never empty, no duplicates. Default: all three.
    pub routing: Vec<RoutingMode>,
    /// Peers whose forwarding headers are believed. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether a client may have domains that DNS says are its own, beside those that the operator lists. Default: no.
    pub domain_proof: bool,
    /// The name servers that are asked for such proofs. Empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
}

/// What lists of peers take, and keys that say where to listen.
pub(crate) const OWN_ADDRESS: &str = "address and port of its own";

pub(crate) fn resolve(mut table: Table<'_>) -> PublicOptions {
    let domain = table.by_default("`localhost`").within("a DNS name").parse("domain", domain);
    let domain = domain.unwrap_or_else(|| "localhost".to_owned());
    let http = listen(&mut table, "http", 9090);
    let url = table.within("`http://` or `https://`, with `{name}`").parse("url", url_template);
    let routing = routing(&mut table);
    let trusted_proxies = table.within(NETWORKS).list("trusted_proxies", network).unwrap_or_default();
    let https = table.within(OWN_ADDRESS).parse("https", |text| address(text, 9443));
    let certificates = certificates(&mut table);
    let redirect_to_https = table
        .within("`*`, `*.example.com`, names")
        .list("redirect_to_https", str::parse::<HostPattern>)
        .unwrap_or_default();
    let unused = [("certificates", certificates.is_empty()), ("redirect_to_https", redirect_to_https.is_empty())];
    for (key, _) in unused.iter().filter(|(_, is_empty)| !is_empty && https.is_none()) {
        table
            .report()
            .problem(table.key(key), "is of no use without public.https; set that to an address like [::]:9443");
    }
    let proxy_protocol_from = table.within(NETWORKS).list("proxy_protocol_from", network).unwrap_or_default();
    let forwarded = table.boolean("forwarded", false);
    table.by_default("`list`").within("`list`, `dns`");
    let domain_proof = table.parse("domain_proof", |text| match text {
        "list" => Ok(false),
        "dns" => Ok(true),
        _ => Err(format!("`{text}` is not a way to prove a domain; use \"list\" (the clients file alone) or \"dns\"")),
    });
    table.by_default("those of the system").within("addresses, with a port if it is not 53");
    let resolvers = table.list("resolvers", resolver).unwrap_or_default();
    PublicOptions {
        domain,
        http,
        https,
        certificates,
        redirect_to_https,
        proxy_protocol_from,
        forwarded,
        url,
        routing,
        trusted_proxies,
        domain_proof: domain_proof.unwrap_or(false),
        resolvers,
    }
}

fn domain(text: &str) -> Result<String, String> {
    if text.contains([':', '/']) && text.parse::<IpAddr>().is_err() {
        return Err(format!("`{text}` must be a name alone, like tunnel.example.com, without scheme, port or path"));
    }
    if text.parse::<IpAddr>().is_ok() {
        let advice = "leave the key out, a bare address is always answered by header and path routing";
        return Err(format!("`{text}` is an IP address, which has no sub-domains; {advice}"));
    }
    dns_name(text)
}

fn url_template(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        None | Some("") => Err("must start with http:// or https:// and name a host".to_owned()),
        Some(rest) if !rest.contains("{name}") => {
            Err("must contain {name}, like https://{name}.tunnel.example.com".to_owned())
        }
        Some(rest) if rest.replace("{name}", "").contains(|c: char| "{}".contains(c) || c.is_whitespace()) => {
            Err("must have no braces but those of {name}, and no spaces".to_owned())
        }
        Some(_) => Ok(text.to_owned()),
    }
}

fn routing(table: &mut Table<'_>) -> Vec<RoutingMode> {
    let all = vec![RoutingMode::Subdomain, RoutingMode::Header, RoutingMode::Path];
    table.by_default("`[\"subdomain\", \"header\", \"path\"]`").within("at least one of these three, none twice");
    let Some(entries) = table.take("routing").and_then(|entry| entry.list()) else { return all };
    if entries.is_empty() {
        let message = "is empty, so nothing could be reached; list at least one of subdomain, header, path";
        table.report().problem(table.key("routing"), message);
    }
    let mut modes: Vec<RoutingMode> = Vec::new();
    for entry in entries {
        let read = |text: &str| {
            let mode = match text {
                "subdomain" => RoutingMode::Subdomain,
                "header" => RoutingMode::Header,
                "path" => RoutingMode::Path,
                _ => return Err(format!("`{text}` is not a way to route; use subdomain, header or path")),
            };
            if modes.contains(&mode) { Err(format!("`{text}` is listed twice; remove one")) } else { Ok(mode) }
        };
        if let Some(mode) = entry.parse(read) {
            modes.push(mode);
        }
    }
    modes
}

/// A name server: an address, with a port if it is not 53.
fn resolver(text: &str) -> Result<SocketAddr, String> {
    let address = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| address()).map_err(|_| format!("`{text}` is not an address; write one like 192.0.2.53"))
}

/// `[[public.certificates]]`.
fn certificates(table: &mut Table<'_>) -> Vec<OwnCertificate> {
    let entries = table.take("certificates").and_then(Entry::list).unwrap_or_default();
    let read = |mut table: Table<'_>| {
        if table.keys().is_empty() {
            table.report().problem(table.key("cert"), "is missing; a certificate needs `cert` and `key`");
        }
        own_certificate(&mut table)
    };
    entries.into_iter().filter_map(Entry::table).filter_map(read).collect()
}

/// Where to listen, by default on every address of the machine.
pub(crate) fn listen(table: &mut Table<'_>, key: &str, default_port: u16) -> SocketAddr {
    let default = SocketAddr::from((Ipv6Addr::UNSPECIFIED, default_port));
    table
        .by_default(format!("`{default}`"))
        .within(OWN_ADDRESS)
        .parse(key, |text| address(text, default_port))
        .unwrap_or(default)
}

pub(crate) fn address(text: &str, example_port: u16) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "`{text}` is not an address with a port; write one like [::]:{example_port} or 127.0.0.1:{example_port}"
        )
    })
}
