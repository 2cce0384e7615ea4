//! `[public]`: where visitors connect.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{OWN_ADDRESS, OwnCertificate, address, listen};
use crate::routing::{HostPattern, RoutingMode};
use crate::schema::{Entry, Key, Section as _, Table, key, options};
use crate::values::{NETWORKS, dns_name, network};

options! {
    /// The `[public]` section.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct PublicOptions check by check {
        /// The DNS name under which tunnels have their names, in lower case.
        pub domain: String = key::text("a DNS name", domain).or("`localhost`", "localhost".to_owned()), restart;
        /// Where visitors connect over plain HTTP.
        pub http: SocketAddr = listen(9090), restart;
        /// Where visitors connect over TLS, with HTTP/1.1 or HTTP/2.
        pub https: Option<SocketAddr> = key::text(OWN_ADDRESS, |text| address(text, 9443)), restart;
        /// Hosts whose plain HTTP requests are answered with 308 to HTTPS.
        pub redirect_to_https: Vec<HostPattern> =
            key::list("`*`, `*.example.com`, names", str::parse::<HostPattern>), reload unless toggles_https;
        /// The public address that agents are told, if a proxy in front has another.
        pub url: Option<String> = key::text("`http://` or `https://`, with `{name}`", url_template), reload;
        /// The ways a request may name its tunnel, in the order in which they are tried.
        pub routing: Vec<RoutingMode> = routing(), reload;
        /// Proxies trusted to set forwarding headers; they have no limit on connections.
        pub trusted_proxies: Vec<IpNet> = key::list(NETWORKS, network), reload;
        /// Peers whose connections begin with a PROXY protocol header, v1 or v2. It is required from these and accepted
        /// from no other peer.
        pub proxy_protocol_from: Vec<IpNet> = key::list(NETWORKS, network), reload;
        /// Whether applications get `Forwarded` (RFC 7239) too.
        pub forwarded: bool = key::boolean(false), reload;
        /// Who owns a custom domain: the client for which the clients file lists it; with `dns`, also the client named
        /// by a TXT record at `_adit.<domain>`: `alice@tunnel.example.com` (client and `public.domain`).
        pub domain_proof: bool = key::text("`list`, `dns`", domain_proof).or("`list`", false), reload;
        /// Name servers that are asked for such records.
        pub resolvers: Vec<SocketAddr> =
            key::list("addresses, with a port if it is not 53", resolver).without("those of the system"), reload;
        /// The certificates that visitors see. Without any, the local CA makes one for the domain and the names below it.
        pub certificates: Vec<OwnCertificate> = certificates(), reload unless toggles_https;
    }
}

/// Whether the listener comes or goes on restart, and with it what is only for it.
fn toggles_https(running: &PublicOptions, read: &PublicOptions) -> bool {
    running.https.is_some() != read.https.is_some()
}

fn check(options: &mut PublicOptions, table: &Table<'_>) {
    let given = [
        ("certificates", !options.certificates.is_empty()),
        ("redirect_to_https", !options.redirect_to_https.is_empty()),
    ];
    for (key, _) in given.into_iter().filter(|(_, given)| *given && options.https.is_none()) {
        table.problem(key, "is of no use without public.https; set that to an address like [::]:9443");
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

fn domain_proof(text: &str) -> Result<bool, String> {
    match text {
        "list" => Ok(false),
        "dns" => Ok(true),
        _ => Err(format!("`{text}` is not a way to prove a domain; use \"list\" (the clients file alone) or \"dns\"")),
    }
}

fn routing() -> Key<Vec<RoutingMode>> {
    let all = vec![RoutingMode::Subdomain, RoutingMode::Header, RoutingMode::Path];
    let read = |entry: Entry<'_>| {
        let (report, key) = (entry.report(), entry.key().to_owned());
        let entries = entry.list()?;
        if entries.is_empty() {
            let message = "is empty, so nothing could be reached; list at least one of subdomain, header, path";
            report.problem(key, message);
        }
        let mut modes: Vec<RoutingMode> = Vec::new();
        for entry in entries {
            modes.extend(entry.parse(|text| routing_mode(text, &modes)));
        }
        Some(modes)
    };
    Key::new("at least one of these three, none twice", read).or("`[\"subdomain\", \"header\", \"path\"]`", all)
}

fn routing_mode(text: &str, others: &[RoutingMode]) -> Result<RoutingMode, String> {
    let mode = match text {
        "subdomain" => RoutingMode::Subdomain,
        "header" => RoutingMode::Header,
        "path" => RoutingMode::Path,
        _ => return Err(format!("`{text}` is not a way to route; use subdomain, header or path")),
    };
    if others.contains(&mode) { Err(format!("`{text}` is listed twice; remove one")) } else { Ok(mode) }
}

/// A name server: an address, with a port if it is not 53.
fn resolver(text: &str) -> Result<SocketAddr, String> {
    let address = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| address()).map_err(|_| format!("`{text}` is not an address; write one like 192.0.2.53"))
}

fn certificates() -> Key<Vec<OwnCertificate>> {
    let read = |mut table: Table<'_>| {
        if table.keys().is_empty() {
            table.problem("cert", "is missing; a certificate needs `cert` and `key`");
        }
        Option::<OwnCertificate>::read(&mut table)
    };
    Key::new("", move |entry| Some(entry.list()?.into_iter().filter_map(Entry::table).filter_map(read).collect()))
        .of_sections()
        .or("none", Vec::new())
}
