//! The permit of one open stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::limits::Permit;
use crate::server::directory::tunnel::lane::Lane;
use crate::server::directory::tunnel::lanes::SelectedLane;

/// A stream that transfers so many bytes within [`BULK_TIME`] is bulk: other streams avoid its lane.
const BULK: u64 = 1024 * 1024;
const BULK_TIME: Duration = Duration::from_secs(1);

/// Counts one stream in its client, its tunnel, its lane and a service with a limit of its own, and measures what it transfers. Lives as long as the exchange.
#[derive(Debug)]
pub struct StreamPermit {
    _client: Permit,
    _tunnel: Permit,
    _service: Option<Permit>,
    _lane: Permit,
    _open: TaskTrackerToken,
    lane: Arc<Lane>,
    opened: Instant,
    moved: AtomicU64,
    /// When the last [`BULK`] was complete, in milliseconds since the stream was opened.
    last_full_ms: AtomicU64,
    is_bulk: AtomicBool,
}

impl StreamPermit {
    /// Creates the permit of a stream on the selected lane.
    pub(crate) fn new(client: Permit, tunnel: Permit, service: Option<Permit>, selected: SelectedLane) -> Self {
        let SelectedLane { lane, permit, open, .. } = selected;
        Self {
            _client: client,
            _tunnel: tunnel,
            _service: service,
            _lane: permit,
            _open: open,
            lane,
            opened: Instant::now(),
            moved: AtomicU64::new(0),
            last_full_ms: AtomicU64::new(0),
            is_bulk: AtomicBool::new(false),
        }
    }

    /// Records that the stream has transferred so many bytes, either way. Reads the clock once for each [`BULK`] of them.
    pub fn moved(&self, bytes: usize) {
        let bytes = bytes as u64;
        let before = self.moved.fetch_add(bytes, Ordering::Relaxed);
        if before / BULK == (before + bytes) / BULK || self.is_bulk.load(Ordering::Relaxed) {
            return;
        }
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let took = now.saturating_sub(self.last_full_ms.swap(now, Ordering::Relaxed));
        if u128::from(took) < BULK_TIME.as_millis() && !self.is_bulk.swap(true, Ordering::Relaxed) {
            self.lane.add_bulk();
        }
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if self.is_bulk.load(Ordering::Relaxed) {
            self.lane.remove_bulk();
        }
    }
}
