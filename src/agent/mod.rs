//! The home side: dials out, logs in, and answers what visitors ask for with the backends of its services.
//!
//! [`Agent::run`] keeps one tunnel up until it is told to stop.
//!
//! | module | contents |
//! | --- | --- |
//! | `connection_loop` | tries the servers and reconnects; `retry` says when |
//! | [`connector`] | dials and logs in; `tickets` and `standby` are what it remembers |
//! | `tunnel` | the tunnel of one login, its lanes, and changes of its services |
//! | `handler` | serves a stream: the preface, then HTTP or a raw connection |
//! | `routes` | from a service and a request to a backend |
//! | `backend` | local applications, and tower services in this process |
//! | [`ServiceChanges`] | changes the services while the agent runs |
//! | `probe` | checks once whether the applications are there |

mod backend;
mod connection_loop;
pub mod connector;
mod handler;
mod offer_changes;
pub mod options;
mod probe;
pub mod retry;
mod routes;
mod state;
mod tunnel;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::options::AgentOptions;
use crate::limits::HeldHeads;
use crate::schema::Problem;
use crate::telemetry::check_log_file;
use crate::transport::tls::{self, TlsError};
use crate::values::{InstanceId, Name};
use backend::in_process::InProcessServices;
pub use backend::in_process::{Body, BoxError, InProcess};
use connection_loop::ConnectionLoop;
use connector::Connector;
use connector::login::LoginHistory;
pub use connector::standby::LostName;
pub use offer_changes::ServiceChanges;
pub use probe::probe_applications;
use routes::offer::Offer;
pub use state::{GivenUp, SetUpError, State};

/// Maximum memory for large request heads that wait for backends, in bytes; each service may use half of it.
const HELD_HEADS: usize = 32 * 1024 * 1024;

/// Returns every problem that would keep an agent with this configuration from being set up, by key path. Reads the files
/// that it names, and dials no server.
pub fn check(config: &AgentOptions) -> Vec<Problem> {
    let problem = |key: String, error: TlsError| Problem { key, message: error.to_string() };
    let server = tls::client(&config.trust).err().map(|error| problem("ca".to_owned(), error));
    let services = config.services.iter().enumerate().filter_map(|(at, service)| {
        let error = Offer::prepare(0, vec![service.clone()]).err()?;
        Some(problem(format!("services[{at}].ca"), error))
    });
    let log = check_log_file(&config.log).err();
    let log = log.map(|error| Problem { key: "log.file".to_owned(), message: error.to_string() });
    server.into_iter().chain(services).chain(log).collect()
}

/// An agent. It does nothing until it runs.
#[derive(Debug)]
pub struct Agent {
    config: Arc<AgentOptions>,
    /// The memory for heads of requests that wait for backends.
    heads: HeldHeads,
    in_process: Arc<InProcessServices>,
    connector: Connector,
    state: watch::Sender<State>,
    history: LoginHistory,
    changes: ServiceChanges,
    /// Whether to exit, instead of retrying, if every server refuses the first login.
    exits_if_refused: bool,
}

impl Agent {
    /// Prepares everything that can fail, so that running only ends for a reason.
    ///
    /// # Errors
    /// The trust settings cannot be used.
    pub fn new(config: AgentOptions) -> Result<Self, SetUpError> {
        let tls = tls::client(&config.trust)?;
        let offer = Arc::new(Offer::prepare(0, config.services.clone())?);
        let history = LoginHistory::default();
        Ok(Self {
            connector: Connector::new(config.client_id.clone(), tls, InstanceId::random()?),
            changes: ServiceChanges::new(config.token.clone(), offer, Arc::clone(&history.tickets)),
            config: Arc::new(config),
            heads: HeldHeads::new(HELD_HEADS),
            in_process: Arc::default(),
            state: watch::Sender::new(State::Connecting),
            history,
            exits_if_refused: false,
        })
    }

    /// Makes the agent exit with [`GivenUp::Refused`] if every server refuses it and none has accepted it before, for use
    /// at a terminal. By default the agent retries at growing intervals.
    #[must_use]
    pub fn exiting_if_refused(self) -> Self {
        Self { exits_if_refused: true, ..self }
    }

    /// Serves those services in this process whose address is [`options::Place::InProcess`], by their names. A service that
    /// is missing here is not served.
    #[must_use]
    pub fn with_in_process(self, services: impl IntoIterator<Item = (Name, InProcess)>) -> Self {
        Self { in_process: Arc::new(services.into_iter().collect::<HashMap<_, _>>()), ..self }
    }

    /// Follows the state of the agent.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Returns a handle that changes the agent's services.
    pub fn changes(&self) -> ServiceChanges {
        self.changes.clone()
    }

    /// Keeps a tunnel up until `stop`, then lets open requests finish.
    ///
    /// # Errors
    /// The agent was replaced; or every server refused it, and [`Agent::exiting_if_refused`] is set.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), GivenUp> {
        // Earlier tunnels, until their open requests are finished.
        let mut retiring = JoinSet::new();
        let result = tokio::select! {
            biased;
            result = ConnectionLoop::new(self, &stop).run(&mut retiring) => result,
            () = self.stopped_while_waiting(&stop) => Ok(()),
        };
        while retiring.join_next().await.is_some() {}
        self.state.send_replace(State::Ended);
        result
    }

    /// Resolves on `stop` only while no tunnel is up; a tunnel that is up drains by itself.
    async fn stopped_while_waiting(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        let mut state = self.state.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let _ = state.wait_for(|state| !state.is_connected()).await;
    }
}
