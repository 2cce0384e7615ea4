//! Keeps an agent connected: tries its servers in order, serves a tunnel, and reconnects when that is lost.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::connector::login::log_in;
use crate::agent::connector::{ConnectError, Connector, standby};
use crate::agent::retry::{Backoff, RetrySchedule};
use crate::agent::state::GivenUp;
use crate::agent::tunnel::{Login, Tunnel, TunnelEnd};
use crate::agent::{Agent, State};
use crate::protocol::login::{Refusal, Refused};
use crate::telemetry::STATUS_LOG;
use crate::values::ServerAddress;

/// How often an agent without a token reports that it is still waiting for one.
const TOKEN_REMINDER: Duration = Duration::from_secs(30);

/// The connection of one agent.
pub(super) struct ConnectionLoop<'a> {
    agent: &'a Agent,
    stop: &'a CancellationToken,
    connector: Connector,
    backoff: Backoff,
    schedule: RetrySchedule,
    /// Whether any server has accepted the agent.
    was_accepted: bool,
    reconnect: watch::Receiver<()>,
}

/// How a round over all servers ended.
enum Round {
    /// The agent ends.
    Over(Result<(), GivenUp>),
    /// The agent tries again.
    Retry { why: String, delay: Duration },
    /// No server has accepted the agent.
    AllFailed,
}

impl<'a> ConnectionLoop<'a> {
    pub(super) fn new(agent: &'a Agent, stop: &'a CancellationToken) -> Self {
        Self {
            agent,
            stop,
            connector: agent.connector.clone(),
            backoff: Backoff::new(),
            schedule: RetrySchedule::new(agent.config.servers.len()),
            was_accepted: false,
            reconnect: agent.changes.reconnect_requests(),
        }
    }

    /// Keeps a tunnel up until the agent stops or gives up. Tunnels that were replaced retire in `retiring`.
    pub(super) async fn run(mut self, retiring: &mut JoinSet<()>) -> Result<(), GivenUp> {
        loop {
            self.reconnect.mark_unchanged();
            if !self.agent.changes.has_token() {
                self.await_token().await;
                continue;
            }
            let (why, delay) = match self.try_servers(retiring).await {
                Round::Over(result) => return result,
                Round::Retry { why, delay } => (Some(why), delay),
                Round::AllFailed => (None, self.schedule.wait(|| self.backoff.next_delay())),
            };
            if let Some(given_up) = self.refused_by_all() {
                return Err(given_up);
            }
            let why = why.unwrap_or_else(|| self.schedule.failures());
            if self.wait(why, delay).await {
                self.schedule.clear();
            }
        }
    }

    /// Tries the servers in order, and serves a tunnel at the first one that accepts the agent.
    async fn try_servers(&mut self, retiring: &mut JoinSet<()>) -> Round {
        let agent = self.agent;
        for (at, server) in agent.config.servers.iter().enumerate() {
            if !self.schedule.may_ask(at) {
                continue;
            }
            // Forget tunnels that have ended.
            while retiring.try_join_next().is_some() {}
            agent.state.send_replace(State::Connecting);
            agent.changes.retry_refused();
            match connect(agent, server, &self.connector).await {
                Ok(login) => {
                    self.was_accepted = true;
                    self.schedule.clear();
                    let up_since = Instant::now();
                    let end = self.serve(login, retiring).await;
                    // The next round begins with the first server, which is the preferred one.
                    return self.after_tunnel(end, server, up_since);
                }
                Err(error) => {
                    tracing::warn!(target: STATUS_LOG, %server, "cannot connect: {error}");
                    self.schedule.failed(at, &server.to_string(), &error);
                }
            }
        }
        Round::AllFailed
    }

    /// Serves a tunnel, and those that replace it.
    async fn serve(&mut self, login: Login, retiring: &mut JoinSet<()>) -> TunnelEnd {
        let mut tunnel = Tunnel::new(self.agent, login, None);
        loop {
            match tunnel.serve(self.stop, retiring).await {
                TunnelEnd::Renewed(login, predecessor) => {
                    self.connector = login.connector.clone();
                    let ticket = login.first_lane.welcome.ticket.clone();
                    self.agent.history.tickets.keep(&login.server, ticket);
                    tunnel = Tunnel::new(self.agent, *login, Some(predecessor));
                }
                end => return end,
            }
        }
    }

    fn after_tunnel(&mut self, end: TunnelEnd, server: &ServerAddress, up_since: Instant) -> Round {
        match end {
            TunnelEnd::Replaced { by } if self.agent.config.exit_when_replaced => {
                Round::Over(Err(GivenUp::Replaced { by }))
            }
            TunnelEnd::Replaced { by } => {
                tracing::warn!(target: STATUS_LOG, %server, "standing by: {by} was started later and has the names of this agent");
                let why = format!("standing by: {by} was started later and has the names of this agent");
                self.agent.history.lost_names.set_all(&self.agent.changes.offer(), &by);
                Round::Retry { why, delay: self.backoff.next_delay().max(standby::pause()) }
            }
            TunnelEnd::Lost(reason) => {
                tracing::warn!(target: STATUS_LOG, %server, "lost the connection: {reason}");
                self.backoff.lost(up_since.elapsed());
                let why = format!("lost the connection to {server}: {reason}");
                Round::Retry { why, delay: self.backoff.next_delay() }
            }
            TunnelEnd::Restarting => {
                tracing::info!(target: STATUS_LOG, %server, "the server is restarting");
                self.backoff.lost(up_since.elapsed());
                let why = format!("the server {server} is restarting");
                Round::Retry { why, delay: self.backoff.next_delay() }
            }
            TunnelEnd::Stopped | TunnelEnd::Renewed(..) => Round::Over(Ok(())),
        }
    }

    /// Waits for `delay`, or until the agent should try its servers immediately. Returns whether the latter happened.
    async fn wait(&mut self, why: String, delay: Duration) -> bool {
        tracing::debug!(target: STATUS_LOG, "trying again in {:.1} s", delay.as_secs_f64());
        self.agent.state.send_replace(State::Waiting { why, retry_in: delay });
        // The sender lives in the agent: the only error is the timeout.
        tokio::time::timeout(delay, self.reconnect.changed()).await.is_ok()
    }

    /// Waits until the token file contains a token; the task that watches the configuration reports that.
    async fn await_token(&mut self) {
        let why = self.agent.config.awaited.clone().unwrap_or_else(|| "no token is configured".to_owned());
        tracing::warn!(target: STATUS_LOG, "waiting for a token: {why}");
        self.wait(why, TOKEN_REMINDER).await;
    }

    /// Returns why to exit, if the agent exits when refused, and every server has refused it and none has accepted it.
    fn refused_by_all(&self) -> Option<GivenUp> {
        if !self.agent.exits_if_refused || self.was_accepted {
            return None;
        }
        let config = &self.agent.config;
        let all = self.schedule.by_all(config.token_is_saved)?;
        let name = |at: usize| config.servers.get(at).map(ToString::to_string).unwrap_or_default();
        let (&(first, Refused { code, message, .. }), others) = all.split_first()?;
        let others = others.iter().map(|(at, refused)| format!("; so did {} ({})", name(*at), refused.code.word()));
        let message = std::iter::once(message.clone()).chain(others).collect();
        Some(GivenUp::Refused { server: name(first), code: *code, message })
    }
}

/// Logs in with the desired services; with those that a server has accepted before, if this server refuses them.
async fn connect(agent: &Agent, server: &ServerAddress, connector: &Connector) -> Result<Login, ConnectError> {
    loop {
        let mut desired = agent.changes.subscribe();
        let now = desired.borrow_and_update().clone();
        match log_in(connector, server, &agent.history, &now).await {
            Ok(first_lane) => {
                agent.history.tickets.keep(server, first_lane.welcome.ticket.clone());
                let (server, connector) = (server.clone(), connector.clone());
                return Ok(Login { server, connector, offer: now.offer, desired, first_lane });
            }
            Err(ConnectError::Refused(refused))
                if matches!(refused.code, Refusal::NotAllowed | Refusal::NameTaken | Refusal::Version) =>
            {
                let Some(accepted) = agent.changes.fallback_for(&now.offer) else {
                    return Err(ConnectError::Refused(refused));
                };
                agent.changes.revert(&now.offer, &accepted, &refused);
            }
            Err(error) => return Err(error),
        }
    }
}
