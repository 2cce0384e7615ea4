//! Detects an application that closes its connections after each response without saying so.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A connection that closes within this time after a response was closed because of it, not because it was idle.
const CLOSED_AFTER_RESPONSE: Duration = Duration::from_secs(1);

/// After so many of those in a row, connections are no longer kept.
const CLOSED_IN_A_ROW: u8 = 3;

/// How long until a connection is kept again to see whether the application still closes it.
const CLOSING: Duration = Duration::from_secs(60);

/// Whether the application closes its connections after each response without saying so.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// Connections that were closed right after a response since the last one that was used again.
    in_a_row: AtomicU8,
    /// Until when connections are not kept.
    until: Mutex<Option<Instant>>,
}

impl Closing {
    /// Records that a connection that was idle since `since` has ended.
    pub(super) fn was_closed(&self, since: Instant, now: Instant) {
        if now.duration_since(since) <= CLOSED_AFTER_RESPONSE
            && self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= CLOSED_IN_A_ROW
        {
            // One more of them is enough after that.
            self.in_a_row.store(CLOSED_IN_A_ROW - 1, Ordering::Relaxed);
            *self.until.lock() = Some(now + CLOSING);
        }
    }

    /// Records that a connection was used again.
    pub(super) fn was_reused(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
            *self.until.lock() = None;
        }
    }

    /// Returns whether a connection that is kept would be closed.
    pub(super) fn is_expected(&self, now: Instant) -> bool {
        // Nothing is locked for an application that keeps its connections.
        self.in_a_row.load(Ordering::Relaxed) != 0 && self.until.lock().is_some_and(|until| now < until)
    }
}
