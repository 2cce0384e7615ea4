//! Serves a tower service of this process through a tunnel, without a local port and without the command line.
//!
//! ```no_run
//! # async fn example(router: axum::Router) -> Result<(), adit::sdk::Error> {
//! let tunnel = adit::sdk::Tunnel::connect("tunnel.example.com:8080", "alice", "adit_…").name("api").serve(router).await?;
//! println!("{}", tunnel.urls().join(" "));
//! tunnel.shutdown().await
//! # }
//! ```
//!
//! A tunnel is an [`Agent`]: it reconnects, moves between servers and drains as `adit agent` does. The service is any
//! [`tower_service::Service`] that takes an [`http::Request`] with a [`Body`], such as an axum router. It is cloned for each
//! request and runs in the task that serves the visitor: it is polled only as fast as the visitor reads, dropped when the
//! visitor leaves, and a panic ends one request with 502. WebSockets work as they do over HTTP/1.1.

use std::fmt;
use std::path::PathBuf;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::options::{AgentOptions, LocalUrl, Service};
use crate::agent::{Agent, InProcess, SetUpError};
pub use crate::agent::{Body, BoxError, GivenUp, State};
use crate::transport::tls::Trust;
use crate::values::{ClientId, Fingerprint, Name, Secret, ServerAddress};

/// Why a tunnel could not be started, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting of the [`Builder`] is not valid.
    #[error("{setting} is not valid: {why}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// TLS or the system's randomness cannot be used.
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    /// Every server has refused the login, or another agent has taken the name and the tunnel was not to stand by.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
    /// The tunnel's task has ended early.
    #[error("the tunnel ended: {0}")]
    Ended(String),
}

/// A tunnel before it is connected.
#[derive(Debug, Clone)]
pub struct Builder {
    servers: Vec<String>,
    client: String,
    token: Secret,
    name: Option<String>,
    ca: Option<PathBuf>,
    fingerprint: Option<String>,
}

impl Builder {
    /// Adds a server to try when those before it cannot be reached.
    #[must_use]
    pub fn or_server(mut self, server: impl Into<String>) -> Self {
        self.servers.push(server.into());
        self
    }

    /// Sets the public name. Defaults to the client's id.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Trusts the certificate authorities in a PEM file instead of the system's.
    #[must_use]
    pub fn ca(self, file: impl Into<PathBuf>) -> Self {
        Self { ca: Some(file.into()), ..self }
    }

    /// Trusts the authority whose key has this fingerprint (`sha256:…`), and no other.
    #[must_use]
    pub fn fingerprint(self, fingerprint: impl Into<String>) -> Self {
        Self { fingerprint: Some(fingerprint.into()), ..self }
    }

    /// Connects, and serves `service` until the tunnel is shut down or dropped. Returns when visitors can reach the
    /// service. A server that cannot be reached is retried without end; bound the wait with a timeout if that matters.
    ///
    /// # Errors
    /// A setting is not valid, TLS cannot be set up, or every server has refused the login.
    pub async fn serve<S, B>(self, service: S) -> Result<Tunnel, Error>
    where
        S: tower_service::Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let options = self.options()?;
        let services = options.services.iter().map(|offered| (offered.name.clone(), InProcess::new(service.clone())));
        let services: Vec<_> = services.collect();
        let agent = Agent::new(options)?.exiting_if_refused().with_in_process(services);
        let (state, stop) = (agent.state(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn({
            let stop = stop.clone();
            async move { agent.run(stop).await }
        });
        let mut tunnel = Tunnel { state, stop, task, urls: Vec::new() };
        tunnel.connected().await?;
        Ok(tunnel)
    }

    fn options(&self) -> Result<AgentOptions, Error> {
        let servers: Result<Vec<ServerAddress>, Error> =
            self.servers.iter().map(|server| valid("the server", server.parse())).collect();
        let client = valid("the client", ClientId::new(&self.client))?;
        let name = self.name.as_deref().unwrap_or(&self.client);
        let service = Service::new(valid("the name", Name::new(name))?, LocalUrl::in_process());
        let trust = match (&self.ca, &self.fingerprint) {
            (_, Some(text)) => Trust::Fingerprint(valid("the fingerprint", text.parse::<Fingerprint>())?),
            (Some(file), None) => Trust::CaFile(file.clone()),
            (None, None) => Trust::System,
        };
        Ok(AgentOptions { trust, ..AgentOptions::new(servers?, client, self.token.clone(), vec![service]) })
    }
}

fn valid<T, E: fmt::Display>(setting: &'static str, parsed: Result<T, E>) -> Result<T, Error> {
    parsed.map_err(|error| Error::Setting { setting, why: error.to_string() })
}

/// A connected tunnel. Dropping it closes the tunnel at once and aborts open requests; [`Tunnel::shutdown`] finishes them.
#[derive(Debug)]
pub struct Tunnel {
    state: watch::Receiver<State>,
    stop: CancellationToken,
    task: JoinSet<Result<(), GivenUp>>,
    urls: Vec<String>,
}

impl Tunnel {
    /// Starts to describe a tunnel to `server` (`host` or `host:port`), as `client` with its token.
    pub fn connect(server: impl Into<String>, client: impl Into<String>, token: impl Into<String>) -> Builder {
        Builder {
            servers: vec![server.into()],
            client: client.into(),
            token: Secret::new(token.into()),
            name: None,
            ca: None,
            fingerprint: None,
        }
    }

    /// Returns the public URLs, as the server reported them when the tunnel was connected first.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Follows the state of the tunnel: whether it is connected, standing by, or waiting to reconnect.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Ends the tunnel: accepts no new requests, and lets open ones finish for up to 30 s.
    ///
    /// # Errors
    /// The tunnel had given up before.
    pub async fn shutdown(mut self) -> Result<(), Error> {
        self.stop.cancel();
        self.joined().await
    }

    /// Waits until the tunnel ends by itself, which it does only for an error.
    ///
    /// # Errors
    /// Why the tunnel has ended.
    pub async fn ended(mut self) -> Result<(), Error> {
        self.joined().await
    }

    async fn connected(&mut self) -> Result<(), Error> {
        loop {
            match &*self.state.borrow_and_update() {
                State::Connected { services, .. } => {
                    self.urls = services.iter().flat_map(|service| service.public_urls.clone()).collect();
                    return Ok(());
                }
                State::Standby { .. } => return Ok(()),
                State::Connecting | State::Waiting { .. } | State::Finishing { .. } | State::Ended => {}
            }
            let changed = tokio::select! {
                joined = self.task.join_next() => return over(joined),
                changed = self.state.changed() => changed,
            };
            if changed.is_err() {
                return self.joined().await;
            }
        }
    }

    async fn joined(&mut self) -> Result<(), Error> {
        over(self.task.join_next().await)
    }
}

/// Returns how the tunnel's task has ended.
fn over(joined: Option<Result<Result<(), GivenUp>, tokio::task::JoinError>>) -> Result<(), Error> {
    match joined {
        Some(Ok(ended)) => ended.map_err(Error::from),
        Some(Err(error)) => Err(Error::Ended(error.to_string())),
        None => Ok(()),
    }
}
