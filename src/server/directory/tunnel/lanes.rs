//! The lanes of a tunnel: which one a new stream goes on, and when the tunnel needs more or fewer of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::limits::Permit;
use crate::server::directory::tunnel::OpenFailure;
use crate::server::directory::tunnel::lane::Lane;

/// Maximum number of lanes of one tunnel.
pub const MAX_LANES: usize = 4;

/// After how long a request for another lane is repeated.
const REQUEST_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The open lanes of a tunnel.
pub(crate) struct Lanes {
    open: Vec<Arc<Lane>>,
    /// The last lane has ended: no other one may join.
    closed: bool,
}

/// The lane selected for a new stream.
pub(crate) struct SelectedLane {
    pub(crate) lane: Arc<Lane>,
    pub(crate) permit: Permit,
    pub(crate) open: TaskTrackerToken,
    /// Whether the tunnel should have another lane, and may have one.
    pub(crate) needs_another: bool,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self { open: Vec::new(), closed: false }
    }

    /// Returns the open lanes.
    pub(crate) fn open(&self) -> &[Arc<Lane>] {
        &self.open
    }

    /// Returns whether the last lane has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns whether another lane may join. Exhausted lanes do not count: the next one replaces them.
    pub(crate) fn has_room(&self) -> bool {
        let fresh = |lane: &&Arc<Lane>| lane.is_accepting() && !lane.is_exhausted();
        !self.closed && self.open.iter().filter(fresh).count() < MAX_LANES
    }

    /// Adds the first lane.
    pub(crate) fn first(&mut self, lane: &Arc<Lane>) {
        self.open.push(Arc::clone(lane));
    }

    /// Adds a further lane, if there is room. It replaces exhausted lanes, which only finish their open streams.
    pub(crate) fn add(&mut self, lane: &Arc<Lane>) -> bool {
        if !self.has_room() {
            return false;
        }
        self.open.iter().filter(|old| old.is_exhausted()).for_each(|old| old.mark_replaced());
        self.open.push(Arc::clone(lane));
        true
    }

    /// Removes a lane. Returns whether it was the last one; no other lane may join after that.
    pub(crate) fn remove(&mut self, gone: &Lane) -> bool {
        self.open.retain(|lane| lane.id() != gone.id());
        self.closed |= self.open.is_empty();
        self.closed
    }

    /// Makes a lane accept no more streams if it is idle and not the last one that does. Returns whether it was.
    pub(crate) fn release_if_spare(&mut self, lane: &Lane) -> bool {
        let others = self.open.iter().filter(|other| other.id() != lane.id() && other.is_accepting());
        let is_spare = lane.is_accepting() && lane.streams() == 0 && others.count() > 0;
        if is_spare {
            lane.stop_accepting();
        }
        is_spare
    }

    /// Selects the lane with the fewest bulk streams, and of those the one with the fewest open streams.
    pub(crate) fn select(&self) -> Result<SelectedLane, OpenFailure> {
        let mut failure = OpenFailure::Gone;
        let mut best: Option<&Arc<Lane>> = None;
        for lane in self.open.iter().filter(|lane| lane.is_accepting()) {
            if lane.is_full() {
                failure = OpenFailure::Busy;
            } else if best.is_none_or(|best| lane.load() < best.load()) {
                best = Some(lane);
            }
        }
        let lane = best.ok_or(failure)?;
        let (permit, open) = lane.try_acquire().ok_or(OpenFailure::Busy)?;
        let needs_another = lane.is_heavy() && self.has_room();
        Ok(SelectedLane { lane: Arc::clone(lane), permit, open, needs_another })
    }
}

/// When another lane was last requested from the agent.
#[derive(Debug, Default)]
pub(crate) struct LaneRequest(parking_lot::Mutex<Option<Instant>>);

impl LaneRequest {
    /// Returns whether a request is due, and records it as sent.
    pub(crate) fn is_due(&self) -> bool {
        let mut sent = self.0.lock();
        let is_due = sent.is_none_or(|at| at.elapsed() >= REQUEST_AGAIN_AFTER);
        if is_due {
            *sent = Some(Instant::now());
        }
        is_due
    }

    /// Records that a lane has joined: the next one may be requested immediately.
    pub(crate) fn fulfilled(&self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Permits;
    use crate::link::carriers::mux;
    use crate::link::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH};
    use crate::server::directory::tunnel::StreamPermit;
    use crate::values::LaneId;

    fn lane(max_streams: usize) -> Arc<Lane> {
        let (pipe, _far) = tokio::io::duplex(1024);
        let config = MuxConfig { max_streams: 100, yield_first: false, window_growth: WINDOW_GROWTH };
        let (session, driver) = mux::session(Box::new(pipe), Side::Server, config);
        // The session lives as long as its driver.
        Box::leak(Box::new(driver));
        Lane::new(LaneId::next(), session, max_streams, 1_000_000).0
    }

    fn permit(selected: SelectedLane) -> StreamPermit {
        let all = Permits::new(100);
        StreamPermit::new(all.try_acquire().unwrap(), all.try_acquire().unwrap(), None, selected)
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
            (0..4).map(|_| permit(lanes.select().unwrap_or_else(|_| panic!("room")))).collect();
        assert_eq!((one.streams(), two.streams()), (2, 2));
        // A megabyte in no time.
        open[0].moved(600_000);
        assert_eq!(one.load().0 + two.load().0, 0);
        open[0].moved(600_000);
        let (bulk, free) = if one.load().0 == 1 { (&one, &two) } else { (&two, &one) };
        open.push(permit(lanes.select().ok().unwrap()));
        assert_eq!(free.streams(), 3, "away from the bulk");
        let last = lanes.select().ok().unwrap();
        assert!(Arc::ptr_eq(&last.lane, bulk) && last.needs_another, "but rather there than nowhere");
        open.push(permit(last));
        assert!(matches!(lanes.select(), Err(OpenFailure::Busy)));
        drop(open);
        assert_eq!((one.load(), two.load()), ((0, 0), (0, 0)));
    }

    #[tokio::test]
    async fn another_lane_is_wanted_when_one_gets_full_and_not_asked_for_twice() {
        let mut lanes = Lanes::new();
        lanes.first(&lane(4));
        let mut open = Vec::new();
        let mut wants = || {
            let selected = lanes.select().ok().unwrap();
            let wants = selected.needs_another;
            open.push(permit(selected));
            wants
        };
        assert_eq!([wants(), wants(), wants(), wants()], [false, false, true, true]);
        let request = LaneRequest::default();
        assert_eq!([request.is_due(), request.is_due()], [true, false]);
        request.fulfilled();
        assert!(request.is_due());
    }

    #[tokio::test]
    async fn only_a_lane_that_is_idle_and_not_the_last_can_go() {
        let (mut lanes, [one, two]) = two(3);
        let open = permit(lanes.select().ok().unwrap());
        let (busy, idle) = if one.streams() == 1 { (&one, &two) } else { (&two, &one) };
        assert!(!lanes.release_if_spare(busy) && lanes.release_if_spare(idle));
        drop(open);
        assert!(!lanes.release_if_spare(busy), "it is the last one that takes anything");
        assert!(Arc::ptr_eq(&lanes.select().ok().unwrap().lane, busy));
    }
}
