//! The home side: dials out, logs in, and answers what visitors ask for with the local application.
//!
//! [`Agent::run`] keeps one tunnel up until it is told to stop. [`connector`] dials and logs in, [`backoff`] says when to
//! try again and `refusals` when to ask a server that refused, `tunnel` keeps the lanes of one login, `lane` is one of them, `handler` takes a
//! stream to the local application that `leads` and `rules` name, and `local` speaks to that. [`Changes`] changes what is
//! offered meanwhile, and `change` tells the server. `probe` looks once whether the applications are there.

pub mod backoff;
mod change;
pub mod connector;
mod handler;
mod lane;
mod local;
pub mod options;
mod probe;
mod refusals;
mod routes;
mod rules;
mod standby;
mod tickets;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::options::{AgentOptions, Service};
use crate::agent::routes::Offer;
use crate::limits::HeldHeads;
use crate::protocol::login::{Proof, PublicService, Refusal, Refused};
use crate::schema::Problem;
use crate::telemetry::{STATUS_LOG, check_log_file};
use crate::transport::tls::{self, TlsError};
use crate::values::ServerAddress;
use crate::values::{InstanceId, Secret};
use backoff::Backoff;
use connector::{ConnectError, Connector, LoggedIn, LoginAs};
pub use probe::look_for_applications;
use refusals::Refusals as RefusedBy;
pub use standby::Elsewhere;
use standby::Lost;
use tickets::{Tickets, Use};
use tunnel::{Ended, Login, Tunnel};

/// Maximum memory for large request heads that wait for applications, in bytes; each service may use half of it.
const HELD_HEADS: usize = 32 * 1024 * 1024;

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
        /// The same as it is configured. What is not among `services` cannot be reached: the operator has changed
        /// something.
        configured: Arc<[Service]>,
        /// How many lanes are up.
        lanes: usize,
        /// Why the latest change of services was refused, if it was: what was offered before it stays.
        refused: Option<String>,
        /// The configured names that another agent of the client has, which was started later.
        elsewhere: Vec<Elsewhere>,
    },
    /// Connected without a name: other agents of the client, which were started later, have all of them. The server gives
    /// this agent a name when it has been free for a while.
    Standby {
        /// The server it is connected to.
        server: String,
        /// The names and the agents that have them.
        elsewhere: Vec<Elsewhere>,
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

impl State {
    /// Whether a tunnel is up, with names or without.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. } | Self::Standby { .. })
    }
}

/// How often an agent without a token reports that it is still waiting for one.
const NO_TOKEN: Duration = Duration::from_secs(30);

/// Why an agent gave up for good (exit code 77).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GivenUp {
    /// Every server refused an agent at a terminal, and none had accepted it before.
    #[error("{server} refused the login ({}): {message}", .code.word())]
    Refused {
        /// Which server.
        server: String,
        /// The stable word.
        code: Refusal,
        /// What is wrong and what to do.
        message: String,
    },
    /// Another agent has all the names, and `exit_when_replaced` is set.
    #[error(
        "replaced: {by} was started later and has the same name; run only one agent, or give each its own name (--name)"
    )]
    Replaced {
        /// The other agent: program, host and address.
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

/// What would keep an agent with this configuration from being set up: all of it, by key path. Reads the files that it
/// names, and dials nobody.
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

/// What an agent should be from the next occasion on.
#[derive(Debug, Clone)]
struct Wanted {
    /// For the next login.
    token: Secret,
    /// For the server, and for the next login.
    offer: Arc<Offer>,
}

/// An agent. It does nothing until it runs.
#[derive(Debug)]
pub struct Agent {
    config: Arc<AgentOptions>,
    /// The memory for heads of requests that wait for applications.
    heads: HeldHeads,
    connector: Connector,
    state: watch::Sender<State>,
    tickets: Arc<Tickets>,
    /// The names that other agents of the client have.
    lost: Arc<Lost>,
    wanted: watch::Sender<Wanted>,
    /// What a server has agreed to last.
    agreed: Mutex<Option<Arc<Offer>>>,
    /// Which change was refused last, as long as it is the latest.
    refused: NotAgreed,
    /// How many changes were made.
    changes: Arc<Mutex<u64>>,
    /// Changes when the agent should try its servers immediately.
    at_once: watch::Sender<()>,
    /// Whether to exit, instead of retrying, if every server refuses the first login.
    ends_if_refused: bool,
}

type NotAgreed = Arc<Mutex<Option<RefusedChange>>>;

/// A change that a server has refused, so that what was offered before stays.
#[derive(Debug)]
struct RefusedChange {
    offer: Arc<Offer>,
    why: String,
}

/// Changes what an agent offers while it runs, or before.
#[derive(Debug, Clone)]
pub struct Changes {
    wanted: watch::Sender<Wanted>,
    tickets: Arc<Tickets>,
    refused: NotAgreed,
    made: Arc<Mutex<u64>>,
    at_once: watch::Sender<()>,
}

impl Changes {
    /// Whether a server has refused the latest services, so that the previous ones stay. Setting the same services again
    /// offers them again.
    pub fn was_refused(&self) -> bool {
        self.refused.lock().is_some()
    }

    /// Ends the agent's current wait: it tries every server immediately, including those that refused it. Call this after
    /// reloading the configuration or the token file.
    pub fn ask_at_once(&self) {
        self.at_once.send_replace(());
    }

    /// Takes services and token over from `config`: the server is told of changed services, and the next login uses the
    /// token. Nothing else of it counts. Says whether the services are others than those wanted so far; whether the server
    /// agrees, the agent's [`State`] tells. Reads files.
    ///
    /// # Errors
    /// The TLS settings of a local application cannot be used; nothing has changed.
    pub fn make(&self, config: &AgentOptions) -> Result<bool, SetUpError> {
        // Those who change something take turns.
        let mut made = self.made.lock();
        let differs = *self.wanted.borrow().offer.services != *config.services;
        let offer = match differs {
            true => Some(Arc::new(Offer::prepare(*made + 1, config.services.clone())?)),
            false => None,
        };
        *made += u64::from(differs);
        // Whoever has put everything back has mended it.
        let is_mended = !differs && self.refused.lock().take().is_some();
        self.wanted.send_if_modified(|wanted| {
            if wanted.token.expose() != config.token.expose() {
                wanted.token = config.token.clone();
                self.tickets.are_no_proofs();
            }
            if let Some(offer) = offer {
                wanted.offer = offer;
            }
            differs || is_mended
        });
        Ok(differs)
    }
}

impl Agent {
    /// Prepares everything that can fail, so that running only ends for a reason.
    ///
    /// # Errors
    /// The trust settings cannot be used.
    pub fn new(config: AgentOptions) -> Result<Self, SetUpError> {
        let tls = tls::client(&config.trust)?;
        let offer = Arc::new(Offer::prepare(0, config.services.clone())?);
        Ok(Self {
            connector: Connector::new(config.client_id.clone(), tls, InstanceId::random()?),
            wanted: watch::Sender::new(Wanted { token: config.token.clone(), offer }),
            config: Arc::new(config),
            heads: HeldHeads::new(HELD_HEADS),
            state: watch::Sender::new(State::Connecting),
            tickets: Arc::default(),
            lost: Arc::default(),
            agreed: Mutex::default(),
            refused: Arc::default(),
            changes: Arc::default(),
            at_once: watch::Sender::new(()),
            ends_if_refused: false,
        })
    }

    /// Makes the agent exit with [`GivenUp::Refused`] if every server refuses it and none has accepted it before, for use
    /// at a terminal. By default the agent retries at growing intervals.
    #[must_use]
    pub fn ending_if_refused(self) -> Self {
        Self { ends_if_refused: true, ..self }
    }

    /// How it is doing, for whoever wants to show it.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// With which its services can be changed.
    pub fn changes(&self) -> Changes {
        let (wanted, tickets) = (self.wanted.clone(), Arc::clone(&self.tickets));
        let at_once = self.at_once.clone();
        Changes { wanted, tickets, refused: Arc::clone(&self.refused), made: Arc::clone(&self.changes), at_once }
    }

    /// Keeps a tunnel up until `stop`, then lets open requests finish.
    ///
    /// # Errors
    /// The agent was replaced; or every server refused it, and [`Agent::ending_if_refused`] is set.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), GivenUp> {
        // Earlier tunnels, until their open requests are finished.
        let mut retiring = JoinSet::new();
        let result = tokio::select! {
            biased;
            result = self.keep_connected(&stop, &mut retiring) => result,
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

    async fn keep_connected(&self, stop: &CancellationToken, retiring: &mut JoinSet<()>) -> Result<(), GivenUp> {
        let mut backoff = Backoff::new();
        let mut connector = self.connector.clone();
        let mut refused_by = RefusedBy::new(self.config.servers.len());
        let mut accepted = false;
        let mut at_once = self.at_once.subscribe();
        loop {
            at_once.mark_unchanged();
            if self.wanted.borrow().token.expose().is_empty() {
                self.await_token(&mut at_once).await;
                continue;
            }
            let mut ended = None;
            for (at, server) in self.config.servers.iter().enumerate() {
                if !refused_by.may_ask(at) {
                    continue;
                }
                // Tunnels that have ended need not be remembered.
                while retiring.try_join_next().is_some() {}
                self.state.send_replace(State::Connecting);
                self.want_refused_again();
                match self.connect(server, &connector).await {
                    Ok(login) => {
                        accepted = true;
                        refused_by.clear();
                        let up_since = Instant::now();
                        match self.serve(login, &mut connector, stop, retiring).await {
                            Ended::Replaced { by } if self.config.exit_when_replaced => {
                                return Err(GivenUp::Replaced { by });
                            }
                            Ended::Replaced { by } => {
                                tracing::warn!(target: STATUS_LOG, %server, "standing by: {by} was started later and has the names of this agent");
                                let why =
                                    format!("standing by: {by} was started later and has the names of this agent");
                                self.lost.set_all(&self.wanted.borrow().offer, &by);
                                ended = Some((why, backoff.next_delay().max(standby::pause())));
                            }
                            Ended::Lost(reason) => {
                                tracing::warn!(target: STATUS_LOG, %server, "lost the connection: {reason}");
                                backoff.lost(up_since.elapsed());
                                let why = format!("lost the connection to {server}: {reason}");
                                ended = Some((why, backoff.next_delay()));
                            }
                            Ended::Stopped | Ended::Renewed(..) => return Ok(()),
                        }
                        // The first server of the list is the one to be at.
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(target: STATUS_LOG, %server, "cannot connect: {error}");
                        refused_by.failed(at, &server.to_string(), &error);
                    }
                }
            }
            if self.ends_if_refused
                && !accepted
                && let Some(given_up) = self.refused_by_all(&refused_by)
            {
                return Err(given_up);
            }
            let (why, retry_in) =
                ended.unwrap_or_else(|| (refused_by.troubles(), refused_by.wait(|| backoff.next_delay())));
            if self.wait(why, retry_in, &mut at_once).await {
                refused_by.clear();
            }
        }
    }

    /// Waits for `retry_in`, or until the agent should try its servers immediately. Returns whether the latter happened.
    async fn wait(&self, why: String, retry_in: Duration, at_once: &mut watch::Receiver<()>) -> bool {
        tracing::debug!(target: STATUS_LOG, "trying again in {:.1} s", retry_in.as_secs_f64());
        self.state.send_replace(State::Waiting { why, retry_in });
        // The sender lives in `self`: the only error is the timeout.
        tokio::time::timeout(retry_in, at_once.changed()).await.is_ok()
    }

    /// Waits until the token file contains a token; the task that watches the configuration reports that.
    async fn await_token(&self, at_once: &mut watch::Receiver<()>) {
        let why = self.config.awaited.clone().unwrap_or_else(|| "no token is configured".to_owned());
        tracing::warn!(target: STATUS_LOG, "waiting for a token: {why}");
        self.wait(why, NO_TOKEN, at_once).await;
    }

    /// Returns why to exit, if every server has refused the agent and none has accepted it.
    fn refused_by_all(&self, refused_by: &RefusedBy) -> Option<GivenUp> {
        let all = refused_by.by_all(self.config.token_is_saved)?;
        let name = |at: usize| self.config.servers.get(at).map(ToString::to_string).unwrap_or_default();
        let (&(first, Refused { code, message, .. }), others) = all.split_first()?;
        let others = others.iter().map(|(at, refused)| format!("; so did {} ({})", name(*at), refused.code.word()));
        let message = std::iter::once(message.clone()).chain(others).collect();
        Some(GivenUp::Refused { server: name(first), code: *code, message })
    }

    /// Serves a tunnel, and those that take its place.
    async fn serve(
        &self,
        login: Login,
        connector: &mut Connector,
        stop: &CancellationToken,
        retiring: &mut JoinSet<()>,
    ) -> Ended {
        let mut tunnel = Tunnel::new(self, login, None);
        loop {
            match tunnel.serve(stop, retiring).await {
                Ended::Renewed(login, old) => {
                    *connector = login.connector.clone();
                    self.tickets.keep(&login.server, login.first.welcome.ticket.clone());
                    tunnel = Tunnel::new(self, *login, Some(old));
                }
                ended => return ended,
            }
        }
    }

    /// Logs in with what is wanted now; with what a server has agreed to before, if it does not agree to that.
    async fn connect(&self, server: &ServerAddress, connector: &Connector) -> Result<Login, ConnectError> {
        loop {
            let mut wanted = self.wanted.subscribe();
            let now = wanted.borrow_and_update().clone();
            match log_in(connector, server, (&self.tickets, &self.lost), &now).await {
                Ok(first) => {
                    self.tickets.keep(server, first.welcome.ticket.clone());
                    let (server, connector) = (server.clone(), connector.clone());
                    return Ok(Login { server, connector, offer: now.offer, wanted, first });
                }
                Err(ConnectError::Refused(refused))
                    if matches!(refused.code, Refusal::NotAllowed | Refusal::NameTaken | Refusal::Version) =>
                {
                    let agreed = self.agreed.lock().clone().filter(|agreed| agreed.number != now.offer.number);
                    let Some(agreed) = agreed else { return Err(ConnectError::Refused(refused)) };
                    self.turn_back(&now.offer, &agreed, &refused);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A server has agreed to `offer`.
    fn agreed(&self, offer: &Arc<Offer>) {
        *self.agreed.lock() = Some(Arc::clone(offer));
        let mut refused = self.refused.lock();
        if refused.as_ref().is_some_and(|change| change.offer.number < offer.number) {
            *refused = None;
        }
    }

    /// A server has refused `offer`: what counted `before` counts again, unless something newer is wanted already.
    fn turn_back(&self, offer: &Arc<Offer>, before: &Arc<Offer>, refused: &Refused) {
        let (code, message) = (refused.code.word(), &refused.message);
        tracing::warn!(target: STATUS_LOG, code, "the server refused the changed services, and those before stay: {message}");
        *self.refused.lock() = Some(RefusedChange { offer: Arc::clone(offer), why: format!("{message} ({code})") });
        self.wanted.send_if_modified(|wanted| {
            let is_latest = wanted.offer.number == offer.number;
            if is_latest {
                wanted.offer = Arc::clone(before);
            }
            is_latest
        });
    }

    /// With a new connection, what was refused is asked for again: it may be another server by now, or one that was
    /// upgraded since.
    fn want_refused_again(&self) {
        // Whoever changes something takes turns with this.
        let _turn = self.changes.lock();
        if let Some(RefusedChange { offer, .. }) = self.refused.lock().take() {
            self.wanted.send_modify(|wanted| wanted.offer = offer);
        }
    }

    fn refused(&self) -> Option<String> {
        self.refused.lock().as_ref().map(|change| change.why.clone())
    }
}

/// Logs in with the ticket, if there is one, otherwise with the token.
async fn log_in(
    connector: &Connector,
    server: &ServerAddress,
    (tickets, lost): (&Tickets, &Lost),
    wanted: &Wanted,
) -> Result<LoggedIn, ConnectError> {
    let as_now = |proof, start| {
        let (services, waits_for) = (wanted.offer.for_server(), lost.names_in(&wanted.offer));
        connector.log_in(server, LoginAs { proof, start, waits_for }, services)
    };
    let mut start = None;
    match tickets.of(server) {
        Some(Use::Proof(ticket)) => match as_now(Proof::Ticket(ticket.clone()), None).await {
            // The ticket has expired or belongs to another server: the token decides.
            Err(ConnectError::Refused(Refused { code: Refusal::BadToken, .. })) => {
                tickets.refused(server, ticket.clone());
                start = Some(ticket);
            }
            other => return other,
        },
        Some(Use::Start(ticket)) => start = Some(ticket),
        None => {}
    }
    as_now(Proof::Token(wanted.token.clone()), start).await
}
