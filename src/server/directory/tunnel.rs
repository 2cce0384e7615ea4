//! A tunnel: one connected agent as the server sees it, carried by lanes.

mod lanes;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::service::Service;
use crate::auth::LaneSecret;
use crate::limits::{ClientUse, Permits};
use crate::link::mux::MuxStream;
use crate::protocol::control::Control;
use crate::protocol::standby::OtherAgent;
use crate::server::agents::login::Authenticated;
use crate::tenants::clients::Credential;
use crate::values::{ClientId, InstanceId, Name, TunnelId};
use lanes::{Lanes, LastAsked};

pub use lanes::{Lane, MAX_LANES, StreamPermit};

/// Why a tunnel takes no new visitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retired {
    /// An agent of the same client that was started later has its last name, and this one cannot stand by.
    Replaced {
        /// Which agent, and where.
        by: String,
    },
    /// The same agent has logged in again.
    CameBack,
    /// The agent said that it is leaving.
    Leaving,
    /// The server is shutting down.
    Draining,
    /// The operator has revoked what the agent logged in with, or all that it offers. What is open is cut.
    Revoked,
    /// The operator has ended the connection; the agent may come back. What is open is cut.
    Disconnected,
}

impl Retired {
    /// Whether the lanes end now, and with them what is open.
    pub(crate) fn is_at_once(&self) -> bool {
        matches!(self, Self::CameBack) || self.is_the_operators()
    }

    fn is_the_operators(&self) -> bool {
        matches!(self, Self::Revoked | Self::Disconnected)
    }
}

/// Why no stream could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFailure {
    /// As many streams as allowed are open, in the tunnel or on each of its lanes.
    Busy,
    /// As many as allowed to the client are open, over all its tunnels.
    ClientBusy,
    /// The tunnel has no living lane.
    Gone,
    /// The agent did not acknowledge earlier streams in time.
    Stalled,
}

/// One connected agent. A cheap handle: the lanes' own tasks do the work.
pub struct Tunnel {
    id: TunnelId,
    login: Authenticated,
    services: RwLock<Arc<[Arc<Service>]>>,
    /// What the operator has taken away from the agent, which may be allowed again.
    withheld: Mutex<Vec<Arc<Service>>>,
    secret: LaneSecret,
    lanes: RwLock<Lanes>,
    asked: LastAsked,
    permits: Permits,
    retired: watch::Sender<Option<Retired>>,
    names_moved: Notify,
    /// Which tunnel it is of those that have come up; the highest number there is, before.
    came_up: AtomicU64,
}

impl Tunnel {
    /// A tunnel for an agent that has proved who it is, still without a lane.
    pub fn new(id: TunnelId, mut login: Authenticated, secret: LaneSecret, max_streams: usize) -> Self {
        Self {
            id,
            // Not kept twice: a service that goes must take its port along.
            services: RwLock::new(login.take_services().into()),
            withheld: Mutex::default(),
            login,
            secret,
            lanes: RwLock::new(Lanes::new()),
            asked: LastAsked::default(),
            permits: Permits::new(max_streams),
            retired: watch::Sender::new(None),
            names_moved: Notify::new(),
            came_up: AtomicU64::new(u64::MAX),
        }
    }

    /// The tunnel's id.
    pub fn id(&self) -> TunnelId {
        self.id
    }

    /// Whose it is.
    pub fn client(&self) -> &ClientId {
        self.login.client()
    }

    /// Which run of the agent it belongs to.
    pub fn instance(&self) -> InstanceId {
        self.login.instance()
    }

    /// What program the agent is.
    pub fn agent(&self) -> &str {
        self.login.agent()
    }

    /// Its agent, as other agents of the client are told.
    pub fn as_other(&self) -> OtherAgent {
        let host = self.login.host().map(str::to_owned);
        OtherAgent { agent: self.agent().to_owned(), host, address: self.peer().ip().to_canonical() }
    }

    /// When its agent was started: the number that the server has given to its first login.
    pub fn start(&self) -> u64 {
        self.login.start()
    }

    /// By what tunnels that offer the same name are compared: the highest has it. Of two of the same start, the one that
    /// came up last.
    pub(crate) fn rank(&self) -> (u64, u64) {
        (self.start(), self.came_up.load(Ordering::Relaxed))
    }

    /// Whether its agent stays without a name.
    pub fn can_stand_by(&self) -> bool {
        self.login.can_stand_by()
    }

    /// Whether its agent has said that it stands by for `name`.
    pub(crate) fn waits_for(&self, name: &Name) -> bool {
        self.login.waits_for().contains(name)
    }

    /// From where its first lane came.
    pub fn peer(&self) -> SocketAddr {
        self.login.peer()
    }

    /// When the agent logged in.
    pub fn since(&self) -> Timestamp {
        self.login.since()
    }

    /// With what the agent has logged in: the tunnel may be up for as long as that holds.
    pub fn credential(&self) -> &Credential {
        self.login.credential()
    }

    /// What all visitors of its client use together.
    pub fn usage(&self) -> &Arc<ClientUse> {
        self.login.usage()
    }

    /// What the agent offers at the moment.
    pub fn services(&self) -> Arc<[Arc<Service>]> {
        Arc::clone(&self.services.read())
    }

    /// Keeps services that were taken away, for when they are allowed again. One with a port of its own gives that up: its
    /// agent has it again with the next login.
    pub(crate) fn withhold(&self, services: impl Iterator<Item = Arc<Service>>) {
        self.withheld.lock().extend(services.filter(|service| service.port().is_none()));
    }

    /// Those of the services that were taken away which `may` be offered again.
    pub(crate) fn take_withheld(&self, may: impl Fn(&Service) -> bool) -> Vec<Arc<Service>> {
        self.withheld.lock().extract_if(.., |service| may(service)).collect()
    }

    /// The agent offers other services by now: what was taken away before is history.
    pub(crate) fn forget_withheld(&self) {
        self.withheld.lock().clear();
    }

    /// The registry's to call, which keeps the names.
    pub(crate) fn set_services(&self, services: Arc<[Arc<Service>]>) {
        *self.services.write() = services;
    }

    /// With what further lanes join.
    pub fn secret(&self) -> &LaneSecret {
        &self.secret
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.permits.in_use()
    }

    /// Whether another lane may join.
    pub fn has_room_for_a_lane(&self) -> bool {
        self.lanes.read().has_room()
    }

    /// The living lanes.
    pub fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.read().living().to_vec()
    }

    /// Whether it has its first lane, or has lost its last one since.
    pub(crate) fn has_been_up(&self) -> bool {
        let lanes = self.lanes.read();
        lanes.is_closed() || !lanes.living().is_empty()
    }

    /// Whether new visitors are meant to come.
    pub(crate) fn is_serving(&self) -> bool {
        self.has_been_up() && self.retired.borrow().is_none()
    }

    /// The lane that brings it up. Nobody joins before that.
    pub(crate) fn first_lane(&self, lane: &Arc<Lane>, came_up: u64) {
        self.came_up.store(came_up, Ordering::Relaxed);
        self.lanes.write().first(lane);
    }

    /// Adds a further lane; `false` if the tunnel is gone or has as many as it may.
    pub(crate) fn add_lane(&self, lane: &Arc<Lane>) -> bool {
        let added = self.lanes.write().add(lane);
        if added {
            self.asked.has_come();
        }
        added
    }

    /// Removes a lane; `true` if it was the last one, after which nobody may join any more.
    pub(crate) fn remove_lane(&self, gone: &Lane) -> bool {
        self.lanes.write().remove(gone)
    }

    /// Whether the tunnel can do without this lane, on which nothing is open: then it takes nothing any more.
    pub(crate) fn let_go(&self, lane: &Lane) -> bool {
        self.lanes.write().let_go(lane)
    }

    /// Has its agent told what it offers and which names lead to it. Changes that come before the notice is sent share it.
    pub(crate) fn names_moved(&self) {
        self.names_moved.notify_one();
    }

    /// Resolves, for one of those who wait, when the agent is to hear what leads to it.
    pub(crate) async fn until_names_move(&self) {
        self.names_moved.notified().await;
    }

    /// Takes no new visitors from now on. The first reason counts, but the operator's word ends what drains already.
    pub fn retire(&self, why: Retired) {
        self.retired.send_if_modified(|retired| {
            let counts = retired.as_ref().is_none_or(|first| why.is_the_operators() && !first.is_at_once());
            if counts {
                *retired = Some(why);
            }
            counts
        });
    }

    /// Tells when and why the tunnel is retired.
    pub fn retired(&self) -> watch::Receiver<Option<Retired>> {
        self.retired.subscribe()
    }

    /// Asks the agent for another lane. Says whether the request could be queued.
    pub fn ask_for_lane(&self) -> bool {
        self.notify(&Control::OpenLane)
    }

    /// Queues a notice on one of the lanes; says whether there was room.
    pub fn notify(&self, notice: &Control) -> bool {
        self.lanes.read().living().iter().any(|lane| lane.notify(notice.clone()))
    }

    /// Opens a stream on the lane that has the least to carry and sends `first` on it. Asks for another lane where that
    /// one has much.
    ///
    /// # Errors
    /// Nothing was sent; [`OpenFailure`] says whether it is worth trying again.
    pub async fn open(&self, first: &[u8], deadline: Duration) -> Result<(MuxStream, StreamPermit), OpenFailure> {
        loop {
            let client = self.usage().stream().ok_or(OpenFailure::ClientBusy)?;
            let tunnel = self.permits.try_acquire().ok_or(OpenFailure::Busy)?;
            let chosen = self.lanes.read().choose()?;
            if chosen.wants_another && self.asked.is_due() {
                self.ask_for_lane();
            }
            let lane = Arc::clone(&chosen.lane);
            let permit = StreamPermit::new(client, tunnel, chosen);
            match tokio::time::timeout(deadline, lane.session().open(first)).await {
                Ok(Ok(stream)) => {
                    lane.check_wear();
                    return Ok((stream, permit));
                }
                // That lane has just died, before anything was sent: another one may live.
                Ok(Err(_)) => lane.stop_accepting(),
                Err(_) => return Err(OpenFailure::Stalled),
            }
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({} of {}, {} lanes)", self.id, self.client(), self.lanes.read().living().len())
    }
}
