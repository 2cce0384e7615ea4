//! One connection of a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::limits::{Permit, Permits};
use crate::link::session::Session;
use crate::protocol::control::Control;
use crate::values::LaneId;

/// Maximum number of notices that wait for a lane's control stream. There are few kinds and each is sent rarely.
const NOTICES: usize = 8;

/// How many more streams an exhausted lane opens before it repeats an unanswered request for a replacement.
const REQUEST_AGAIN: u64 = 1024;

/// With so many open streams, new ones should go on another lane: the multiplexer walks all streams of a session for each
/// new one, and with 256 that took a tenth of the server's time.
const MANY: usize = 96;

/// One connection of a tunnel.
#[derive(Debug)]
pub struct Lane {
    id: LaneId,
    session: Session,
    permits: Permits,
    /// Counts open streams, so that draining can wait for the last one.
    open: TaskTracker,
    accepting: AtomicBool,
    /// The number of bulk streams.
    bulk: AtomicUsize,
    /// Cancelled once another lane replaces this one, which then only finishes its open streams.
    replaced: CancellationToken,
    notices: mpsc::Sender<Control>,
    /// How many streams it opens before another lane replaces it.
    lifetime: u64,
    /// The number of streams at which it requests that lane, for the first time or again.
    rollover_at: AtomicU64,
}

impl Lane {
    /// Creates a lane over `session`. The receiver yields the notices that its control task has to send.
    ///
    /// The lane carries up to `max_streams` at once, and `lifetime` in total before it requests a replacement: yamux numbers
    /// a session's streams with 31 bits and cannot start over.
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
        let replaced = CancellationToken::new();
        let rollover_at = AtomicU64::new(lifetime);
        let bulk = AtomicUsize::new(0);
        let lane = Self { id, session, permits, open, accepting, bulk, replaced, notices, lifetime, rollover_at };
        (Arc::new(lane), queue)
    }

    /// Returns its id.
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Returns its session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the number of open streams.
    pub fn streams(&self) -> usize {
        self.permits.in_use()
    }

    /// Accepts no new streams from now on. Open streams continue.
    pub fn stop_accepting(&self) {
        self.accepting.store(false, Ordering::Release);
    }

    /// Marks the lane as replaced by another one.
    pub(crate) fn mark_replaced(&self) {
        self.stop_accepting();
        self.replaced.cancel();
    }

    /// Waits until another lane has replaced it.
    pub async fn replaced(&self) {
        self.replaced.cancelled().await;
    }

    /// Waits until the last open stream has ended.
    pub async fn idle(&self) {
        self.open.wait().await;
    }

    /// Returns whether it accepts new streams.
    pub(crate) fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire) && !self.session.is_closed()
    }

    /// Queues a notice. Returns whether there was room.
    pub fn notify(&self, notice: Control) -> bool {
        self.notices.try_send(notice).is_ok()
    }

    /// Requests a replacement if the lane has opened as many streams as it should. It serves until the replacement is there.
    pub(crate) fn request_replacement_if_due(&self) {
        let (opened, due) = (self.session.opened(), self.rollover_at.load(Ordering::Relaxed));
        // Of several concurrent callers, one sends the request.
        let is_mine = |next| self.rollover_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if opened >= due && is_mine(opened + REQUEST_AGAIN) && !self.notify(Control::Rollover) {
            // There was no room for the notice: the next stream tries again.
            self.rollover_at.store(opened, Ordering::Relaxed);
        }
    }

    /// Returns whether the lane has opened so many streams that another one should replace it.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.session.opened() >= self.lifetime
    }

    /// Returns the key by which lanes are compared: first bulk streams, then all open streams.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.bulk.load(Ordering::Relaxed), self.permits.in_use())
    }

    /// Returns whether new streams should go on another lane: this one carries bulk, many streams, or three quarters of what
    /// it may.
    pub(crate) fn is_heavy(&self) -> bool {
        let (bulk, streams) = self.load();
        bulk > 0 || streams >= MANY || streams.saturating_mul(4) >= self.permits.capacity().saturating_mul(3)
    }
    /// Counts a bulk stream.
    pub(crate) fn add_bulk(&self) {
        self.bulk.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a bulk stream no longer.
    pub(crate) fn remove_bulk(&self) {
        self.bulk.fetch_sub(1, Ordering::Relaxed);
    }

    /// Reserves a stream; `None` if the lane carries as many as it may.
    pub(crate) fn try_acquire(&self) -> Option<(Permit, TaskTrackerToken)> {
        Some((self.permits.try_acquire()?, self.open.token()))
    }

    /// Returns whether it carries as many streams as it may.
    pub(crate) fn is_full(&self) -> bool {
        self.streams() >= self.permits.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::carriers::mux;
    use crate::link::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH};
    use crate::link::session::Stream;

    async fn open_more(lane: &Lane, streams: u64) -> Vec<Stream> {
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
        lane.request_replacement_if_due();
        assert_eq!(rollovers(&mut queue), 0);
        // Two streams are opened at once: neither sees the exact number.
        open.extend(open_more(&lane, 2).await);
        while lane.notify(Control::Heartbeat) {}
        lane.request_replacement_if_due();
        assert_eq!(rollovers(&mut queue), 0, "there was no room for the notice");
        lane.request_replacement_if_due();
        assert_eq!(rollovers(&mut queue), 1);
        open.extend(open_more(&lane, 100).await);
        lane.request_replacement_if_due();
        assert_eq!(rollovers(&mut queue), 0, "once is enough for a while");
        lane.rollover_at.store(lane.session.opened(), Ordering::Relaxed);
        lane.request_replacement_if_due();
        lane.request_replacement_if_due();
        assert_eq!(rollovers(&mut queue), 1, "and then again");
    }
}
