//! Hosts and ports as people write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// The port an agent dials when none is given: the default of the server's `tunnel.listen`.
pub const DEFAULT_TUNNEL_PORT: u16 = 8080;

/// Where an agent finds a server: `host:port`, `[v6]:port`, or a host alone with [`DEFAULT_TUNNEL_PORT`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// A DNS name in lower case or an IP address, the latter without brackets.
    pub host: String,
    /// The TCP port; never 0.
    pub port: u16,
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err(format!("`{text}` is a URL; a server is `host:port`, like tunnel.example.com:8080"));
        }
        let (host, port) = split_host_port(text)?;
        Ok(Self { host, port: port.unwrap_or(DEFAULT_TUNNEL_PORT) })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_authority(f, &self.host, self.port)
    }
}

fn write_authority(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`; the host comes back in lower case and without brackets.
pub(crate) fn split_host_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) =
                rest.split_once(']').ok_or_else(|| format!("`{text}` has a `[` without its `]`; write [::1]:8080"))?;
            if inside.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("`{inside}` is not an IPv6 address, but brackets are only for those"));
            }
            match after.strip_prefix(':') {
                Some(port) => (inside, Some(port)),
                None if after.is_empty() => (inside, None),
                None => return Err(format!("`{text}` has something odd after the `]`; write [::1]:8080")),
            }
        }
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => {
            refuse_ambiguous(text)?;
            (text, None)
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("`{text}` is not an address; an IPv6 address with a port is written [::1]:8080"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    Ok((read_host(host)?, port.map(read_port).transpose()?))
}

/// Refuses an IPv6 address without brackets whose end looks like a port: `::1:8080` is an address, and hardly ever meant.
fn refuse_ambiguous(text: &str) -> Result<(), String> {
    let Some((address, port)) = text.rsplit_once(':') else { return Ok(()) };
    let is_port = port.len() == 4 && port.bytes().all(|byte| byte.is_ascii_digit()) || port == "443";
    if is_port && address.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(format!(
            "`{text}` can be read in two ways: write [{address}]:{port} with the port, or [{text}] without"
        ));
    }
    Ok(())
}

pub(crate) fn read_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{text}` is not a port; a port is a number from 1 to 65535")),
    }
}

/// A host that is dialled: an IP address, or a name. Underscores pass, because container networks use them.
fn read_host(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    if !text.is_ascii() {
        return dns_name(text);
    }
    dns_name(&text.replace('_', "-"))
        .map(|_| text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())
        .map_err(|_| format!("`{text}` is not a host; write a name like tunnel.example.com or an IP address"))
}

/// Checks a DNS name in its preferred form (RFC 1123, section 2.1) and returns it in lower case, without a final dot.
pub(crate) fn dns_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if !name.is_ascii() {
        return Err(match ascii_form(name) {
            Some(form) => format!("`{text}` has letters beyond ASCII; write `{form}`"),
            None => format!("`{text}` has letters beyond ASCII; write it in its xn-- form"),
        });
    }
    if name.is_empty() || name.len() > 253 {
        return Err(format!("a host name has 1 to 253 characters, `{text}` has {}", name.len()));
    }
    for label in name.split('.') {
        let hyphen_outside = label.starts_with('-') || label.ends_with('-');
        let odd = label.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-');
        if label.is_empty() || label.len() > 63 || hyphen_outside || odd {
            return Err(format!("`{text}` is not a host name like tunnel.example.com: look at its part `{label}`"));
        }
    }
    Ok(name.to_ascii_lowercase())
}

/// Returns a name with letters beyond ASCII as DNS has it (`xn--…`, RFC 5891); `None` if it has no such form.
pub(crate) fn ascii_form(text: &str) -> Option<String> {
    let name = hickory_resolver::proto::rr::Name::from_utf8(text.to_lowercase()).ok()?;
    let ascii = name.to_ascii();
    Some(ascii.trim_end_matches('.').to_owned()).filter(|form| form.is_ascii() && form.contains("xn--"))
}

/// What [`network`] reads, for documents.
pub(crate) const NETWORKS: &str = "addresses, networks";

/// A network, or a single address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| {
        format!("`{text}` is not a network; write one like 10.0.0.0/8 or 2001:db8::/32, or a single address")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_perhaps_a_port() {
        for (text, host, port, printed) in [
            ("Tunnel.Example.com", "tunnel.example.com", 8080, "tunnel.example.com:8080"),
            ("tunnel.example.com:1", "tunnel.example.com", 1, "tunnel.example.com:1"),
            ("192.0.2.1:65535", "192.0.2.1", 65535, "192.0.2.1:65535"),
            ("[2001:db8::1]:443", "2001:db8::1", 443, "[2001:db8::1]:443"),
            ("2001:db8::1", "2001:db8::1", 8080, "[2001:db8::1]:8080"),
            ("[::1]", "::1", 8080, "[::1]:8080"),
            ("adit_server:9", "adit_server", 9, "adit_server:9"),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!(address, ServerAddress { host: host.into(), port }, "{text}");
            assert_eq!(address.to_string(), printed);
        }
        for bad in
            ["", ":80", "a:0", "a:65536", "a:", "a:b", "https://a", "[a]:1", "[::1", "[::1]x", "a b", "1::2::3", "-a"]
        {
            assert!(bad.parse::<ServerAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused_with_both() {
        for (text, with_port) in [("::1:8080", "[::1]:8080"), ("2001:db8::5:443", "[2001:db8::5]:443")] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert!(error.contains(with_port) && error.contains(&format!("[{text}]")), "{error}");
            assert_eq!(format!("[{text}]").parse::<ServerAddress>().unwrap().host, text);
        }
        for address in ["2001:db8::1", "2001:db8::1:2", "2001:db8:1:2:3:4:5:8080", "fe80::abcd"] {
            assert_eq!(address.parse::<ServerAddress>().unwrap().host, address);
        }
    }

    #[test]
    fn a_name_beyond_ascii_is_shown_as_dns_has_it() {
        assert_eq!(ascii_form("Bücher"), Some("xn--bcher-kva".to_owned()));
        assert_eq!(ascii_form("例え.jp"), Some("xn--r8jz45g.jp".to_owned()));
        assert_eq!(ascii_form("plain"), None);
        for text in ["bücher.de", "bücher.de:8080"] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert!(error.contains("`xn--bcher-kva.de`"), "{error}");
        }
    }

    #[test]
    fn a_dns_name_is_lower_case_and_well_formed() {
        assert_eq!(dns_name("Tunnel.Example.com.").unwrap(), "tunnel.example.com");
        let long = format!("{}.com", "x".repeat(64));
        for bad in ["", ".", "a..b", "-a.com", "a-.com", "a_b.com", "https://a.com", "a.com:80", "bücher.de", &long] {
            assert!(dns_name(bad).is_err(), "{bad}");
        }
    }
}
