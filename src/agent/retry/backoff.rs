//! When to try again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

/// The first wait, and the longest.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// For so long after a stable session was lost, waits are no longer than [`LONGEST_AT_FIRST`]: most outages are
/// restarts.
const AT_FIRST: Duration = Duration::from_secs(60);
const LONGEST_AT_FIRST: Duration = Duration::from_secs(2);

/// A session that lived this long was stable.
const STABLE: Duration = Duration::from_secs(1);

/// Exponential waits with jitter, from 0.5 s to 60 s.
#[derive(Debug)]
pub struct Backoff {
    delays: ExponentialBackoff,
    lost_at: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// Starts with the shortest wait.
    pub fn new() -> Self {
        Self { delays: delays(), lost_at: None }
    }

    /// A session was lost after it had lived for `lived`. After a stable one the waits start over.
    pub fn lost(&mut self, lived: Duration) {
        if lived >= STABLE {
            *self = Self { delays: delays(), lost_at: Some(Instant::now()) };
        }
    }

    /// How long to wait now.
    pub fn next_delay(&mut self) -> Duration {
        let longest = match self.lost_at {
            Some(at) if at.elapsed() < AT_FIRST => LONGEST_AT_FIRST,
            _ => LONGEST,
        };
        // The jitter comes on top of what the builder calls the longest.
        self.delays.next().unwrap_or(LONGEST).min(longest)
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new().with_min_delay(SHORTEST).with_max_delay(LONGEST).with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute() {
        let mut backoff = Backoff::new();
        let delays: Vec<Duration> = (0..20).map(|_| backoff.next_delay()).collect();
        assert!(delays.iter().all(|delay| (SHORTEST..=LONGEST).contains(delay)), "{delays:?}");
        assert!(delays[0] <= SHORTEST * 2);
        assert_eq!(*delays.last().unwrap(), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_stable_session_they_stay_short_for_a_minute() {
        let mut backoff = Backoff::new();
        (0..10).for_each(|_| {
            backoff.next_delay();
        });
        backoff.lost(Duration::from_millis(10));
        assert!(backoff.next_delay() > LONGEST_AT_FIRST, "a session that died at once changes nothing");
        backoff.lost(Duration::from_secs(5));
        assert!((0..20).all(|_| backoff.next_delay() <= LONGEST_AT_FIRST));
        tokio::time::advance(AT_FIRST).await;
        assert_eq!(backoff.next_delay(), LONGEST);
    }
}
