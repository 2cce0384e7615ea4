//! A tunnel: one connected agent as the server sees it, carried by lanes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::login::Authenticated;
use super::service::Service;
use crate::auth::{Credential, LaneSecret};
use crate::limits::{ClientUse, Permit, Permits};
use crate::protocol::control::Control;
use crate::transport::mux::{MuxStream, Session};
use crate::values::{ClientId, InstanceId, LaneId, TunnelId};

/// The most lanes that carry one tunnel.
pub const MAX_LANES: usize = 4;

/// Notices that may wait for a lane's control stream. There are few kinds and each is sent rarely.
const NOTICES: usize = 8;

/// How many more streams a worn lane opens before it asks again for a successor that has not come.
const ASK_AGAIN: u64 = 1024;

/// Why a tunnel takes no new visitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retired {
    /// A newer login took over its last name. Final for the agent.
    Replaced {
        /// What program took over.
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
    pub(super) fn is_at_once(&self) -> bool {
        matches!(self, Self::CameBack | Self::Revoked | Self::Disconnected)
    }
}

/// Why no stream could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFailure {
    /// As many streams as allowed are open, in the tunnel or on each of its lanes.
    Busy,
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
    secret: LaneSecret,
    lanes: RwLock<Lanes>,
    permits: Permits,
    retired: watch::Sender<Option<Retired>>,
}

struct Lanes {
    living: Vec<Arc<Lane>>,
    /// The last lane is gone: nobody may join any more.
    closed: bool,
}

impl Lanes {
    /// Worn lanes do not count: the next one takes their place.
    fn has_room(&self) -> bool {
        let fresh = |lane: &&Arc<Lane>| lane.is_accepting() && !lane.is_worn();
        !self.closed && self.living.iter().filter(fresh).count() < MAX_LANES
    }
}

/// One connection of a tunnel.
#[derive(Debug)]
pub struct Lane {
    id: LaneId,
    session: Session,
    permits: Permits,
    /// Counts open streams, so that a drain can wait for the last one.
    open: TaskTracker,
    accepting: AtomicBool,
    /// Says that the lane only finishes what is open, however long that takes.
    succeeded: CancellationToken,
    notices: mpsc::Sender<Control>,
    /// How many streams it opens before another lane takes its place.
    lifetime: u64,
    /// After how many streams it asks for that lane, for the first time or again.
    ask_at: AtomicU64,
}

/// What counts one stream, in its tunnel and on its lane. Lives as long as the exchange.
#[derive(Debug)]
pub struct StreamPermit {
    _client: Permit,
    _tunnel: Permit,
    _lane: Permit,
    _open: TaskTrackerToken,
}

impl Tunnel {
    /// A tunnel for an agent that has proved who it is, still without a lane.
    pub fn new(id: TunnelId, login: Authenticated, secret: LaneSecret, max_streams: usize) -> Self {
        Self {
            id,
            services: RwLock::new(login.services().into()),
            login,
            secret,
            lanes: RwLock::new(Lanes { living: Vec::new(), closed: false }),
            permits: Permits::new(max_streams),
            retired: watch::Sender::new(None),
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

    /// The registry's to call, which keeps the names.
    pub(super) fn set_services(&self, services: Arc<[Arc<Service>]>) {
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
        self.lanes.read().living.clone()
    }

    /// Whether it has its first lane, or has lost its last one since.
    pub(super) fn has_been_up(&self) -> bool {
        let lanes = self.lanes.read();
        lanes.closed || !lanes.living.is_empty()
    }

    /// Whether new visitors are meant to come.
    pub(super) fn is_serving(&self) -> bool {
        self.has_been_up() && self.retired.borrow().is_none()
    }

    /// The lane that brings it up. Nobody joins before that.
    pub(super) fn first_lane(&self, lane: &Arc<Lane>) {
        self.lanes.write().living.push(Arc::clone(lane));
    }

    /// Adds a further lane; `false` if the tunnel is gone or has as many as it may.
    pub(super) fn add_lane(&self, lane: &Arc<Lane>) -> bool {
        let mut lanes = self.lanes.write();
        if !lanes.has_room() {
            return false;
        }
        // The successor of a worn lane is here: the old one only finishes what it has.
        lanes.living.iter().filter(|old| old.is_worn()).for_each(|old| old.succeed());
        lanes.living.push(Arc::clone(lane));
        true
    }

    /// Removes a lane; `true` if it was the last one, after which nobody may join any more.
    pub(super) fn remove_lane(&self, gone: &Lane) -> bool {
        let mut lanes = self.lanes.write();
        lanes.living.retain(|lane| lane.id != gone.id);
        lanes.closed |= lanes.living.is_empty();
        lanes.closed
    }

    /// Takes no new visitors from now on. The first reason counts.
    pub fn retire(&self, why: Retired) {
        self.retired.send_if_modified(|retired| {
            let first = retired.is_none();
            retired.get_or_insert(why);
            first
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
        self.lanes.read().living.iter().any(|lane| lane.notify(notice.clone()))
    }

    /// Opens a stream on the lane with the fewest open ones and sends `first` on it.
    ///
    /// # Errors
    /// Nothing was sent; [`OpenFailure`] says whether it is worth trying again.
    pub async fn open(&self, first: &[u8], deadline: Duration) -> Result<(MuxStream, StreamPermit), OpenFailure> {
        loop {
            let client = self.usage().stream().ok_or(OpenFailure::Busy)?;
            let tunnel = self.permits.try_acquire().ok_or(OpenFailure::Busy)?;
            let (lane, permit, open) = self.choose()?;
            let permit = StreamPermit { _client: client, _tunnel: tunnel, _lane: permit, _open: open };
            match tokio::time::timeout(deadline, lane.session.open(first)).await {
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

    fn choose(&self) -> Result<(Arc<Lane>, Permit, TaskTrackerToken), OpenFailure> {
        let lanes = self.lanes.read();
        let accepting = || lanes.living.iter().filter(|lane| lane.is_accepting());
        let lane = accepting().min_by_key(|lane| lane.permits.in_use()).ok_or(OpenFailure::Gone)?;
        let permit = lane.permits.try_acquire().ok_or(OpenFailure::Busy)?;
        Ok((Arc::clone(lane), permit, lane.open.token()))
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({} of {}, {} lanes)", self.id, self.client(), self.lanes.read().living.len())
    }
}

impl Lane {
    /// A lane over `session`, and what its control task has to send. It carries up to `max_streams` at once, and
    /// `lifetime` in all before it asks for a successor: yamux numbers a session's streams with 31 bits and cannot
    /// start over.
    pub fn new(
        id: LaneId,
        session: Session,
        max_streams: usize,
        lifetime: u64,
    ) -> (Arc<Self>, mpsc::Receiver<Control>) {
        let (notices, queue) = mpsc::channel(NOTICES);
        let open = TaskTracker::new();
        open.close();
        let permits = Permits::new(max_streams);
        let accepting = AtomicBool::new(true);
        let succeeded = CancellationToken::new();
        let ask_at = AtomicU64::new(lifetime);
        (Arc::new(Self { id, session, permits, open, accepting, succeeded, notices, lifetime, ask_at }), queue)
    }

    /// The lane's number.
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// The session on it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.permits.in_use()
    }

    /// Takes no new streams from now on; open ones go on.
    pub fn stop_accepting(&self) {
        self.accepting.store(false, Ordering::Release);
    }

    /// Another lane has taken its place.
    fn succeed(&self) {
        self.stop_accepting();
        self.succeeded.cancel();
    }

    /// Waits until another lane has taken its place.
    pub async fn is_succeeded(&self) {
        self.succeeded.cancelled().await;
    }

    /// Waits until the last open stream has ended.
    pub async fn idle(&self) {
        self.open.wait().await;
    }

    fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire) && !self.session.is_closed()
    }

    /// Queues a notice; says whether there was room.
    pub fn notify(&self, notice: Control) -> bool {
        self.notices.try_send(notice).is_ok()
    }

    /// A lane that nears the end of its stream numbers asks for its successor, and goes on until it is there.
    fn check_wear(&self) {
        let (opened, due) = (self.session.opened(), self.ask_at.load(Ordering::Relaxed));
        // Of those who find it due at the same time, one asks.
        let mine = |next| self.ask_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if opened >= due && mine(opened + ASK_AGAIN) && !self.notify(Control::Rollover) {
            // There was no room for the notice: the next stream asks.
            self.ask_at.store(opened, Ordering::Relaxed);
        }
    }

    /// Whether the lane has opened so many streams that a successor should take over.
    fn is_worn(&self) -> bool {
        self.session.opened() >= self.lifetime
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::mux::{self, MuxConfig, Side};

    async fn open_more(lane: &Lane, streams: u64) -> Vec<MuxStream> {
        let mut opened = Vec::new();
        for _ in 0..streams {
            opened.push(lane.session.open(b"!").await.unwrap());
        }
        opened
    }

    fn rollovers(queue: &mut mpsc::Receiver<Control>) -> usize {
        std::iter::from_fn(|| queue.try_recv().ok()).filter(|notice| matches!(notice, Control::Rollover)).count()
    }

    #[tokio::test]
    async fn a_worn_lane_asks_for_its_successor_until_it_is_heard() {
        let (pipe, _far) = tokio::io::duplex(1024);
        let config = MuxConfig { max_streams: 100, yield_first: false };
        let (session, _driver) = mux::session(Box::new(pipe), Side::Server, config);
        let (lane, mut queue) = Lane::new(LaneId::next(), session, 100, 5);
        let mut open = open_more(&lane, 4).await;
        lane.check_wear();
        assert_eq!(rollovers(&mut queue), 0);
        // Two streams are opened at once: neither sees the exact number.
        open.extend(open_more(&lane, 2).await);
        while lane.notify(Control::Heartbeat) {}
        lane.check_wear();
        assert_eq!(rollovers(&mut queue), 0, "there was no room for the notice");
        lane.check_wear();
        assert_eq!(rollovers(&mut queue), 1);
        open.extend(open_more(&lane, 100).await);
        lane.check_wear();
        assert_eq!(rollovers(&mut queue), 0, "once is enough for a while");
        lane.ask_at.store(lane.session.opened(), Ordering::Relaxed);
        lane.check_wear();
        lane.check_wear();
        assert_eq!(rollovers(&mut queue), 1, "and then again");
    }
}
