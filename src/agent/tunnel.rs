//! One login's tunnel: its lanes, and what becomes of it.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::change::UnderWay;
use super::connector::{ConnectError, Connector, LoggedIn};
use super::handler::Handler;
use super::lane::{Said, Shared, seconds};
use super::standby::Elsewhere;
use super::{Agent, State, Wanted};
use crate::agent::routes::{AllLeads, Offer};
use crate::protocol::control::Control;
use crate::protocol::login::{Join, PublicService, Welcome};
use crate::telemetry::STATUS_LOG;
use crate::values::Name;
use crate::values::ServerAddress;

/// Messages from lanes that may wait for the tunnel.
const QUEUE: usize = 16;

/// How a tunnel ended.
pub(super) enum Ended {
    /// As asked.
    Stopped,
    /// Another agent has its last name.
    Replaced {
        /// Which one, and where.
        by: String,
    },
    /// Its last lane broke.
    Lost(String),
    /// Another login has taken its place, with other services.
    Renewed(Box<Login>, Old),
}

/// A login that succeeded: where, how, and for what.
pub(super) struct Login {
    pub(super) server: ServerAddress,
    pub(super) connector: Connector,
    pub(super) offer: Arc<Offer>,
    /// What should be offered; it has been looked at for `offer`.
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) first: LoggedIn,
}

/// A tunnel that has a successor. Until that is up, it serves.
pub(super) struct Old {
    shared: Shared,
    lanes: JoinSet<String>,
}

impl Old {
    /// Lets its open exchanges finish.
    pub(super) async fn retire(self) {
        self.shared.drain().await;
        self.shared.leave(self.lanes).await;
    }
}

/// A tunnel that is logged in.
pub(super) struct Tunnel<'a> {
    pub(super) agent: &'a Agent,
    pub(super) server: ServerAddress,
    pub(super) connector: Connector,
    pub(super) welcome: Welcome,
    pub(super) shared: Shared,
    heard: mpsc::Receiver<Said>,
    lanes: JoinSet<String>,
    /// Leads to the control stream of each lane, the oldest first.
    pub(super) speakers: Vec<(Id, mpsc::Sender<Control>)>,
    joining: JoinSet<Result<LoggedIn, ConnectError>>,
    /// Visitors can come.
    is_up: bool,
    /// The tunnel whose place this one takes.
    old: Option<Old>,
    /// What the server has agreed to.
    pub(super) offer: Arc<Offer>,
    /// How visitors reach it.
    pub(super) public: Vec<PublicService>,
    pub(super) wanted: watch::Receiver<Wanted>,
    /// The change that the server has not answered yet; one at a time.
    pub(super) under_way: Option<UnderWay>,
    /// A further login, where services cannot be changed otherwise.
    pub(super) renewing: JoinSet<Result<Login, ConnectError>>,
    /// How it has ended, unless a further login takes its place.
    over: Option<Ended>,
}

impl<'a> Tunnel<'a> {
    /// `old` is the tunnel whose place this one takes, if there is one.
    pub(super) fn new(agent: &'a Agent, login: Login, old: Option<Old>) -> Self {
        let Login { server, connector, offer, wanted, first } = login;
        let welcome = first.welcome.clone();
        let (said, heard) = mpsc::channel(QUEUE);
        let leads = AllLeads::new(&offer, seconds(welcome.terms.connect_timeout_s), &TaskTracker::new());
        let handler = Handler::new(leads, agent.config.max_streams, agent.heads.clone());
        let shared = Shared::new(handler, said, (Arc::clone(&agent.tickets), server.clone()));
        let mut tunnel = Self {
            agent,
            server,
            connector,
            shared,
            heard,
            lanes: JoinSet::new(),
            speakers: Vec::new(),
            joining: JoinSet::new(),
            is_up: false,
            old,
            offer,
            public: welcome.services.clone(),
            welcome,
            wanted,
            under_way: None,
            renewing: JoinSet::new(),
            over: None,
        };
        let elsewhere = tunnel.welcome.standby.iter().cloned().map(Elsewhere::from).collect();
        agent.lost.set(elsewhere);
        tunnel.add_lane(first);
        tunnel
    }

    /// Serves until `stop`, until it is replaced, until its last lane breaks, or until another login has taken its place.
    /// The tunnel whose place it takes retires among `retiring`.
    pub(super) async fn serve(mut self, stop: &CancellationToken, retiring: &mut JoinSet<()>) -> Ended {
        let ended = loop {
            if self.renewing.is_empty()
                && let Some(over) = self.over.take()
            {
                break over;
            }
            let until = self.under_way.as_ref().and_then(UnderWay::until);
            let may_begin = self.is_up && self.under_way.is_none() && self.over.is_none();
            // Every branch is cancel-safe: queues, sets of tasks, timers and tokens.
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                Some(renewed) = self.renewing.join_next() => if let Some(login) = self.on_renewed(renewed) {
                    let old = Old { shared: self.shared.clone(), lanes: std::mem::take(&mut self.lanes) };
                    break Ended::Renewed(Box::new(login), old);
                },
                Some(said) = self.heard.recv() => self.on_said(said, retiring),
                Some(joined) = self.joining.join_next() => self.on_joined(joined),
                Some(lane) = self.lanes.join_next_with_id() => self.on_lane_end(lane),
                Ok(()) = self.wanted.changed(), if may_begin => self.begin_change(),
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => self.on_late(),
            }
        };
        // Lanes that want to say something do not wait for anybody who listens.
        drop(self.heard);
        retire(self.old.take(), retiring);
        match &ended {
            Ended::Renewed(..) => return ended,
            // Exchanges without a lane end by themselves, at once.
            Ended::Lost(_) => drop(self.shared.exchanges.close()),
            Ended::Stopped | Ended::Replaced { .. } => self.shared.drain().await,
        }
        self.shared.leave(self.lanes).await;
        ended
    }

    fn on_said(&mut self, said: Said, retiring: &mut JoinSet<()>) {
        let server = &self.server;
        match said {
            // The names lead here only now: the server has claimed them once it speaks on a lane.
            Said::Up if !self.is_up => {
                self.is_up = true;
                tracing::info!(target: STATUS_LOG, %server, tunnel = %self.welcome.tunnel_id, "connected");
                retire(self.old.take(), retiring);
                self.agent.agreed(&self.offer);
                self.tell_standby();
                self.report();
            }
            Said::Up => {}
            Said::Replaced { by } => self.over = Some(Ended::Replaced { by }),
            Said::OpenLane if self.joining.is_empty() => {
                let join =
                    Join { tunnel_id: self.welcome.tunnel_id, lane_secret: self.welcome.lane.lane_secret.clone() };
                let (connector, services) = (self.connector.clone(), self.offer.for_server());
                let address = lane_address(&self.welcome, server);
                self.joining.spawn(async move { connector.join(&address, join, services).await });
            }
            Said::OpenLane => {}
            Said::Draining => tracing::info!(%server, "the server shuts down; open requests may finish"),
            Said::Offered { change: 0, services, elsewhere } => {
                let before = self.agent.lost.set(elsewhere);
                self.tell_moved(&services, &before);
                self.public = services;
                self.tell_standby();
                self.report();
            }
            Said::Offered { change, services, elsewhere } => {
                self.agent.lost.set(elsewhere);
                self.on_offered(change, services);
                self.tell_standby();
            }
            Said::NotOffered { change, refused } => self.on_not_offered(change, &refused),
        }
    }

    /// Tells of names that lead elsewhere from now on, or here again; `before` is what was elsewhere.
    fn tell_moved(&self, services: &[PublicService], before: &[Elsewhere]) {
        let server = &self.server;
        let lost = self.agent.lost.all();
        let is_in = |list: &[PublicService], name: &Name| list.iter().any(|public| public.name == *name);
        for name in self.offer.services.iter().map(|service| &service.name) {
            match (is_in(&self.public, name), is_in(services, name)) {
                (true, false) => match lost.iter().find(|elsewhere| elsewhere.name == *name) {
                    Some(Elsewhere { by, .. }) => tracing::warn!(
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
                    let owner = before.iter().find(|lost| lost.name == *name).and_then(Elsewhere::owner);
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

    /// An agent that has lost all of its names says so, or ends if it is to.
    fn tell_standby(&mut self) {
        if !self.public.is_empty() {
            return;
        }
        let lost = self.agent.lost.all();
        let Some(by) = lost.iter().find_map(|elsewhere| elsewhere.by.clone()) else { return };
        if self.agent.config.exit_when_replaced {
            self.over = Some(Ended::Replaced { by });
        } else {
            tracing::warn!(target: STATUS_LOG, server = %self.server, "standing by: {by} was started later and has the names of this agent");
        }
    }

    fn on_joined(&mut self, joined: Result<Result<LoggedIn, ConnectError>, JoinError>) {
        let server = &self.server;
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
        // A change of services is all that is ever said this way, and the next one waits for its answer.
        let (speaker, to_say) = mpsc::channel(1);
        let lane = self.lanes.spawn(self.shared.clone().lane(login, to_say));
        self.speakers.push((lane.id(), speaker));
    }

    fn on_lane_end(&mut self, lane: Result<(Id, String), JoinError>) {
        let (lane, why) = lane.unwrap_or_else(|error| (error.id(), error.to_string()));
        self.speakers.retain(|(id, _)| *id != lane);
        if self.lanes.is_empty() {
            self.over.get_or_insert(Ended::Lost(why));
            return;
        }
        tracing::info!(server = %self.server, "a lane has ended, others go on: {why}");
        self.report();
        self.on_lane_lost(lane);
    }

    /// Shows how it is doing, once visitors can come.
    pub(super) fn report(&self) {
        if !self.is_up {
            return;
        }
        let elsewhere = self.agent.lost.all();
        if self.public.is_empty() && !elsewhere.is_empty() {
            self.agent.state.send_replace(State::Standby { server: self.server.to_string(), elsewhere });
            return;
        }
        self.agent.state.send_replace(State::Connected {
            server: self.server.to_string(),
            services: self.public.clone(),
            configured: Arc::clone(&self.offer.services),
            lanes: self.lanes.len(),
            refused: self.agent.refused(),
            elsewhere,
        });
    }
}

fn retire(old: Option<Old>, retiring: &mut JoinSet<()>) {
    if let Some(old) = old {
        retiring.spawn(old.retire());
    }
}

fn lane_address(welcome: &Welcome, server: &ServerAddress) -> ServerAddress {
    welcome.lane.lane_address.as_deref().and_then(|address| address.parse().ok()).unwrap_or_else(|| server.clone())
}
