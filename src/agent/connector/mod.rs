//! Dials a server and logs in.

pub(in crate::agent) mod login;
pub(in crate::agent) mod standby;
pub(in crate::agent) mod tickets;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service as _;

use crate::agent::backend::local::dial::io_error_of;
use crate::link::handshake::{MessageError, receive_answer, send};
use crate::protocol::VERSION;
use crate::protocol::login::{
    AgentInfo, Answer, Compatibility, Hello, Join, Known, Proof, Refusal, Refused, ServiceOffer, Welcome,
};
use crate::protocol::requirements::required_by;
use crate::protocol::standby::STANDBY;
use crate::transport::tls::explain_handshake;
use crate::values::ServerAddress;
use crate::values::{ClientId, InstanceId, Name, Secret, harmless_line, unix_now};

/// For the TCP connection, and again for TLS and login.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a server could not be logged in to. Each message says what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("{}", explain_dial(.0))]
    Dial(io::Error),
    /// The TLS handshake failed: wrong port, wrong CA, wrong name.
    #[error("{}", explain_handshake(.0))]
    Tls(io::Error),
    /// The name cannot be in a certificate.
    #[error("`{0}` is not a host name")]
    Name(String),
    /// The server did not answer in time.
    #[error("the server did not answer within {} s", DEADLINE.as_secs())]
    Silent,
    /// The connection broke during the login.
    #[error("the login broke off: {0}")]
    Login(#[from] MessageError),
    /// A tunnel where none was asked for, or none where one was.
    #[error("the server answered another question than it was asked; are both sides of the same version?")]
    Unasked,
    /// The server said no.
    #[error("refused ({}): {}", .0.code.word(), .0.message)]
    Refused(Refused),
}

impl ConnectError {
    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(refused) => Duration::from_secs(refused.retry_after_s.unwrap_or(0).min(3600)),
            _ => Duration::ZERO,
        }
    }
}

/// Adds to a refusal with `version` which side to upgrade. Servers that predate words like `access.allow` do not say that.
fn say_which_side_to_upgrade(refused: &mut Refused, required: &[String]) {
    if refused.code != Refusal::Version || refused.message.contains("upgrade the ") {
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let advice = match required {
        [] => "upgrade the older one of server and agent".to_owned(),
        required if required.iter().any(|word| word == STANDBY) => {
            "this agent stands by because another agent of yours was started later and has its names; this server does not \
             support that and would take the names from the other agent: upgrade the server, or stop the other agent and \
             restart this one"
                .to_owned()
        }
        required => format!(
            "the services need {}, which a server must support to keep unwanted visitors out: upgrade the server to the \
             version of this agent ({version}) or later",
            required.join(", ")
        ),
    };
    refused.message = format!("{}; {advice}", refused.message);
}

fn explain_dial(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused: nothing listens there; is the server running, and is this its tunnel port (8080 by default)?".to_owned()
        }
        io::ErrorKind::TimedOut => {
            "no answer: is the address right, and does the server's firewall let the tunnel port through?".to_owned()
        }
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            format!("no way there: {error}; is this machine online?")
        }
        // Names are looked up by the system, which has no kind of its own for what it does not find.
        _ if error.to_string().contains("lookup") => {
            format!("cannot find the server's address: {error}; is the name right, and is this machine online?")
        }
        _ => format!("cannot connect: {error}"),
    }
}

/// A connection that is logged in, and what the server said.
#[derive(Debug)]
pub struct LoggedIn {
    /// The connection; the multiplexer comes next.
    pub pipe: TlsStream<TcpStream>,
    /// What the server said.
    pub welcome: Welcome,
}

/// Dials and logs in, always as the same instance of the same client.
#[derive(Clone)]
pub struct Connector {
    client: ClientId,
    dialler: HttpConnector,
    tls: TlsConnector,
    instance: InstanceId,
    /// The host name of this machine.
    host: Option<String>,
}

/// The credentials and names of a login.
#[derive(Debug)]
pub struct LoginAs {
    /// The client's token, or a ticket from the server.
    pub proof: Proof,
    /// With a token: an invalid ticket, which still says when the agent was started.
    pub start: Option<Secret>,
    /// The names for which the agent stands by.
    pub waits_for: Vec<Name>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({} as {})", self.instance, self.client)
    }
}

impl Connector {
    /// Logs in as `client`, with servers that `tls` takes for the right ones.
    pub fn new(client: ClientId, tls: Arc<ClientConfig>, instance: InstanceId) -> Self {
        let mut dialler = HttpConnector::new();
        dialler.set_connect_timeout(Some(DEADLINE));
        dialler.set_nodelay(true);
        Self { client, dialler, tls: TlsConnector::from(tls), instance, host: standby::this_host() }
    }

    /// The same, as another instance: its tunnels take names over from this one's instead of ending them.
    pub fn as_another(&self, instance: InstanceId) -> Self {
        Self { instance, ..self.clone() }
    }

    /// Dials `server` and logs in for a tunnel with `services`, as `login` says.
    ///
    /// # Errors
    /// The server cannot be reached, is not who it should be, or says no.
    pub async fn log_in(
        &self,
        server: &ServerAddress,
        login: LoginAs,
        services: Vec<ServiceOffer>,
    ) -> Result<LoggedIn, ConnectError> {
        let LoginAs { proof, start, waits_for } = login;
        let mut hello = self.hello(Some(proof), services, None);
        hello.compatibility.required.extend(standby::required_for(&waits_for, hello.services.len()));
        (hello.start, hello.standby) = (start, waits_for);
        standby::trim_to_fit(&mut hello);
        self.welcomed(server, hello).await
    }

    /// Dials `server` for a further lane of the tunnel that `services` are offered on.
    ///
    /// # Errors
    /// As for [`Connector::log_in`].
    pub async fn join(
        &self,
        server: &ServerAddress,
        join: Join,
        services: Vec<ServiceOffer>,
    ) -> Result<LoggedIn, ConnectError> {
        self.welcomed(server, self.hello(None, services, Some(join))).await
    }

    /// Asks `server` whether `proof` is good, without a tunnel.
    ///
    /// # Errors
    /// As for [`Connector::log_in`].
    pub async fn ask(&self, server: &ServerAddress, proof: Proof) -> Result<Known, ConnectError> {
        match self.exchange(server, self.hello(Some(proof), Vec::new(), None)).await? {
            (_, Answer::Known(known)) => Ok(known),
            (_, Answer::Welcome(_)) => Err(ConnectError::Unasked),
            (_, Answer::Refused(refused)) => Err(ConnectError::Refused(refused)),
        }
    }

    /// Dials `server` and makes sure of it, without a word of who is asking.
    ///
    /// # Errors
    /// The server cannot be reached, or is not who it should be.
    pub async fn reach(&self, server: &ServerAddress) -> Result<(), ConnectError> {
        let socket = self.dial(server).await?;
        let pipe = tokio::time::timeout(DEADLINE, self.secure(server, socket)).await;
        pipe.map_err(|_| ConnectError::Silent)?.map(drop)
    }

    async fn welcomed(&self, server: &ServerAddress, hello: Hello) -> Result<LoggedIn, ConnectError> {
        match self.exchange(server, hello).await? {
            (pipe, Answer::Welcome(welcome)) => Ok(LoggedIn { pipe, welcome }),
            (_, Answer::Known(_)) => Err(ConnectError::Unasked),
            (_, Answer::Refused(refused)) => Err(ConnectError::Refused(refused)),
        }
    }

    async fn exchange(
        &self,
        server: &ServerAddress,
        hello: Hello,
    ) -> Result<(TlsStream<TcpStream>, Answer), ConnectError> {
        let socket = self.dial(server).await?;
        let required = hello.compatibility.required.clone();
        let login = self.greet(server, socket, hello);
        let (pipe, mut answer) = tokio::time::timeout(DEADLINE, login).await.map_err(|_| ConnectError::Silent)??;
        if let Answer::Refused(refused) = &mut answer {
            // It is printed between lines of the agent's own.
            refused.message = harmless_line(&refused.message).into_owned();
            say_which_side_to_upgrade(refused, &required);
        }
        Ok((pipe, answer))
    }

    /// Tries all addresses of the server, IPv4 beside IPv6 (RFC 8305): one that leads nowhere must not hide the others.
    async fn dial(&self, server: &ServerAddress) -> Result<TcpStream, ConnectError> {
        let uri = Uri::builder().scheme("http").authority(server.to_string()).path_and_query("/").build();
        let uri = uri.map_err(|_| ConnectError::Name(server.host.clone()))?;
        let dialled = self.dialler.clone().call(uri);
        let dialled = tokio::time::timeout(DEADLINE * 2, dialled).await.map_err(|_| ConnectError::Silent)?;
        dialled.map(TokioIo::into_inner).map_err(|error| ConnectError::Dial(io_error_of(&error)))
    }

    async fn secure(&self, server: &ServerAddress, socket: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
        let name = ServerName::try_from(server.host.clone()).map_err(|_| ConnectError::Name(server.host.clone()))?;
        self.tls.connect(name, socket).await.map_err(ConnectError::Tls)
    }

    async fn greet(
        &self,
        server: &ServerAddress,
        socket: TcpStream,
        hello: Hello,
    ) -> Result<(TlsStream<TcpStream>, Answer), ConnectError> {
        let mut pipe = self.secure(server, socket).await?;
        send(&mut pipe, &hello).await?;
        let answer = receive_answer(&mut pipe).await?;
        Ok((pipe, answer))
    }

    fn hello(&self, proof: Option<Proof>, services: Vec<ServiceOffer>, join: Option<Join>) -> Hello {
        Hello {
            compatibility: Compatibility {
                protocol: VERSION,
                capabilities: vec![STANDBY.to_owned()],
                required: required_by(&services),
            },
            client_id: self.client.clone(),
            instance_id: self.instance,
            proof,
            start: None,
            standby: Vec::new(),
            timestamp: unix_now(),
            agent: AgentInfo {
                name: "adit".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                os: std::env::consts::OS.to_owned(),
                host: self.host.clone(),
            },
            services,
            join,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_because_of_the_version_says_which_side_to_upgrade() {
        let told = |code, message: &str, required: &[&str]| {
            let mut refused = Refused::new(code, message);
            let required: Vec<String> = required.iter().map(|word| (*word).to_owned()).collect();
            say_which_side_to_upgrade(&mut refused, &required);
            refused.message
        };
        let old = "the server lacks `access.deny`, which the agent requires";
        let text = told(Refusal::Version, old, &["access.deny", "access.header"]);
        assert!(text.starts_with(old) && text.contains("need access.deny, access.header,"), "{text}");
        assert!(text.contains("upgrade the server"), "{text}");
        let text = told(Refusal::Version, "the server lacks `standby`, which the agent requires", &["standby"]);
        assert!(text.contains("this agent stands by") && text.contains("upgrade the server"), "{text}");
        assert!(told(Refusal::Version, "version 1, not 2", &[]).contains("upgrade the older one"));
        let new = "the server (adit 9) lacks `x`, which the agent requires; upgrade the server";
        assert_eq!(told(Refusal::Version, new, &["x"]), new, "it has said so");
        assert_eq!(told(Refusal::NotAllowed, "no", &["x"]), "no");
    }
}
