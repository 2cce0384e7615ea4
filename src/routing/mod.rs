//! From what a visitor asks for to a name: pure, without I/O, and the same for every listener.
//!
//! Three ways lead to a service, tried in the configured order: the subdomain (`alice.<domain>`), the header
//! (`X-Tunnel-ID: alice`, on the bare domain or a bare address), and the path (`<domain>/alice/…`). A host below a
//! subdomain (`x.alice.<domain>`) belongs to that name's service, if it takes such hosts; any other host may be a
//! client's own domain.

mod host;

use std::net::Ipv6Addr;

use crate::values::{Name, RESERVED_NAMES};
pub use host::HostPattern;

/// The header that names a service.
pub const TUNNEL_HEADER: &str = "x-tunnel-id";

/// A way to name a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutingMode {
    /// `alice.<domain>`.
    Subdomain,
    /// `X-Tunnel-ID: alice`.
    Header,
    /// `<domain>/alice/…`.
    Path,
}

/// What of a request's head decides where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `Host` or the target's authority, with or without a port; `None` if the request named neither.
    pub authority: Option<&'a str>,
    /// The path, as written.
    pub path: &'a str,
    /// The value of `X-Tunnel-ID`, if there is exactly one and it is text.
    pub header: Option<&'a str>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the service with this name.
    Service {
        /// The name that was asked for.
        name: Name,
        /// How it was asked for.
        mode: RoutingMode,
        /// Whether a host below the name was asked for, which only some services take.
        below: bool,
    },
    /// To the service that has this host as a domain of its own, if there is one: in lower case, without a final dot.
    Domain(String),
    /// To the server itself: the bare domain or a bare address, with no name in it. The path is one of the server's
    /// own, or unknown.
    Own,
    /// To a name that cannot exist, or a host that is not ours.
    Unknown,
}

/// Routes requests for one domain.
#[derive(Debug, Clone)]
pub struct Router {
    domain: String,
    order: Vec<RoutingMode>,
}

impl Router {
    /// Routes for `domain` (lower case, no trailing dot), trying `order` from the front.
    pub fn new(domain: impl Into<String>, order: impl Into<Vec<RoutingMode>>) -> Self {
        Self { domain: domain.into(), order: order.into() }
    }

    /// Decides where a request goes.
    pub fn route(&self, asked: Asked<'_>) -> Route {
        let place = self.place(asked.authority);
        for mode in &self.order {
            let found = match mode {
                RoutingMode::Subdomain => match place {
                    Place::Subdomain(labels) => Some(by_subdomain(labels)),
                    Place::Foreign(host) => Some(Route::Domain(host.to_ascii_lowercase())),
                    Place::Bare => None,
                },
                RoutingMode::Header if place == Place::Bare => asked.header.map(|text| named(text.trim(), *mode)),
                RoutingMode::Path if place == Place::Bare => by_path(asked.path),
                RoutingMode::Header | RoutingMode::Path => None,
            };
            if let Some(route) = found {
                return route;
            }
        }
        if place == Place::Bare { Route::Own } else { Route::Unknown }
    }

    fn place<'a>(&self, authority: Option<&'a str>) -> Place<'a> {
        // HTTP/1.0 may name no host: it means whatever it has connected to.
        let Some(authority) = authority else { return Place::Bare };
        let host = host_of(authority);
        if is_address(host) {
            return Place::Bare;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let Some(split) = host.len().checked_sub(self.domain.len()) else { return Place::Foreign(host) };
        let (front, domain) = match (host.get(..split), host.get(split..)) {
            (Some(front), Some(domain)) => (front, domain),
            _ => return Place::Foreign(host),
        };
        if !domain.eq_ignore_ascii_case(&self.domain) {
            return Place::Foreign(host);
        }
        match front.strip_suffix('.') {
            None if front.is_empty() => Place::Bare,
            Some(labels) => Place::Subdomain(labels),
            None => Place::Foreign(host),
        }
    }
}

/// What kind of host a visitor asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    /// The domain itself, or an IP address.
    Bare,
    /// Something below the domain: what stands before it.
    Subdomain(&'a str),
    /// Neither: the host as it was written.
    Foreign(&'a str),
}

/// Whether a `Host` field, or a target's authority, is `host` or `host:port` and nothing else (RFC 9110, section 7.2;
/// RFC 3986, section 3.2.2): what is not may be read as another host by whoever comes next, or as markup.
pub fn is_authority(text: &[u8]) -> bool {
    let (is_host, port) = if let Some(inside) = text.strip_prefix(b"[") {
        let Some(end) = inside.iter().position(|byte| *byte == b']') else { return false };
        let address = std::str::from_utf8(&inside[..end]).unwrap_or_default();
        (address.parse::<Ipv6Addr>().is_ok(), &inside[end + 1..])
    } else {
        let end = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
        (is_reg_name(&text[..end]), &text[end..])
    };
    // No port has more than five digits; a colon without any is allowed.
    let is_port = port
        .strip_prefix(b":")
        .map_or(port.is_empty(), |digits| digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit));
    is_host && is_port
}

/// Which bytes a host name may contain as they are.
const PLAIN: [bool; 256] = {
    let (mut plain, mut at) = ([false; 256], 0);
    while at < plain.len() {
        let byte = at as u8;
        plain[at] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            );
        at += 1;
    }
    plain
};

/// A host name or IPv4 address: unreserved characters, sub-delimiters, and percent-encoded bytes.
fn is_reg_name(host: &[u8]) -> bool {
    let mut rest = host;
    while let Some((byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => after,
            (byte, after) if PLAIN[usize::from(*byte)] => after,
            _ => return false,
        };
    }
    !host.is_empty()
}

/// The host of an authority (RFC 3986, section 3.2), without the port.
pub fn host_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_once(']').map_or(authority, |(inside, _)| &inside[1..]);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

/// `alice`, or `x.y.alice`.
fn by_subdomain(labels: &str) -> Route {
    match labels.rsplit_once('.') {
        None => named(labels, RoutingMode::Subdomain),
        // An empty label is in no host name.
        Some((front, _)) if front.split('.').any(str::is_empty) => Route::Unknown,
        Some((_, label)) => match named(label, RoutingMode::Subdomain) {
            Route::Service { name, mode, .. } => Route::Service { name, mode, below: true },
            other => other,
        },
    }
}

fn named(text: &str, mode: RoutingMode) -> Route {
    // Host names do not know case (RFC 4343); the others follow them.
    match Name::new(&text.to_ascii_lowercase()) {
        Ok(name) => Route::Service { name, mode, below: false },
        Err(_) => Route::Unknown,
    }
}

fn by_path(path: &str) -> Option<Route> {
    let path = path.strip_prefix('/')?;
    let label = path.split_once('/').map_or(path, |(label, _)| label);
    if label.is_empty() || RESERVED_NAMES.contains(&label) {
        return None;
    }
    Some(named(label, RoutingMode::Path))
}

/// The target behind the name of a path route: `/alice/x?y` is `/x?y` to the application. Behind `/alice` it is empty or a
/// query alone.
pub fn strip_name(target: &str) -> &str {
    let after = target.strip_prefix('/').unwrap_or(target);
    after.find(['/', '?']).map_or("", |at| &after[at..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn router() -> Router {
        Router::new("tunnel.example.com", [RoutingMode::Subdomain, RoutingMode::Header, RoutingMode::Path])
    }

    fn route(authority: &str, path: &str, header: Option<&str>) -> Route {
        router().route(Asked { authority: Some(authority), path, header })
    }

    fn to(name: &str, mode: RoutingMode) -> Route {
        Route::Service { name: Name::new(name).unwrap(), mode, below: false }
    }

    #[test]
    fn the_three_ways_lead_to_the_name() {
        use RoutingMode::{Header, Path, Subdomain};
        assert_eq!(route("alice.tunnel.example.com", "/", None), to("alice", Subdomain));
        assert_eq!(route("Alice.Tunnel.Example.COM.:9090", "/bob/", Some("bob")), to("alice", Subdomain));
        assert_eq!(route("tunnel.example.com", "/bob/x", Some("alice")), to("alice", Header));
        assert_eq!(route("203.0.113.1:9090", "/x", Some(" Alice ")), to("alice", Header));
        assert_eq!(route("[2001:db8::1]:9090", "/alice/x", None), to("alice", Path));
        assert_eq!(route("tunnel.example.com", "/alice/", None), to("alice", Path));
        assert_eq!(route("tunnel.example.com", "/alice", None), to("alice", Path));
        let nameless = Asked { authority: None, path: "/alice/x", header: None };
        assert_eq!(router().route(nameless), to("alice", Path));
    }

    #[test]
    fn the_order_decides_and_a_missing_way_is_closed() {
        let asked = Asked { authority: Some("tunnel.example.com"), path: "/bob/", header: Some("alice") };
        let path_first = Router::new("tunnel.example.com", [RoutingMode::Path, RoutingMode::Header]);
        assert_eq!(path_first.route(asked), to("bob", RoutingMode::Path));
        let no_path = Router::new("tunnel.example.com", [RoutingMode::Subdomain]);
        assert_eq!(no_path.route(asked), Route::Own);
        let no_subdomain = Router::new("tunnel.example.com", [RoutingMode::Path]);
        let sub = Asked { authority: Some("alice.tunnel.example.com"), path: "/bob/", header: None };
        assert_eq!(no_subdomain.route(sub), Route::Unknown);
    }

    #[test]
    fn the_servers_own_pages_stay_its_own() {
        assert_eq!(route("tunnel.example.com", "/health", None), Route::Own);
        assert_eq!(route("tunnel.example.com", "/", None), Route::Own);
        assert_eq!(route("tunnel.example.com", "/health/x", None), Route::Own);
        assert_eq!(route("health.tunnel.example.com", "/", None), Route::Unknown);
    }

    #[test]
    fn what_cannot_be_a_name_is_unknown() {
        for host in [
            ".tunnel.example.com",
            "x..alice.tunnel.example.com",
            ".alice.tunnel.example.com",
            "x.a_b.tunnel.example.com",
        ] {
            assert_eq!(route(host, "/alice/", Some("alice")), Route::Unknown, "{host}");
        }
        assert_eq!(route("tunnel.example.com", "/Al%20ice/", None), Route::Unknown);
        assert_eq!(route("tunnel.example.com", "//alice/", None), Route::Own);
    }

    #[test]
    fn a_host_below_a_name_is_that_names_if_it_takes_such_hosts() {
        let below = Route::Service { name: Name::new("alice").unwrap(), mode: RoutingMode::Subdomain, below: true };
        assert_eq!(route("x.alice.tunnel.example.com", "/", None), below);
        assert_eq!(route("X.y.ALICE.tunnel.example.com.:80", "/bob/", Some("bob")), below);
    }

    #[test]
    fn any_other_host_may_be_a_domain_of_a_client() {
        for (host, asked) in [
            ("Example.com.:8080", "example.com"),
            ("eviltunnel.example.com", "eviltunnel.example.com"),
            ("blog.alice.example", "blog.alice.example"),
        ] {
            assert_eq!(route(host, "/alice/", Some("alice")), Route::Domain(asked.to_owned()));
        }
        let no_subdomain = Router::new("tunnel.example.com", [RoutingMode::Path]);
        let asked = Asked { authority: Some("blog.alice.example"), path: "/", header: None };
        assert_eq!(no_subdomain.route(asked), Route::Unknown);
    }

    #[test]
    fn an_authority_is_a_host_and_maybe_a_port() {
        for good in
            ["a", "Alice.Example:9090", "a:", "127.0.0.1:1", "[2001:db8::1]", "[::1]:65535", "a_b~c", "%C3%a9.example"]
        {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/b",
            "a:80/b",
            "a:+80",
            "a:b",
            "a:80:80",
            "a:123456",
            "user@a",
            "a?b",
            "a#b",
            "a\\b",
            "é",
            "%",
            "%2",
            "%zz",
            "<a>",
            "\"a\"",
            "[a]",
            "[::1",
            "::1",
            "[::1]80",
            "[127.0.0.1]",
            "evil.com/\"><script>@127.0.0.1:1",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn only_the_name_is_stripped() {
        assert_eq!(strip_name("/alice/x//y%2F?q=/a"), "/x//y%2F?q=/a");
        assert_eq!(strip_name("/alice/"), "/");
        assert_eq!(strip_name("/alice//x"), "//x");
        assert_eq!(strip_name("/alice"), "");
        assert_eq!(strip_name("/alice?q=/a"), "?q=/a");
    }

    proptest! {
        #[test]
        fn nothing_a_visitor_sends_breaks_it(host in ".*", path in ".*", header in proptest::option::of(".*")) {
            let asked = Asked { authority: Some(&host), path: &path, header: header.as_deref() };
            // Whatever comes out as a name is a valid one, and any subdomain wins over the rest.
            if let Route::Service { name, .. } = router().route(asked) {
                prop_assert!(Name::new(name.as_str()).is_ok());
            }
            strip_name(&path);
        }

        #[test]
        fn every_name_is_reached_by_every_way(label in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", port in any::<u16>(), rest in "[!-~]{0,40}") {
            prop_assume!(!RESERVED_NAMES.contains(&label.as_str()));
            let host = format!("{}.tunnel.example.com:{port}", label.to_uppercase());
            prop_assert_eq!(route(&host, &rest, None), to(&label, RoutingMode::Subdomain));
            let below = Route::Service { name: Name::new(&label).unwrap(), mode: RoutingMode::Subdomain, below: true };
            prop_assert_eq!(route(&format!("x.{host}"), &rest, None), below);
            prop_assert_eq!(route("127.0.0.1", &rest, Some(&label)), to(&label, RoutingMode::Header));
            let target = format!("/{label}/{rest}");
            prop_assert_eq!(route("127.0.0.1", &target, None), to(&label, RoutingMode::Path));
            prop_assert_eq!(strip_name(&target), format!("/{rest}"));
        }
    }
}
