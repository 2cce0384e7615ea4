//! A tunnel: one connected agent as the server sees it, carried by lanes.

mod lane;
mod lanes;
mod retire_reason;
mod stream_permit;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::auth::LaneSecret;
use crate::limits::{ClientUse, Permits};
use crate::link::session::Stream;
use crate::protocol::control::Control;
use crate::protocol::standby::OtherAgent;
use crate::server::directory::authenticated::Authenticated;
use crate::server::directory::service::Service;
use crate::tenants::clients::Credential;
use crate::values::{ClientId, InstanceId, Name, TunnelId};
pub use lane::Lane;
pub use lanes::MAX_LANES;
use lanes::{LaneRequest, Lanes};
pub use retire_reason::RetireReason;
pub use stream_permit::StreamPermit;

/// Why no stream could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFailure {
    /// The service, the tunnel, or each of its lanes, has as many open streams as it may.
    Busy,
    /// The client has as many open streams as it may, over all of its tunnels.
    ClientBusy,
    /// The tunnel has no open lane.
    Gone,
    /// The agent did not acknowledge earlier streams in time.
    Stalled,
}

/// One connected agent. Its lanes' tasks do the work.
pub struct Tunnel {
    id: TunnelId,
    login: Authenticated,
    services: Services,
    secret: LaneSecret,
    lanes: RwLock<Lanes>,
    lane_request: LaneRequest,
    permits: Permits,
    retired: watch::Sender<Option<RetireReason>>,
    names_changed: Notify,
    /// Orders the tunnels by when they got their first lane; `u64::MAX` before that.
    activation: AtomicU64,
}

/// The services that an agent offers.
struct Services {
    current: RwLock<Arc<[Arc<Service>]>>,
    /// Those that the operator no longer allows. The agent gets them back if the operator allows them again.
    withheld: Mutex<Vec<Arc<Service>>>,
}

impl Tunnel {
    /// Creates a tunnel for an authenticated agent. It has no lane yet.
    pub fn new(id: TunnelId, mut login: Authenticated, secret: LaneSecret, max_streams: usize) -> Self {
        Self {
            id,
            // Moved, not cloned: a service that is removed must release its port.
            services: Services {
                current: RwLock::new(std::mem::take(&mut login.services).into()),
                withheld: Mutex::default(),
            },
            login,
            secret,
            lanes: RwLock::new(Lanes::new()),
            lane_request: LaneRequest::default(),
            permits: Permits::new(max_streams),
            retired: watch::Sender::new(None),
            names_changed: Notify::new(),
            activation: AtomicU64::new(u64::MAX),
        }
    }

    /// Returns its id.
    pub fn id(&self) -> TunnelId {
        self.id
    }

    /// Returns the client that it belongs to.
    pub fn client(&self) -> &ClientId {
        &self.login.client
    }

    /// Returns which run of the agent it belongs to.
    pub fn instance(&self) -> InstanceId {
        self.login.agent.instance
    }

    /// Returns name, version and platform of the agent.
    pub fn agent(&self) -> &str {
        &self.login.agent.description
    }

    /// Describes its agent for other agents of the client.
    pub fn as_other(&self) -> OtherAgent {
        let host = self.login.agent.host.clone();
        OtherAgent { agent: self.agent().to_owned(), host, address: self.peer().ip().to_canonical() }
    }

    /// Returns the number of the agent's start. Later starts have higher numbers.
    pub fn start(&self) -> u64 {
        self.login.agent.start
    }

    /// Returns the key by which tunnels that offer the same name are compared: the highest has the name. Of two tunnels of
    /// one start, that is the one that was activated last.
    pub(crate) fn rank(&self) -> (u64, u64) {
        (self.start(), self.activation.load(Ordering::Relaxed))
    }

    /// Returns whether its agent supports standby.
    pub fn can_stand_by(&self) -> bool {
        self.login.agent.can_stand_by
    }

    /// Returns whether its agent says that it is on standby for `name`.
    pub(crate) fn is_standby_for(&self, name: &Name) -> bool {
        self.login.agent.standby_for.contains(name)
    }

    /// Returns the address that its first lane came from.
    pub fn peer(&self) -> SocketAddr {
        self.login.agent.peer
    }

    /// Returns when the agent logged in.
    pub fn since(&self) -> Timestamp {
        self.login.agent.since
    }

    /// Returns what the login was checked against. The tunnel may stay open for as long as that is valid.
    pub fn credential(&self) -> &Credential {
        &self.login.credential
    }

    /// Returns what all visitors of its client use together.
    pub fn usage(&self) -> &Arc<ClientUse> {
        &self.login.usage
    }

    /// Returns the services that the agent offers now.
    pub fn services(&self) -> Arc<[Arc<Service>]> {
        Arc::clone(&self.services.current.read())
    }

    /// Stores services that are no longer allowed, in case they are allowed again. Services with a public port are not stored:
    /// their port is released, and the agent offers them again with its next login.
    pub(crate) fn withhold(&self, services: impl Iterator<Item = Arc<Service>>) {
        self.services.withheld.lock().extend(services.filter(|service| service.port().is_none()));
    }

    /// Removes and returns the withheld services which `may` be offered again.
    pub(crate) fn take_withheld(&self, may: impl Fn(&Service) -> bool) -> Vec<Arc<Service>> {
        self.services.withheld.lock().extract_if(.., |service| may(service)).collect()
    }

    /// Forgets the withheld services, because the agent offers others by now.
    pub(crate) fn forget_withheld(&self) {
        self.services.withheld.lock().clear();
    }

    /// Replaces the services. Only the registry calls this, because names depend on it.
    pub(crate) fn set_services(&self, services: Arc<[Arc<Service>]>) {
        *self.services.current.write() = services;
    }

    /// Returns the secret with which further lanes join.
    pub fn secret(&self) -> &LaneSecret {
        &self.secret
    }

    /// Returns the number of open streams.
    pub fn streams(&self) -> usize {
        self.permits.in_use()
    }

    /// Returns whether another lane may join.
    pub fn has_room_for_a_lane(&self) -> bool {
        self.lanes.read().has_room()
    }

    /// Returns the open lanes.
    pub fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.read().open().to_vec()
    }

    /// Returns whether it has its first lane, or has lost its last one since.
    pub(crate) fn has_been_up(&self) -> bool {
        let lanes = self.lanes.read();
        lanes.is_closed() || !lanes.open().is_empty()
    }

    /// Returns whether it accepts new visitors.
    pub(crate) fn is_serving(&self) -> bool {
        self.has_been_up() && self.retired.borrow().is_none()
    }

    /// Adds its first lane, which activates it. No other lane joins before that.
    pub(crate) fn activate(&self, lane: &Arc<Lane>, activation: u64) {
        self.activation.store(activation, Ordering::Relaxed);
        self.lanes.write().first(lane);
    }

    /// Adds a further lane. Returns `false` if the tunnel has ended or has as many as it may.
    pub(crate) fn add_lane(&self, lane: &Arc<Lane>) -> bool {
        let added = self.lanes.write().add(lane);
        if added {
            self.lane_request.fulfilled();
        }
        added
    }

    /// Removes a lane. Returns whether it was the last one; no other lane may join after that.
    pub(crate) fn remove_lane(&self, gone: &Lane) -> bool {
        self.lanes.write().remove(gone)
    }

    /// Makes a lane accept no more streams if it is idle and not the last one that does. Returns whether it was.
    pub(crate) fn release_if_spare(&self, lane: &Lane) -> bool {
        self.lanes.write().release_if_spare(lane)
    }

    /// Requests that the agent is told which names lead to it. Changes before that notice is sent share it.
    pub(crate) fn notify_names_changed(&self) {
        self.names_changed.notify_one();
    }

    /// Waits for the next name change that the agent is to be told. Each change wakes one of the waiting lanes.
    pub(crate) async fn names_changed(&self) {
        self.names_changed.notified().await;
    }

    /// Accepts no new visitors from now on. The first reason counts, but the operator may still close a tunnel that drains.
    pub fn retire(&self, why: RetireReason) {
        self.retired.send_if_modified(|retired| {
            let counts = retired.as_ref().is_none_or(|first| why.is_by_operator() && !first.is_immediate());
            if counts {
                *retired = Some(why);
            }
            counts
        });
    }

    /// Returns a receiver that yields why the tunnel is retired, once it is.
    pub fn retired(&self) -> watch::Receiver<Option<RetireReason>> {
        self.retired.subscribe()
    }

    /// Requests another lane from the agent. Returns whether the request could be queued.
    pub fn request_lane(&self) -> bool {
        self.notify(&Control::OpenLane)
    }

    /// Queues a notice on one of the lanes. Returns whether there was room.
    pub fn notify(&self, notice: &Control) -> bool {
        self.lanes.read().open().iter().any(|lane| lane.notify(notice.clone()))
    }

    /// Opens a stream on the least loaded lane and sends `first` on it. Requests another lane from the agent if that lane has
    /// a high load. `service` is the limit of the service, if it has one.
    ///
    /// # Errors
    /// Nothing was sent. [`OpenFailure`] says whether another attempt makes sense.
    pub async fn open(
        &self,
        first: &[u8],
        deadline: Duration,
        service: Option<&Permits>,
    ) -> Result<(Stream, StreamPermit), OpenFailure> {
        loop {
            let service = service.map(|limit| limit.try_acquire().ok_or(OpenFailure::Busy)).transpose()?;
            let client = self.usage().stream().ok_or(OpenFailure::ClientBusy)?;
            let tunnel = self.permits.try_acquire().ok_or(OpenFailure::Busy)?;
            let selected = self.lanes.read().select()?;
            if selected.needs_another && self.lane_request.is_due() {
                self.request_lane();
            }
            let lane = Arc::clone(&selected.lane);
            let permit = StreamPermit::new(client, tunnel, service, selected);
            match tokio::time::timeout(deadline, lane.session().open(first)).await {
                Ok(Ok(stream)) => {
                    lane.request_replacement_if_due();
                    return Ok((stream, permit));
                }
                // The lane broke before anything was sent: another one may work.
                Ok(Err(_)) => lane.stop_accepting(),
                Err(_) => return Err(OpenFailure::Stalled),
            }
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({} of {}, {} lanes)", self.id, self.client(), self.lanes.read().open().len())
    }
}
