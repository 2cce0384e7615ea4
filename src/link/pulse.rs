//! Records when bytes last moved on a session's pipe. Cheap: the driver updates it once for each turn in which some did.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// `waiting` when nothing waits.
const NOTHING: u64 = u64::MAX;

/// When a session last received a byte, and since when it could send none of its waiting bytes.
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
    pub(crate) fn received(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    /// Records an attempt to send. `took` says whether the pipe took some bytes; `rest`, whether some are left.
    pub(crate) fn offered(&self, took: bool, rest: bool) {
        let was_waiting = self.waiting.load(Ordering::Relaxed) != NOTHING;
        match (rest, took || !was_waiting) {
            (true, true) => self.waiting.store(self.now(), Ordering::Relaxed),
            (true, false) => {}
            (false, _) => self.waiting.store(NOTHING, Ordering::Relaxed),
        }
    }

    /// Returns when the last byte was received, or when the session began.
    pub fn last_heard(&self) -> Instant {
        self.at(self.heard.load(Ordering::Relaxed))
    }

    /// Returns since when nothing could be sent although data is waiting.
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
