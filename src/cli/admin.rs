//! A client for the admin port of a running server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::Failure;
use super::http::{ATTEMPTS, Connection, PORT_BUSY, is_closed, local_address, pause};
use crate::auth::{AdminNonce, AdminToken, AdminTokenError, NONCE_FIELD, PROOF_FIELD};
use crate::server::options::ServerOptions;

/// The deadline for all of it: connecting, the proof, every page of a list.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of pages of a list. Each has a thousand entries, so this is more than there may be tunnels.
const MAX_PAGES: usize = 1001;

/// The admin port of a server, and the token for it.
pub(super) struct AdminPort {
    address: SocketAddr,
    token: AdminToken,
    token_file: PathBuf,
}

/// A connected agent.
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

/// The response of `/healthz`.
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
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(default)]
    error: String,
    message: String,
}

/// The response to a reload if the server cannot use its clients file.
#[derive(Deserialize)]
struct UnusableFile {
    problems: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    key: String,
    message: String,
}

impl AdminPort {
    /// Returns the admin port of the server with this configuration, and reads the token.
    ///
    /// # Errors
    /// There is no admin port, or the token cannot be read. The message says what to do.
    pub(super) fn of(config: &ServerOptions) -> Result<Self, Failure> {
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
                    "; the server makes it at its first start. Is it another one than the running server's? It is \
                     `admin.token_file`, otherwise `admin-token` in `tunnel.tls.dir`: name the server's --config, and \
                     what its unit sets (like ADIT__TUNNEL__TLS__DIR)"
                }
                AdminTokenError::File(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    "; ask as the user that the server runs as, or as root"
                }
                _ => "",
            };
            Failure::other(format!("the admin token cannot be read: {error}{advice}"))
        })?;
        Ok(Self { address: local_address(address), token, token_file })
    }

    /// Returns its address.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects to the server. The server has to prove that it knows the token before the token is sent, because any program
    /// on this machine can listen on the port while the server is down.
    ///
    /// # Errors
    /// The server cannot be reached, or another program listens there.
    pub(super) fn connect(&self) -> Result<AdminClient<'_>, Failure> {
        let deadline = Instant::now() + TIMEOUT;
        for _ in 1..ATTEMPTS {
            match self.try_connect(deadline) {
                // It closed the connection to make room for another caller, or is restarting.
                Err(ConnectError::Closed | ConnectError::Busy(_)) => pause(),
                other => return other.map_err(|error| self.explain(error)),
            }
        }
        self.try_connect(deadline).map_err(|error| self.explain(error))
    }

    fn try_connect(&self, deadline: Instant) -> Result<AdminClient<'_>, ConnectError> {
        let mut connection = Connection::open(self.address, deadline).map_err(ConnectError::Unreachable)?;
        let nonce = AdminNonce::generate().map_err(|error| ConnectError::Other(Failure::other(error)))?;
        let failed = |error: io::Error| match error.kind() {
            _ if is_closed(&error) => ConnectError::Closed,
            io::ErrorKind::TimedOut => ConnectError::Timeout,
            _ => ConnectError::Unproved(format!(" ({error})")),
        };
        let response = connection.get("/healthz", &[(NONCE_FIELD, &nonce.to_string())]).map_err(failed)?;
        let status = response.status;
        let proof = response.field(PROOF_FIELD);
        let is_proved = proof.is_some_and(|proof| nonce.is_proved(&self.token, self.address, proof));
        let body = connection.body(response).map_err(failed)?;
        if is_proved {
            return Ok(AdminClient { port: self, connection });
        }
        match serde_json::from_slice::<Refused>(&body) {
            // This response is not authenticated, so no secret is sent to its sender.
            Ok(refused) if status == 503 && refused.error == PORT_BUSY => Err(ConnectError::Busy(refused.message)),
            _ => Err(ConnectError::Unproved(String::new())),
        }
    }

    fn explain(&self, error: ConnectError) -> Failure {
        let (address, token_file) = (self.address, self.token_file.display());
        let not_sent = "the token was not sent";
        Failure::other(match error {
            ConnectError::Other(failure) => return failure,
            ConnectError::Unreachable(error) => return self.unreachable(&error),
            ConnectError::Busy(message) => {
                let what: String = crate::values::harmless_line(&message).chars().take(200).collect();
                format!("the server at http://{address}/ (admin.listen) refuses the connection: {what}; {not_sent}")
            }
            ConnectError::Closed => format!(
                "the program at http://{address}/ (admin.listen) closed the connection {ATTEMPTS} times before it \
                 answered: its admin port is busy, the server is stopping, or it is not the server; {not_sent}"
            ),
            ConnectError::Timeout => format!(
                "the program at http://{address}/ (admin.listen) did not answer within {} s: the server is overloaded or \
                 stopped, or it is not the server; {not_sent}",
                TIMEOUT.as_secs()
            ),
            ConnectError::Unproved(why) => format!(
                "whoever listens at http://{address}/ (admin.listen) does not prove that it knows the admin token of \
                 {token_file}{why}: it is another program, another server, or one of an earlier version that is still \
                 running; {not_sent}"
            ),
        })
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let advice = match error.kind() {
            _ if is_closed(error) => "it is stopping, or its admin port is busy with other connections",
            io::ErrorKind::TimedOut => "it is overloaded or stopped",
            _ => "is it running?",
        };
        Failure::other(format!(
            "the server does not answer at http://{}/ (admin.listen): {error}; {advice}",
            self.address
        ))
    }
}

/// Why the server could not be reached and authenticated.
enum ConnectError {
    /// The connection failed.
    Unreachable(io::Error),
    /// The server responded that all of its connections are in use.
    Busy(String),
    /// It closed the connection without a response.
    Closed,
    /// It did not respond in time.
    Timeout,
    /// Its response does not prove that it knows the token. With a detail for the message.
    Unproved(String),
    Other(Failure),
}

/// A connection to a server that has proved that it knows the token.
pub(super) struct AdminClient<'a> {
    port: &'a AdminPort,
    connection: Connection,
}

impl AdminClient<'_> {
    /// Returns the health of the server.
    ///
    /// # Errors
    /// It does not respond, or with an error.
    pub(super) fn health(&mut self) -> Result<Health, Failure> {
        self.get("/healthz")
    }

    /// Returns all connected agents.
    ///
    /// # Errors
    /// As [`AdminClient::health`].
    pub(super) fn tunnels(&mut self) -> Result<Vec<Tunnel>, Failure> {
        let (mut all, mut after) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let page: Page<Tunnel> = self.get(&format!("/api/v1/tunnels?limit=1000{after}"))?;
            all.extend(page.items);
            match page.next {
                // An id consists of letters and digits. Anything else could alter the request.
                Some(next) if next.bytes().all(|byte| byte.is_ascii_alphanumeric()) => after = format!("&after={next}"),
                _ => break,
            }
        }
        Ok(all)
    }

    /// Makes the server reload its clients file, and waits until it has applied it. Returns the problems of the file if the
    /// server cannot use it.
    ///
    /// # Errors
    /// As [`AdminClient::health`].
    pub(super) fn reload_clients(&mut self) -> Result<Result<(), Vec<String>>, Failure> {
        const PATH: &str = "/api/v1/clients-file/reload";
        let (status, body) = self.request(Method::POST, PATH).map_err(|error| self.port.unreachable(&error))?;
        match status {
            200 => Ok(Ok(())),
            409 => {
                let refused: UnusableFile = serde_json::from_slice(&body).map_err(Failure::other)?;
                let line = |Problem { key, message }: Problem| {
                    if key.is_empty() { message } else { format!("{key}: {message}") }
                };
                Ok(Err(refused.problems.into_iter().map(line).collect()))
            }
            status => Err(self.refused(PATH, status, &body)),
        }
    }

    fn refused(&self, path: &str, status: u16, body: &[u8]) -> Failure {
        let message = serde_json::from_slice::<Refused>(body).map(|refused| refused.message).unwrap_or_default();
        Failure::other(format!("http://{}{path} answers {status}: {message}", self.port.address))
    }

    fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let url = format!("http://{}{path}", self.port.address);
        let (status, body) = self.request(Method::GET, path).map_err(|error| self.port.unreachable(&error))?;
        match status {
            200 => serde_json::from_slice(&body)
                .map_err(|error| Failure::other(format!("{url} is of another version than this program: {error}"))),
            status => Err(self.refused(path, status, &body)),
        }
    }

    /// Sends a request with the token. Returns status and body of the response.
    fn request(&mut self, method: Method, path: &str) -> io::Result<(u16, Bytes)> {
        let bearer = Zeroizing::new(format!("Bearer {}", self.port.token.as_secret().expose()));
        let response = self.connection.request(method, path, &[("Authorization", &bearer)])?;
        let status = response.status;
        Ok((status, self.connection.body(response)?))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::schema::{Environment, Flags};

    fn port(admin: &str) -> Result<AdminPort, String> {
        let text = format!("[admin]\n{admin}");
        let config =
            ServerOptions::from_text(Path::new("/nowhere/s.toml"), &text, &Environment::default(), &Flags::new());
        AdminPort::of(&config.unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_keeps_from_asking_is_named() {
        let why = |admin: &str| port(admin).err().unwrap();
        assert!(why("listen = 'off'").contains("admin.listen is \"off\""));
        assert!(why("listen = '127.0.0.1:0'").contains("port 0"));
        let missing = why("token_file = 'no-such-token'");
        assert!(missing.contains("there is no /nowhere/no-such-token; the server makes it"), "{missing}");
        for key in ["admin.token_file", "tunnel.tls.dir", "ADIT__TUNNEL__TLS__DIR"] {
            assert!(missing.contains(key), "{missing}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "secret").unwrap();
        let other = why(&format!("token_file = '{}'", file.display()));
        assert!(other.contains("holds no admin token") && !other.contains("secret"), "{other}");
    }
}
