//! Asking a running server at its admin port, as the operator's tools do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::Failure;
use super::ask::{Connection, Head, PORT_BUSY, TRIES, from_here, is_closed, pause};
use crate::auth::{AdminNonce, AdminToken, AdminTokenError, NONCE_FIELD, PROOF_FIELD};
use crate::server::options::ServerOptions;

/// For all that is asked: connecting, the proof, every piece of a list.
const PATIENCE: Duration = Duration::from_secs(10);
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
    #[serde(default)]
    error: String,
    message: String,
}

/// A clients file that the server cannot use.
#[derive(Deserialize)]
struct Unusable {
    problems: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    key: String,
    message: String,
}

impl AdminPort {
    /// The port of the server with this configuration, and its token from the file.
    ///
    /// # Errors
    /// There is no such port, or the token cannot be read; the message says what to do.
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
        Ok(Self { address: from_here(address), token, token_file })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects to the server, which has to prove that it knows the token before it is shown it: anybody on the machine can
    /// listen there while it is down.
    ///
    /// # Errors
    /// It cannot be reached, or it is somebody else.
    pub(super) fn meet(&self) -> Result<Met<'_>, Failure> {
        let end = Instant::now() + PATIENCE;
        for _ in 1..TRIES {
            match self.try_to_meet(end) {
                // It needed the connection for another caller, or is restarting.
                Err(Unmet::Closed | Unmet::Busy(_)) => pause(),
                other => return other.map_err(|unmet| self.explain(unmet)),
            }
        }
        self.try_to_meet(end).map_err(|unmet| self.explain(unmet))
    }

    fn try_to_meet(&self, end: Instant) -> Result<Met<'_>, Unmet> {
        let connection = Connection::open(self.address, end).map_err(Unmet::Silent)?;
        let mut met = Met { port: self, connection };
        let nonce = AdminNonce::generate().map_err(|error| Unmet::Other(Failure::other(error)))?;
        let head = met.connection.get("/healthz", &[(NONCE_FIELD, &nonce.to_string())]);
        let answer = head.and_then(|head| met.connection.body(&head).map(|body| (head, body)));
        let (head, body) = answer.map_err(|error| match error.kind() {
            _ if is_closed(&error) => Unmet::Closed,
            io::ErrorKind::TimedOut => Unmet::Late,
            _ => Unmet::Stranger(format!(" ({error})")),
        })?;
        if head.field(PROOF_FIELD).is_some_and(|proof| nonce.is_proved(&self.token, self.address, proof)) {
            return Ok(met);
        }
        match serde_json::from_slice::<Refused>(&body) {
            // This answer is not authenticated, so no secret is sent to its sender.
            Ok(refused) if head.status == 503 && refused.error == PORT_BUSY => Err(Unmet::Busy(refused.message)),
            _ => Err(Unmet::Stranger(String::new())),
        }
    }

    fn explain(&self, unmet: Unmet) -> Failure {
        let (address, token_file) = (self.address, self.token_file.display());
        let not_sent = "the token was not sent";
        Failure::other(match unmet {
            Unmet::Other(failure) => return failure,
            Unmet::Silent(error) => return self.is_silent(&error),
            Unmet::Busy(message) => {
                let what: String = crate::values::harmless_line(&message).chars().take(200).collect();
                format!("the server at http://{address}/ (admin.listen) refuses the connection: {what}; {not_sent}")
            }
            Unmet::Closed => format!(
                "the program at http://{address}/ (admin.listen) closed the connection {TRIES} times before it \
                 answered: its admin port is busy, the server is stopping, or it is not the server; {not_sent}"
            ),
            Unmet::Late => format!(
                "the program at http://{address}/ (admin.listen) did not answer within {} s: the server is overloaded or \
                 stopped, or it is not the server; {not_sent}",
                PATIENCE.as_secs()
            ),
            Unmet::Stranger(why) => format!(
                "whoever listens at http://{address}/ (admin.listen) does not prove that it knows the admin token of \
                 {token_file}{why}: it is another program, another server, or one of an earlier version that is still \
                 running; {not_sent}"
            ),
        })
    }

    fn is_silent(&self, error: &io::Error) -> Failure {
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
enum Unmet {
    /// The connection failed.
    Silent(io::Error),
    /// The server answered that all of its connections are in use.
    Busy(String),
    /// It closed the connection without an answer.
    Closed,
    /// It did not answer in time.
    Late,
    /// Its answer does not prove that it knows the token; a detail for the message.
    Stranger(String),
    Other(Failure),
}

/// A server that has proved that it is the one which is meant.
pub(super) struct Met<'a> {
    port: &'a AdminPort,
    connection: Connection,
}

impl Met<'_> {
    /// How the server is.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn health(&mut self) -> Result<Health, Failure> {
        self.get("/healthz")
    }

    /// All agents that are connected.
    ///
    /// # Errors
    /// As [`Met::health`].
    pub(super) fn tunnels(&mut self) -> Result<Vec<Tunnel>, Failure> {
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

    /// Makes the server reload its clients file, and waits until it has applied it. Returns the problems of the file if the
    /// server cannot use it.
    ///
    /// # Errors
    /// As [`Met::health`].
    pub(super) fn reload_clients(&mut self) -> Result<Result<(), Vec<String>>, Failure> {
        const PATH: &str = "/api/v1/clients-file/reload";
        let (head, body) = self.ask("POST", PATH).map_err(|error| self.port.is_silent(&error))?;
        match head.status {
            200 => Ok(Ok(())),
            409 => {
                let refused: Unusable = serde_json::from_slice(&body).map_err(Failure::other)?;
                let line = |Problem { key, message }: Problem| match key.is_empty() {
                    true => message,
                    false => format!("{key}: {message}"),
                };
                Ok(Err(refused.problems.into_iter().map(line).collect()))
            }
            status => Err(self.refused(PATH, status, &body)),
        }
    }

    fn refused(&self, path: &str, status: u16, body: &[u8]) -> Failure {
        let said = serde_json::from_slice::<Refused>(body).map(|refused| refused.message).unwrap_or_default();
        Failure::other(format!("http://{}{path} answers {status}: {said}", self.port.address))
    }

    fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let url = format!("http://{}{path}", self.port.address);
        let (head, body) = self.ask("GET", path).map_err(|error| self.port.is_silent(&error))?;
        match head.status {
            200 => serde_json::from_slice(&body)
                .map_err(|error| Failure::other(format!("{url} is of another version than this program: {error}"))),
            status => Err(self.refused(path, status, &body)),
        }
    }

    fn ask(&mut self, method: &str, path: &str) -> io::Result<(Head, Vec<u8>)> {
        let bearer = Zeroizing::new(format!("Bearer {}", self.port.token.as_secret().expose()));
        let head = self.connection.ask(method, path, &[("Authorization", &bearer)])?;
        let body = self.connection.body(&head)?;
        Ok((head, body))
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
