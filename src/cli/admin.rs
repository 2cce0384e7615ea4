//! Asking a running server at its admin port, as the operator's tools do.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Failure;
use super::health::from_here;
use crate::auth::{AdminToken, AdminTokenError};
use crate::config::ServerConfig;

/// For one question: connecting, asking, the answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of an answer; a thousand agents take a few hundred KiB.
const MOST: usize = 16 * 1024 * 1024;
/// Pieces of a list, of a thousand entries each: more than there may be tunnels.
const MOST_PIECES: usize = 1001;

/// Where a server can be asked, and with what.
pub(super) struct AdminPort {
    address: SocketAddr,
    token: AdminToken,
    token_file: PathBuf,
}

/// An agent that is connected.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Tunnel {
    pub(super) client: String,
    pub(super) agent: String,
    pub(super) peer: String,
    pub(super) since: String,
    pub(super) state: String,
    pub(super) services: Vec<String>,
    pub(super) streams: usize,
}

/// What `/healthz` says.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Health {
    pub(super) status: String,
    pub(super) version: String,
    pub(super) uptime_s: u64,
    pub(super) tunnels: usize,
    pub(super) clients: usize,
    pub(super) problems: Vec<String>,
}

#[derive(Deserialize)]
struct Piece<T> {
    items: Vec<T>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Refused {
    message: String,
}

impl AdminPort {
    /// The port of the server with this configuration, and its token from the file.
    ///
    /// # Errors
    /// There is no such port, or the token cannot be read; the message says what to do.
    pub(super) fn of(config: &ServerConfig) -> Result<Self, Failure> {
        let address = config.admin.listen.ok_or_else(|| {
            Failure::other("the server has no admin port (admin.listen is \"off\"), so it cannot be asked")
        })?;
        if address.port() == 0 {
            return Err(Failure::other("admin.listen has the port 0, so it cannot be known here; name one"));
        }
        let token_file = config.admin.token_file.clone();
        let token = AdminToken::read(&token_file).map_err(|error| {
            let advice = match &error {
                AdminTokenError::File(error) if error.kind() == io::ErrorKind::NotFound => {
                    "; the server makes it when it starts: name its --config"
                }
                AdminTokenError::File(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    "; ask as the user that the server runs as, or as root"
                }
                _ => "",
            };
            Failure::other(format!("the admin token cannot be read: {error}{advice}"))
        })?;
        Ok(Self { address: from_here(address), token, token_file })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the server is.
    ///
    /// # Errors
    /// It cannot be reached, or does not answer.
    pub(super) fn health(&self) -> Result<Health, Failure> {
        self.get("/healthz")
    }

    /// All agents that are connected.
    ///
    /// # Errors
    /// As [`AdminPort::health`].
    pub(super) fn tunnels(&self) -> Result<Vec<Tunnel>, Failure> {
        let (mut all, mut after) = (Vec::new(), String::new());
        for _ in 0..MOST_PIECES {
            let piece: Piece<Tunnel> = self.get(&format!("/api/v1/tunnels?limit=1000{after}"))?;
            all.extend(piece.items);
            match piece.next {
                // An id is made of digits; what is not would be another request.
                Some(next) if next.bytes().all(|byte| byte.is_ascii_alphanumeric()) => after = format!("&after={next}"),
                _ => break,
            }
        }
        Ok(all)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let url = format!("http://{}{path}", self.address);
        let answer = self.ask(path).map_err(|error| {
            Failure::other(format!("the server does not answer at {url} (admin.listen): {error}; is it running?"))
        })?;
        let (status, body) = parts(&answer).ok_or_else(|| Failure::other(format!("{url} speaks no HTTP")))?;
        match status {
            "200" => serde_json::from_slice(body)
                .map_err(|error| Failure::other(format!("{url} is another program than this one's server: {error}"))),
            "401" => Err(Failure::other(format!(
                "{url} does not take the admin token of {}: is it another server's?",
                self.token_file.display()
            ))),
            status => {
                let said = serde_json::from_slice::<Refused>(body).map(|refused| refused.message).unwrap_or_default();
                Err(Failure::other(format!("{url} answers {status}: {said}")))
            }
        }
    }

    /// The whole answer.
    fn ask(&self, path: &str) -> io::Result<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        let left = || match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
            left => Ok(left),
        };
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_write_timeout(Some(left()?))?;
        let (address, token) = (self.address, self.token.as_secret().expose());
        let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n");
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        let (mut answer, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            stream.set_read_timeout(Some(left()?))?;
            match stream.read(&mut piece)? {
                0 => return Ok(answer),
                read => answer.extend_from_slice(&piece[..read]),
            }
            if answer.len() > MOST {
                return Err(io::Error::other("its answer is too long"));
            }
        }
    }
}

/// The status of an answer and its body, which has a length: the server knows it before it sends.
fn parts(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    Some((head.strip_prefix("HTTP/1.1 ")?.get(..3)?, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, Flags};

    fn port(admin: &str) -> Result<AdminPort, String> {
        let text = format!("[admin]\n{admin}");
        let config =
            ServerConfig::from_text(Path::new("/nowhere/s.toml"), &text, &Environment::default(), &Flags::new());
        AdminPort::of(&config.unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_keeps_from_asking_is_named() {
        let why = |admin: &str| port(admin).err().unwrap();
        assert!(why("listen = 'off'").contains("admin.listen is \"off\""));
        assert!(why("listen = '127.0.0.1:0'").contains("port 0"));
        let missing = why("token_file = 'no-such-token'");
        assert!(missing.contains("there is no /nowhere/no-such-token; the server makes it"), "{missing}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "secret").unwrap();
        let other = why(&format!("token_file = '{}'", file.display()));
        assert!(other.contains("holds no admin token") && !other.contains("secret"), "{other}");
    }

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        assert_eq!(parts(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}"), Some(("200", &b"{}"[..])));
        assert_eq!(parts(b"SSH-2.0-x\r\n\r\n"), None);
        assert_eq!(parts(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
