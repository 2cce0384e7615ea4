//! Hosts and ports as people write them.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

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

/// How a local application is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalScheme {
    /// HTTP/1.1.
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113, section 3.3).
    H2c,
    /// Whatever it is.
    Tcp,
}

/// Where a local application listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// A TCP port.
    Tcp {
        /// A host name in lower case or an IP address, the latter without brackets.
        host: String,
        /// The port; never 0.
        port: u16,
    },
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
}

/// Where an agent finds a local application: a port, `host:port`, `http://host[:port]` (`https`, `h2c` and `tcp` too), or
/// `unix:/path`.
///
/// A port alone means `localhost`, which reaches applications on 127.0.0.1 and on ::1 alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalUrl {
    /// How it is spoken to, if that was said.
    pub scheme: Option<LocalScheme>,
    /// Where it listens.
    pub place: Place,
    /// As it was written, for messages.
    pub text: String,
}

impl LocalUrl {
    /// How it is spoken to: by HTTP/1.1 unless something else was said.
    pub fn scheme(&self) -> LocalScheme {
        self.scheme.unwrap_or(LocalScheme::Http)
    }

    /// `host:port`, with brackets around an IPv6 address. Behind a Unix socket is `localhost`.
    pub fn host_and_port(&self) -> String {
        let Place::Tcp { host, port } = &self.place else { return "localhost".to_owned() };
        ServerAddress { host: host.clone(), port: *port }.to_string()
    }

    /// As it was written, for messages; a port alone with its host.
    pub fn shown(&self) -> String {
        match (self.scheme, &self.place) {
            (None, Place::Tcp { .. }) => self.host_and_port(),
            _ => self.text.clone(),
        }
    }

    /// `host:port`, with brackets around an IPv6 address, as a `Host` header has it (RFC 9110, section 7.2). The port is
    /// left out when it is the scheme's own. Behind a Unix socket is `localhost`.
    pub fn authority(&self) -> String {
        let Place::Tcp { host, port } = &self.place else { return "localhost".to_owned() };
        let own_port = if self.scheme == Some(LocalScheme::Https) { 443 } else { 80 };
        match (*port == own_port, host.contains(':')) {
            (true, false) => host.clone(),
            (true, true) => format!("[{host}]"),
            _ => ServerAddress { host: host.clone(), port: *port }.to_string(),
        }
    }
}

impl FromStr for LocalUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local = |scheme, place| Self { scheme, place, text: text.to_owned() };
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(local(None, Place::Tcp { host: "localhost".to_owned(), port: read_port(text)? }));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(local(None, Place::Unix(path.into()))),
                false => Err(format!("`{text}` must name the socket by its whole path, like unix:/run/app.sock")),
            };
        }
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) => (Some(read_scheme(scheme)?), rest),
        };
        if rest.contains('@') {
            return Err("must not contain a user name or password; write http://host:port".to_owned());
        }
        let rest = if scheme.is_some() { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
        if rest.contains(['/', '?', '#']) {
            return Err(format!("`{text}` has a path; requests keep their own, so write only http://host:port"));
        }
        let (host, port) = split_host_port(rest)?;
        let port = match (port, scheme) {
            (Some(port), _) => port,
            (None, Some(LocalScheme::Http | LocalScheme::H2c)) => 80,
            (None, Some(LocalScheme::Https)) => 443,
            (None, Some(LocalScheme::Tcp)) => return Err(format!("`{text}` has no port; write tcp://host:port")),
            (None, None) => {
                return Err(format!("`{text}` has no port; write a port like 3000, host:port or http://host:port"));
            }
        };
        Ok(local(scheme, Place::Tcp { host, port }))
    }
}

fn read_scheme(text: &str) -> Result<LocalScheme, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "http" => LocalScheme::Http,
        "https" => LocalScheme::Https,
        "h2c" => LocalScheme::H2c,
        "tcp" => LocalScheme::Tcp,
        _ => return Err(format!("`{text}://` is not supported; use http://, https://, h2c://, tcp:// or unix:")),
    })
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
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
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

fn read_port(text: &str) -> Result<u16, String> {
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
    dns_name(&text.replace('_', "-"))
        .map(|_| text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())
        .map_err(|_| format!("`{text}` is not a host; write a name like tunnel.example.com or an IP address"))
}

/// Checks a DNS name in its preferred form (RFC 1123, section 2.1) and returns it in lower case, without a final dot.
pub(crate) fn dns_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if !name.is_ascii() {
        return Err(format!("`{text}` has letters beyond ASCII; write it in its xn-- form"));
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
    fn a_local_application_is_a_port_an_address_or_a_url() {
        use LocalScheme::{H2c, Http, Https, Tcp};
        for (text, scheme, host, port, authority) in [
            ("3000", None, "localhost", 3000, "localhost:3000"),
            ("127.0.0.1:3000", None, "127.0.0.1", 3000, "127.0.0.1:3000"),
            ("HTTP://App:81/", Some(Http), "app", 81, "app:81"),
            ("http://app", Some(Http), "app", 80, "app"),
            ("http://[::1]", Some(Http), "::1", 80, "[::1]"),
            ("[::1]:5173", None, "::1", 5173, "[::1]:5173"),
            ("https://app", Some(Https), "app", 443, "app"),
            ("https://app:80", Some(Https), "app", 80, "app:80"),
            ("h2c://127.0.0.1:50051", Some(H2c), "127.0.0.1", 50051, "127.0.0.1:50051"),
            ("tcp://db:5432", Some(Tcp), "db", 5432, "db:5432"),
        ] {
            let local: LocalUrl = text.parse().unwrap();
            assert_eq!((local.scheme, local.text.as_str()), (scheme, text));
            assert_eq!(local.place, Place::Tcp { host: host.to_owned(), port }, "{text}");
            assert_eq!(local.authority(), authority);
        }
        for text in ["unix:/run/app.sock", "unix:///run/app.sock"] {
            let local: LocalUrl = text.parse().unwrap();
            assert_eq!(local.place, Place::Unix("/run/app.sock".into()));
            assert_eq!((local.scheme(), local.authority().as_str()), (Http, "localhost"));
        }
        for (bad, says) in [
            ("", "not a host"),
            ("0", "1 to 65535"),
            ("70000", "1 to 65535"),
            ("localhost", "has no port"),
            ("tcp://localhost", "has no port"),
            ("unix:app.sock", "whole path"),
            ("ftp://localhost", "use http://"),
            ("http://localhost:3000/app", "has a path"),
            ("localhost:3000/", "has a path"),
            ("http://me:hunter2@localhost", "password"),
        ] {
            let message = bad.parse::<LocalUrl>().unwrap_err();
            assert!(message.contains(says) && !message.contains("hunter2"), "{bad}: {message}");
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
