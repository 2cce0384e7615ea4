//! The tunnel of one login: its lanes, its services, and how it ends.

pub(in crate::agent) mod lane;
mod service_change;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::backend::BackendContext;
use crate::agent::connector::standby::LostName;
use crate::agent::connector::{ConnectError, Connector, LoggedIn};
use crate::agent::handler::Handler;
use crate::agent::offer_changes::DesiredState;
use crate::agent::routes::Routes;
use crate::agent::routes::offer::Offer;
use crate::agent::{Agent, State};
use crate::protocol::control::Control;
use crate::protocol::login::{Join, PublicService, Welcome};
use crate::telemetry::STATUS_LOG;
use crate::values::{Name, ServerAddress};
use lane::{LaneContext, LaneEvent, seconds};
use service_change::PendingChange;

/// Events from lanes that may wait for the tunnel.
const QUEUE: usize = 16;

/// Earlier tunnels that may finish what servers have open that shut down.
const MAX_RETIRING: usize = 8;

/// How a tunnel ended.
pub(in crate::agent) enum TunnelEnd {
    /// The agent stops.
    Stopped,
    /// Another agent has its last name.
    Replaced {
        /// The other agent: program, host and address.
        by: String,
    },
    /// The server has announced its shutdown.
    Restarting,
    /// Its last lane broke.
    Lost(String),
    /// Another login with other services has replaced it.
    Renewed(Box<Login>, RetiringTunnel),
}

/// A successful login, and what the tunnel on it offers.
pub(in crate::agent) struct Login {
    pub(in crate::agent) server: ServerAddress,
    pub(in crate::agent) connector: Connector,
    pub(in crate::agent) offer: Arc<Offer>,
    /// The desired services. `offer` is the latest that was seen.
    pub(in crate::agent) desired: watch::Receiver<DesiredState>,
    pub(in crate::agent) first_lane: LoggedIn,
}

/// A tunnel that has a successor. It serves until the successor is up.
pub(in crate::agent) struct RetiringTunnel {
    context: LaneContext,
    lanes: JoinSet<String>,
}

impl RetiringTunnel {
    /// Lets its open exchanges finish.
    async fn retire(self) {
        self.context.drain().await;
        self.context.leave(self.lanes).await;
    }

    /// Serves what a server that shuts down still has open, until it closes the lanes. On `stop` and at the end of `limit`, the
    /// tunnel retires by itself.
    async fn outlast(mut self, limit: Duration, stop: CancellationToken) {
        let closed = async { while self.lanes.join_next().await.is_some() {} };
        match timeout(limit, stop.run_until_cancelled(closed)).await {
            // Exchanges without a lane end by themselves, at once.
            Ok(Some(())) => drop(self.context.exchanges.close()),
            Ok(None) | Err(_) => self.retire().await,
        }
    }
}

/// The login of a tunnel.
struct TunnelLogin {
    server: ServerAddress,
    connector: Connector,
    welcome: Welcome,
}

/// The lanes of a tunnel.
struct Lanes {
    context: LaneContext,
    events: mpsc::Receiver<LaneEvent>,
    running: JoinSet<String>,
    /// For the control stream of each lane, the oldest first.
    control_senders: Vec<(Id, mpsc::Sender<Control>)>,
    joining: JoinSet<Result<LoggedIn, ConnectError>>,
}

/// What the server has accepted.
struct Offered {
    offer: Arc<Offer>,
    /// The same as visitors reach it.
    public: Vec<PublicService>,
}

/// How the offered services change.
struct ChangeState {
    desired: watch::Receiver<DesiredState>,
    /// The change that the server has not answered yet; one at a time.
    pending: Option<PendingChange>,
    /// A further login, where the services cannot be changed otherwise.
    renewing: JoinSet<Result<Login, ConnectError>>,
}

/// A tunnel that is logged in.
pub(in crate::agent) struct Tunnel<'a> {
    agent: &'a Agent,
    login: TunnelLogin,
    lanes: Lanes,
    offered: Offered,
    changes: ChangeState,
    /// Visitors can reach it.
    is_up: bool,
    /// How long the server may take to finish what it has open, once it shuts down.
    drain_limit: Duration,
    /// The tunnel that this one replaces.
    predecessor: Option<RetiringTunnel>,
    /// How it has ended, unless a further login replaces it.
    end: Option<TunnelEnd>,
}

impl<'a> Tunnel<'a> {
    /// Starts a tunnel that replaces `predecessor`.
    pub(in crate::agent) fn new(agent: &'a Agent, login: Login, predecessor: Option<RetiringTunnel>) -> Self {
        let Login { server, connector, offer, desired, first_lane } = login;
        let welcome = first_lane.welcome.clone();
        let (sender, events) = mpsc::channel(QUEUE);
        let backends = BackendContext {
            connect_timeout: seconds(welcome.terms.connect_timeout_s),
            tasks: TaskTracker::new(),
            in_process: Arc::clone(&agent.in_process),
        };
        let handler = Handler::new(Routes::new(&offer, backends), agent.config.max_streams, agent.heads.clone());
        let context = LaneContext::new(handler, sender, Arc::clone(&agent.history.tickets), server.clone());
        let lost_names = welcome.standby.iter().cloned().map(LostName::from).collect();
        let mut tunnel = Self {
            agent,
            lanes: Lanes {
                context,
                events,
                running: JoinSet::new(),
                control_senders: Vec::new(),
                joining: JoinSet::new(),
            },
            offered: Offered { offer, public: welcome.services.clone() },
            login: TunnelLogin { server, connector, welcome },
            changes: ChangeState { desired, pending: None, renewing: JoinSet::new() },
            is_up: false,
            drain_limit: Duration::ZERO,
            predecessor,
            end: None,
        };
        agent.history.lost_names.set(lost_names);
        tunnel.add_lane(first_lane);
        tunnel
    }

    /// Serves until `stop`, until it is replaced, or until its last lane breaks. Its predecessor retires in `retiring`.
    pub(in crate::agent) async fn serve(mut self, stop: &CancellationToken, retiring: &mut JoinSet<()>) -> TunnelEnd {
        let ended = loop {
            if self.changes.renewing.is_empty()
                && let Some(end) = self.end.take()
            {
                break end;
            }
            let until = self.changes.pending.as_ref().and_then(PendingChange::until);
            let may_begin = self.is_up && self.changes.pending.is_none() && self.end.is_none();
            // Every branch is cancel-safe: queues, sets of tasks, timers and tokens.
            tokio::select! {
                biased;
                () = stop.cancelled() => break TunnelEnd::Stopped,
                Some(renewed) = self.changes.renewing.join_next() => if let Some(login) = self.on_renewed(renewed) {
                    let lanes = std::mem::take(&mut self.lanes.running);
                    let retiring = RetiringTunnel { context: self.lanes.context.clone(), lanes };
                    break TunnelEnd::Renewed(Box::new(login), retiring);
                },
                Some(event) = self.lanes.events.recv() => self.on_event(event, retiring),
                Some(joined) = self.lanes.joining.join_next() => self.on_joined(joined),
                Some(lane) = self.lanes.running.join_next_with_id() => self.on_lane_end(lane),
                Ok(()) = self.changes.desired.changed(), if may_begin => self.begin_change(),
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => self.on_change_timeout(),
            }
        };
        // Lanes that report something do not wait.
        drop(self.lanes.events);
        retire(self.predecessor.take(), retiring);
        match &ended {
            TunnelEnd::Renewed(..) => return ended,
            // The agent logs in to the server's successor meanwhile.
            TunnelEnd::Restarting if retiring.len() < MAX_RETIRING => {
                let old = RetiringTunnel { context: self.lanes.context, lanes: self.lanes.running };
                retiring.spawn(old.outlast(self.drain_limit, stop.clone()));
                return ended;
            }
            // Exchanges without a lane end by themselves, at once.
            TunnelEnd::Lost(_) | TunnelEnd::Restarting => drop(self.lanes.context.exchanges.close()),
            TunnelEnd::Stopped => {
                let state = &self.agent.state;
                let report = |requests, left| drop(state.send_replace(State::Finishing { requests, left }));
                self.lanes.context.drain_reporting(report).await;
            }
            TunnelEnd::Replaced { .. } => self.lanes.context.drain().await,
        }
        self.lanes.context.leave(self.lanes.running).await;
        ended
    }

    fn on_event(&mut self, event: LaneEvent, retiring: &mut JoinSet<()>) {
        let server = &self.login.server;
        match event {
            // The names lead here only now: the server claims them before it speaks on a lane.
            LaneEvent::Up if !self.is_up => {
                self.is_up = true;
                tracing::info!(target: STATUS_LOG, %server, tunnel = %self.login.welcome.tunnel_id, "connected");
                retire(self.predecessor.take(), retiring);
                self.agent.changes.accept(&self.offered.offer);
                self.check_standby();
                self.report();
            }
            LaneEvent::Up => {}
            LaneEvent::Replaced { by } => self.end = Some(TunnelEnd::Replaced { by }),
            LaneEvent::OpenLane if self.lanes.joining.is_empty() => {
                let join = Join {
                    tunnel_id: self.login.welcome.tunnel_id,
                    lane_secret: self.login.welcome.lane.lane_secret.clone(),
                };
                let (connector, services) = (self.login.connector.clone(), self.offered.offer.for_server());
                let address = lane_address(&self.login.welcome, server);
                self.lanes.joining.spawn(async move { connector.join(&address, join, services).await });
            }
            LaneEvent::OpenLane => {}
            LaneEvent::Draining { limit } if self.end.is_none() => {
                self.drain_limit = limit;
                self.end = Some(TunnelEnd::Restarting);
                tracing::info!(%server, "the server shuts down; open requests may finish");
            }
            LaneEvent::Draining { .. } => {}
            LaneEvent::Accepted { change: 0, services, lost_names } => {
                let before = self.agent.history.lost_names.set(lost_names);
                self.log_moved_names(&services, &before);
                self.offered.public = services;
                self.check_standby();
                self.report();
            }
            LaneEvent::Accepted { change, services, lost_names } => {
                self.agent.history.lost_names.set(lost_names);
                self.on_accepted(change, services);
                self.check_standby();
            }
            LaneEvent::Refused { change, refused } => self.on_refused(change, &refused),
        }
    }

    /// Logs which names were lost, and which are back. `before` lists those that were lost until now.
    fn log_moved_names(&self, services: &[PublicService], before: &[LostName]) {
        let server = &self.login.server;
        let lost = self.agent.history.lost_names.all();
        let is_in = |list: &[PublicService], name: &Name| list.iter().any(|public| public.name == *name);
        for name in self.offered.offer.services.iter().map(|service| &service.name) {
            match (is_in(&self.offered.public, name), is_in(services, name)) {
                (true, false) => match lost.iter().find(|elsewhere| elsewhere.name == *name) {
                    Some(LostName { by, .. }) => tracing::warn!(
                        target: STATUS_LOG, %server,
                        "`{name}` cannot be reached here any more: {} was started later and has the name",
                        by.as_deref().unwrap_or("another agent of yours")
                    ),
                    None => tracing::warn!(
                        target: STATUS_LOG, %server,
                        "`{name}` cannot be reached here any more: the operator has changed what is allowed"
                    ),
                },
                (false, true) => {
                    let owner = before.iter().find(|lost| lost.name == *name).and_then(LostName::owner);
                    tracing::warn!(
                        target: STATUS_LOG, %server,
                        "taking over: `{name}` was free; visitors reach this agent until {} returns",
                        owner.unwrap_or("its owner")
                    );
                }
                _ => {}
            }
        }
    }

    /// Logs that the agent has lost all of its names, or ends the tunnel if the agent is to exit then.
    fn check_standby(&mut self) {
        if !self.offered.public.is_empty() {
            return;
        }
        let lost = self.agent.history.lost_names.all();
        let Some(by) = lost.iter().find_map(|elsewhere| elsewhere.by.clone()) else { return };
        if self.agent.config.exit_when_replaced {
            self.end = Some(TunnelEnd::Replaced { by });
        } else {
            tracing::warn!(target: STATUS_LOG, server = %self.login.server, "standing by: {by} was started later and has the names of this agent");
        }
    }

    fn on_joined(&mut self, joined: Result<Result<LoggedIn, ConnectError>, JoinError>) {
        let server = &self.login.server;
        match joined {
            Ok(Ok(login)) => {
                tracing::info!(%server, lane = %login.welcome.lane.lane_id, "another lane is up");
                self.add_lane(login);
                self.report();
            }
            Ok(Err(error)) => tracing::warn!(%server, "cannot open another lane: {error}"),
            Err(_) => {}
        }
    }

    fn add_lane(&mut self, login: LoggedIn) {
        // Only changes of services are sent this way, one at a time.
        let (sender, outgoing) = mpsc::channel(1);
        let lane = self.lanes.running.spawn(self.lanes.context.clone().serve_lane(login, outgoing));
        self.lanes.control_senders.push((lane.id(), sender));
    }

    fn on_lane_end(&mut self, lane: Result<(Id, String), JoinError>) {
        let (lane, why) = lane.unwrap_or_else(|error| (error.id(), error.to_string()));
        self.lanes.control_senders.retain(|(id, _)| *id != lane);
        if self.lanes.running.is_empty() {
            self.end.get_or_insert(TunnelEnd::Lost(why));
            return;
        }
        tracing::info!(server = %self.login.server, "a lane has ended, others go on: {why}");
        self.report();
        self.on_lane_lost(lane);
    }

    /// Publishes the state of the agent, once visitors can reach it.
    pub(in crate::agent) fn report(&self) {
        if !self.is_up {
            return;
        }
        let elsewhere = self.agent.history.lost_names.all();
        if self.offered.public.is_empty() && !elsewhere.is_empty() {
            self.agent.state.send_replace(State::Standby { server: self.login.server.to_string(), elsewhere });
            return;
        }
        self.agent.state.send_replace(State::Connected {
            server: self.login.server.to_string(),
            services: self.offered.public.clone(),
            configured: Arc::clone(&self.offered.offer.services),
            lanes: self.lanes.running.len(),
            refused: self.agent.changes.refusal(),
            elsewhere,
        });
    }
}

fn retire(old: Option<RetiringTunnel>, retiring: &mut JoinSet<()>) {
    if let Some(old) = old {
        retiring.spawn(old.retire());
    }
}

fn lane_address(welcome: &Welcome, server: &ServerAddress) -> ServerAddress {
    welcome.lane.lane_address.as_deref().and_then(|address| address.parse().ok()).unwrap_or_else(|| server.clone())
}
