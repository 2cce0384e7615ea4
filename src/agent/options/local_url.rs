//! Where a local application listens, as people write it.

use std::path::PathBuf;
use std::str::FromStr;

use crate::values::{ServerAddress, read_port, split_host_port};

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
    /// A service in this process, by the name of the tunnel's service. No configuration names it.
    InProcess,
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
    /// Returns the address of a service in this process.
    pub fn in_process() -> Self {
        Self { scheme: None, place: Place::InProcess, text: "this process".to_owned() }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
