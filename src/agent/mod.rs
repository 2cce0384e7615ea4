//! The home side: dials out, logs in, and answers what visitors ask for with the local application.
//!
//! [`Agent::run`] keeps one tunnel up until it is told to stop or refused for good. [`connector`] dials and logs in,
//! [`backoff`] says when to try again, [`tunnel`] keeps the lanes of one login, `handler` takes a stream to the local
//! application, and `local` speaks to that.

pub mod backoff;
pub mod connector;
mod handler;
mod local;
pub mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{AgentConfig, ServerAddress};
use crate::protocol::login::{Proof, PublicService, Refusal, Refused};
use crate::transport::tls::{self, TlsError};
use crate::values::{InstanceId, Secret};
use backoff::Backoff;
use connector::{ConnectError, Connector};
use local::LocalTls;
use tunnel::{Ended, Tunnel};

/// How an agent is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Dialling a server.
    Connecting,
    /// Visitors can come.
    Connected {
        /// The server it is connected to.
        server: String,
        /// What is offered, and where visitors reach it.
        services: Vec<PublicService>,
        /// How many lanes are up.
        lanes: usize,
    },
    /// Waiting before the next attempt.
    Waiting {
        /// What went wrong, and what to do.
        why: String,
        /// How long it waits.
        retry_in: Duration,
    },
    /// Done, one way or the other.
    Ended,
}

/// Why an agent gave up for good (exit code 77).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GivenUp {
    /// The server will not have it, and would not next time either.
    #[error("{server} refused the login ({}): {message}", .code.word())]
    Refused {
        /// Which server.
        server: String,
        /// The stable word.
        code: Refusal,
        /// What is wrong and what to do.
        message: String,
    },
    /// A newer login has taken over the name.
    #[error("replaced: {by} has logged in with the same name; two agents need two names (--name) or run only one")]
    Replaced {
        /// What program has.
        by: String,
    },
}

/// Why an agent could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The CA file or the system's roots cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system has no randomness.
    #[error("the system has no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// An agent. It does nothing until it runs.
#[derive(Debug)]
pub struct Agent {
    config: Arc<AgentConfig>,
    connector: Connector,
    /// TLS to local applications.
    local_tls: LocalTls,
    state: watch::Sender<State>,
    /// Lets it back in without the token being checked. Kept in memory only.
    ticket: Arc<Mutex<Option<Secret>>>,
}

impl Agent {
    /// Prepares everything that can fail, so that running only ends for a reason.
    ///
    /// # Errors
    /// The trust settings cannot be used.
    pub fn new(config: AgentConfig) -> Result<Self, SetUpError> {
        let config = Arc::new(config);
        let tls = tls::client(&config.trust)?;
        Ok(Self {
            local_tls: local::prepare_tls(&config.services)?,
            connector: Connector::new(Arc::clone(&config), tls, InstanceId::random()?),
            config,
            state: watch::Sender::new(State::Connecting),
            ticket: Arc::default(),
        })
    }

    /// How it is doing, for whoever wants to show it.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Keeps a tunnel up until `stop`, then lets open requests finish.
    ///
    /// # Errors
    /// It was refused for good, or replaced.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), GivenUp> {
        let result = tokio::select! {
            biased;
            result = self.keep_connected(&stop) => result,
            () = self.stopped_while_waiting(&stop) => Ok(()),
        };
        self.state.send_replace(State::Ended);
        result
    }

    /// Resolves on `stop` only while no tunnel is up; a tunnel that is up drains by itself.
    async fn stopped_while_waiting(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        let mut state = self.state.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let _ = state.wait_for(|state| !matches!(state, State::Connected { .. })).await;
    }

    async fn keep_connected(&self, stop: &CancellationToken) -> Result<(), GivenUp> {
        let mut backoff = Backoff::new();
        loop {
            let mut why = String::new();
            let mut retry_after = Duration::ZERO;
            for server in &self.config.servers {
                self.state.send_replace(State::Connecting);
                match self.connect(server).await {
                    Ok(tunnel) => {
                        let up_since = Instant::now();
                        match tunnel.serve(stop).await {
                            Ended::Stopped => return Ok(()),
                            Ended::Replaced { by } => return Err(GivenUp::Replaced { by }),
                            Ended::Lost(reason) => {
                                tracing::warn!(%server, "lost the connection: {reason}");
                                why = format!("lost the connection to {server}: {reason}");
                                backoff.lost(up_since.elapsed());
                            }
                        }
                        // The first server of the list is the one to be at.
                        break;
                    }
                    Err(ConnectError::Refused(Refused { code, message, .. })) if !code.may_retry() => {
                        return Err(GivenUp::Refused { server: server.to_string(), code, message });
                    }
                    Err(error) => {
                        tracing::warn!(%server, "cannot connect: {error}");
                        why = format!("{server}: {error}");
                        retry_after = error.retry_after();
                    }
                }
            }
            let retry_in = backoff.next_delay().max(retry_after);
            tracing::info!("trying again in {:.1} s", retry_in.as_secs_f64());
            self.state.send_replace(State::Waiting { why, retry_in });
            tokio::time::sleep(retry_in).await;
        }
    }

    async fn connect(&self, server: &ServerAddress) -> Result<Tunnel<'_>, ConnectError> {
        let ticket = self.ticket.lock().clone();
        if let Some(ticket) = ticket {
            match self.connector.log_in(server, Some(Proof::Ticket(ticket)), None).await {
                // The ticket has expired, or was for another server: the token decides.
                Err(ConnectError::Refused(Refused { code: Refusal::BadToken, .. })) => {
                    *self.ticket.lock() = None;
                }
                Ok(login) => return Ok(self.tunnel(server, login)),
                Err(error) => return Err(error),
            }
        }
        let token = Proof::Token(self.config.token.clone());
        let login = self.connector.log_in(server, Some(token), None).await?;
        Ok(self.tunnel(server, login))
    }

    fn tunnel(&self, server: &ServerAddress, login: connector::LoggedIn) -> Tunnel<'_> {
        *self.ticket.lock() = Some(login.welcome.ticket.clone());
        Tunnel::new(self, server.clone(), login)
    }
}
