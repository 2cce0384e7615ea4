//! When bytes last moved on a session's pipe. Cheap: it is written once for each turn of the driver's in which some did.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// `waiting` when nothing waits.
const NOTHING: u64 = u64::MAX;

/// When a session last received a byte, and since when its pipe takes none of those that wait to be sent.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// In microseconds since `began`, like `waiting`.
    heard: AtomicU64,
    waiting: AtomicU64,
}

impl Pulse {
    /// Of a session that begins now.
    pub fn new() -> Self {
        Self { began: Instant::now(), heard: AtomicU64::new(0), waiting: AtomicU64::new(NOTHING) }
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    /// The pipe was offered what there is to send. `took`: it took some of that; `rest`: and not all of it.
    pub(super) fn offered(&self, took: bool, rest: bool) {
        let was_waiting = self.waiting.load(Ordering::Relaxed) != NOTHING;
        match (rest, took || !was_waiting) {
            (true, true) => self.waiting.store(self.now(), Ordering::Relaxed),
            (true, false) => {}
            (false, _) => self.waiting.store(NOTHING, Ordering::Relaxed),
        }
    }

    /// When the last byte came; the session's beginning, if none has.
    pub fn last_heard(&self) -> Instant {
        self.at(self.heard.load(Ordering::Relaxed))
    }

    /// Since when the pipe has taken nothing although something waits to be sent.
    pub fn stuck_since(&self) -> Option<Instant> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        (waiting != NOTHING).then(|| self.at(waiting))
    }

    fn at(&self, micros: u64) -> Instant {
        self.began + Duration::from_micros(micros)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(NOTHING - 1)
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}
