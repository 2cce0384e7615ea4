//! The lanes of a tunnel: which one the next stream goes on, when another one is wanted, and when one is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::OpenFailure;
use crate::limits::{Permit, Permits};
use crate::link::mux::Session;
use crate::protocol::control::Control;
use crate::values::LaneId;

/// The most lanes that carry one tunnel.
pub const MAX_LANES: usize = 4;

/// Notices that may wait for a lane's control stream. There are few kinds and each is sent rarely.
const NOTICES: usize = 8;

/// How many more streams a worn lane opens before it asks again for a successor that has not come.
const ASK_AGAIN: u64 = 1024;

/// When a further lane that was asked for and has not come is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A stream that moves so many bytes within [`BULK_TIME`] is bulk: others are better off on another lane.
const BULK: u64 = 1024 * 1024;
const BULK_TIME: Duration = Duration::from_secs(1);

/// With so many streams, others are better off on another lane: the multiplexer looks at all of a session for each one
/// that it opens, and with 256 that took a tenth of the server's time.
const MANY: usize = 96;

/// The living lanes of a tunnel.
pub(crate) struct Lanes {
    living: Vec<Arc<Lane>>,
    /// The last lane is gone: nobody may join any more.
    closed: bool,
}

/// The lane that a stream goes on.
pub(crate) struct Chosen {
    pub(crate) lane: Arc<Lane>,
    pub(crate) permit: Permit,
    pub(crate) open: TaskTrackerToken,
    /// Another lane is wanted, and there may be one.
    pub(crate) wants_another: bool,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self { living: Vec::new(), closed: false }
    }

    pub(crate) fn living(&self) -> &[Arc<Lane>] {
        &self.living
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Worn lanes do not count: the next one takes their place.
    pub(crate) fn has_room(&self) -> bool {
        let fresh = |lane: &&Arc<Lane>| lane.is_accepting() && !lane.is_worn();
        !self.closed && self.living.iter().filter(fresh).count() < MAX_LANES
    }

    /// Adds the first lane.
    pub(crate) fn first(&mut self, lane: &Arc<Lane>) {
        self.living.push(Arc::clone(lane));
    }

    /// Adds a further lane, if there is room. A worn one only finishes what it has from then on.
    pub(crate) fn add(&mut self, lane: &Arc<Lane>) -> bool {
        if !self.has_room() {
            return false;
        }
        self.living.iter().filter(|old| old.is_worn()).for_each(|old| old.succeed());
        self.living.push(Arc::clone(lane));
        true
    }

    /// Removes a lane; `true` if it was the last one, after which nobody may join any more.
    pub(crate) fn remove(&mut self, gone: &Lane) -> bool {
        self.living.retain(|lane| lane.id != gone.id);
        self.closed |= self.living.is_empty();
        self.closed
    }

    /// Whether the tunnel can do without this lane, on which nothing is open: then it takes nothing any more.
    pub(crate) fn let_go(&mut self, lane: &Lane) -> bool {
        let others = self.living.iter().filter(|other| other.id != lane.id && other.is_accepting());
        let is_spare = lane.is_accepting() && lane.streams() == 0 && others.count() > 0;
        if is_spare {
            lane.stop_accepting();
        }
        is_spare
    }

    /// The lane with the least bulk on it, and of those the one with the fewest open streams.
    pub(crate) fn choose(&self) -> Result<Chosen, OpenFailure> {
        let mut failure = OpenFailure::Gone;
        let mut best: Option<&Arc<Lane>> = None;
        for lane in self.living.iter().filter(|lane| lane.is_accepting()) {
            if lane.streams() >= lane.permits.capacity() {
                failure = OpenFailure::Busy;
            } else if best.is_none_or(|best| lane.load() < best.load()) {
                best = Some(lane);
            }
        }
        let lane = best.ok_or(failure)?;
        let permit = lane.permits.try_acquire().ok_or(OpenFailure::Busy)?;
        let wants_another = lane.is_heavy() && self.has_room();
        Ok(Chosen { lane: Arc::clone(lane), permit, open: lane.open.token(), wants_another })
    }
}

/// When a further lane was last asked for.
#[derive(Debug, Default)]
pub(crate) struct LastAsked(parking_lot::Mutex<Option<Instant>>);

impl LastAsked {
    /// Whether it is time to ask, which then counts as done.
    pub(crate) fn is_due(&self) -> bool {
        let mut asked = self.0.lock();
        let is_due = asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN_AFTER);
        if is_due {
            *asked = Some(Instant::now());
        }
        is_due
    }

    /// One has come: the next one may be asked for at once.
    pub(crate) fn has_come(&self) {
        *self.0.lock() = None;
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
    /// How many of its streams are bulk.
    bulk: AtomicUsize,
    /// Says that the lane only finishes what is open, however long that takes.
    succeeded: CancellationToken,
    notices: mpsc::Sender<Control>,
    /// How many streams it opens before another lane takes its place.
    lifetime: u64,
    /// After how many streams it asks for that lane, for the first time or again.
    ask_at: AtomicU64,
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
        let bulk = AtomicUsize::new(0);
        let lane = Self { id, session, permits, open, accepting, bulk, succeeded, notices, lifetime, ask_at };
        (Arc::new(lane), queue)
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
    pub(crate) fn check_wear(&self) {
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

    /// By what lanes are compared: bulk first.
    fn load(&self) -> (usize, usize) {
        (self.bulk.load(Ordering::Relaxed), self.permits.in_use())
    }

    /// Whether others are better off on another lane: it carries bulk, or many streams, or three quarters of what it may.
    fn is_heavy(&self) -> bool {
        let (bulk, streams) = self.load();
        bulk > 0 || streams >= MANY || streams.saturating_mul(4) >= self.permits.capacity().saturating_mul(3)
    }
}

/// What counts one stream, in its tunnel and on its lane, and what it moves. Lives as long as the exchange.
#[derive(Debug)]
pub struct StreamPermit {
    _client: Permit,
    _tunnel: Permit,
    _lane: Permit,
    _open: TaskTrackerToken,
    lane: Arc<Lane>,
    opened: Instant,
    moved: AtomicU64,
    /// When the last whole [`BULK`] was full, in milliseconds since it was opened.
    full_at: AtomicU64,
    is_bulk: AtomicBool,
}

impl StreamPermit {
    pub(crate) fn new(client: Permit, tunnel: Permit, chosen: Chosen) -> Self {
        let Chosen { lane, permit, open, .. } = chosen;
        Self {
            _client: client,
            _tunnel: tunnel,
            _lane: permit,
            _open: open,
            lane,
            opened: Instant::now(),
            moved: AtomicU64::new(0),
            full_at: AtomicU64::new(0),
            is_bulk: AtomicBool::new(false),
        }
    }

    /// So many bytes went over the stream, either way. Looks at the clock once for each [`BULK`] of them.
    pub fn moved(&self, bytes: usize) {
        let bytes = bytes as u64;
        let before = self.moved.fetch_add(bytes, Ordering::Relaxed);
        if before / BULK == (before + bytes) / BULK || self.is_bulk.load(Ordering::Relaxed) {
            return;
        }
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let took = now.saturating_sub(self.full_at.swap(now, Ordering::Relaxed));
        if u128::from(took) < BULK_TIME.as_millis() && !self.is_bulk.swap(true, Ordering::Relaxed) {
            self.lane.bulk.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if self.is_bulk.load(Ordering::Relaxed) {
            self.lane.bulk.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::mux;
    use crate::link::mux::{MuxConfig, MuxStream, Side, WINDOW_GROWTH};

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
        let config = MuxConfig { max_streams: 100, yield_first: false, window_growth: WINDOW_GROWTH };
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

    fn lane(max_streams: usize) -> Arc<Lane> {
        let (pipe, _far) = tokio::io::duplex(1024);
        let config = MuxConfig { max_streams: 100, yield_first: false, window_growth: WINDOW_GROWTH };
        let (session, driver) = mux::session(Box::new(pipe), Side::Server, config);
        // The session lives as long as its driver.
        Box::leak(Box::new(driver));
        Lane::new(LaneId::next(), session, max_streams, 1_000_000).0
    }

    fn permit(chosen: Chosen) -> StreamPermit {
        let all = Permits::new(100);
        StreamPermit::new(all.try_acquire().unwrap(), all.try_acquire().unwrap(), chosen)
    }

    /// Two lanes, and the streams that were opened on them so far.
    fn two(max_streams: usize) -> (Lanes, [Arc<Lane>; 2]) {
        let both = [lane(max_streams), lane(max_streams)];
        let mut lanes = Lanes::new();
        lanes.first(&both[0]);
        assert!(lanes.add(&both[1]));
        (lanes, both)
    }

    #[tokio::test]
    async fn streams_go_where_the_least_is_and_never_where_there_is_no_room() {
        let (lanes, [one, two]) = two(3);
        let mut open: Vec<StreamPermit> =
            (0..4).map(|_| permit(lanes.choose().unwrap_or_else(|_| panic!("room")))).collect();
        assert_eq!((one.streams(), two.streams()), (2, 2));
        // A megabyte in no time.
        open[0].moved(600_000);
        assert_eq!(one.load().0 + two.load().0, 0);
        open[0].moved(600_000);
        let (bulk, free) = if one.load().0 == 1 { (&one, &two) } else { (&two, &one) };
        open.push(permit(lanes.choose().ok().unwrap()));
        assert_eq!(free.streams(), 3, "away from the bulk");
        let last = lanes.choose().ok().unwrap();
        assert!(Arc::ptr_eq(&last.lane, bulk) && last.wants_another, "but rather there than nowhere");
        open.push(permit(last));
        assert!(matches!(lanes.choose(), Err(OpenFailure::Busy)));
        drop(open);
        assert_eq!((one.load(), two.load()), ((0, 0), (0, 0)));
    }

    #[tokio::test]
    async fn another_lane_is_wanted_when_one_gets_full_and_not_asked_for_twice() {
        let mut lanes = Lanes::new();
        lanes.first(&lane(4));
        let mut open = Vec::new();
        let mut wants = || {
            let chosen = lanes.choose().ok().unwrap();
            let wants = chosen.wants_another;
            open.push(permit(chosen));
            wants
        };
        assert_eq!([wants(), wants(), wants(), wants()], [false, false, true, true]);
        let asked = LastAsked::default();
        assert_eq!([asked.is_due(), asked.is_due()], [true, false]);
        asked.has_come();
        assert!(asked.is_due());
    }

    #[tokio::test]
    async fn only_a_lane_that_is_idle_and_not_the_last_can_go() {
        let (mut lanes, [one, two]) = two(3);
        let open = permit(lanes.choose().ok().unwrap());
        let (busy, idle) = if one.streams() == 1 { (&one, &two) } else { (&two, &one) };
        assert!(!lanes.let_go(busy) && lanes.let_go(idle));
        drop(open);
        assert!(!lanes.let_go(busy), "it is the last one that takes anything");
        assert!(Arc::ptr_eq(&lanes.choose().ok().unwrap().lane, busy));
    }
}
