//! How much data a session queues: what its link takes in [`TARGET`], within bounds.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes of bulk data that a session queues on a fast link.
pub(super) const MAX_LIMIT: usize = 192 * 1024;

/// Bytes of bulk data that a session queues at least, however slow its link is. One TLS record.
pub(super) const MIN_LIMIT: usize = 16 * 1024;

/// Bytes before the rate of the link is known.
const FIRST_LIMIT: usize = 64 * 1024;

/// How long queued data waits for the link, where [`MIN_LIMIT`] permits.
const TARGET: Duration = Duration::from_millis(100);

/// How long the rate is measured before it counts.
const INTERVAL: Duration = Duration::from_millis(100);

/// The shortest turn of a bulk stream, in bytes.
const MIN_QUANTUM: usize = 4 * 1024;

/// Measures how fast the link takes data while writers wait: only then does the link determine the rate.
#[derive(Debug)]
pub(super) struct LinkRate {
    limit: usize,
    /// When the measurement began.
    since: Option<Instant>,
    /// Bytes taken since then.
    bytes: usize,
}

impl Default for LinkRate {
    fn default() -> Self {
        Self { limit: FIRST_LIMIT, since: None, bytes: 0 }
    }
}

impl LinkRate {
    /// Bytes of bulk data that may be queued.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that a bulk stream writes in one turn: a quarter of the queue. On a faster link it is more of the queue, because
    /// a turn costs a wake-up.
    pub(super) fn quantum(&self) -> usize {
        match self.limit {
            MAX_LIMIT.. => MAX_LIMIT / 3 * 2,
            FIRST_LIMIT.. => self.limit / 2,
            _ => (self.limit / 4).max(MIN_QUANTUM),
        }
    }

    /// No writer waits: what the link takes says nothing about it.
    pub(super) fn no_demand(&mut self) {
        self.since = None;
    }

    /// The link has taken `bytes` while writers wait.
    pub(super) fn sent(&mut self, bytes: usize) {
        let now = Instant::now();
        let Some(since) = self.since else {
            (self.since, self.bytes) = (Some(now), 0);
            return;
        };
        self.bytes += bytes;
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= INTERVAL {
            let within_target = self.bytes as u128 * TARGET.as_micros() / elapsed.as_micros().max(1);
            self.limit = usize::try_from(within_target).unwrap_or(MAX_LIMIT).clamp(MIN_LIMIT, MAX_LIMIT);
            (self.since, self.bytes) = (Some(now), 0);
        }
    }
}
