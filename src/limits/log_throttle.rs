//! Limits how often the log has a line about an event that visitors or agents can cause at any rate.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Allows one log line per second on average, so that a flood of events does not displace the rest of the log.
///
/// The clock is a type parameter so that tests can advance it.
pub struct LogThrottle<C: Clock = DefaultClock> {
    lines: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    /// The number of events without a line since the last line.
    suppressed: AtomicU64,
}

impl LogThrottle {
    /// Returns a throttle that allows bursts of `at_once` lines, after as many seconds without one.
    pub fn new(at_once: NonZeroU32) -> Self {
        Self::with_clock(at_once, DefaultClock::default())
    }

    /// Returns a throttle that allows one line in each `period`, which must not be zero.
    pub fn every(period: Duration) -> Self {
        Self::of_quota(
            Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN)),
            DefaultClock::default(),
        )
    }
}

impl<C: Clock> LogThrottle<C> {
    /// Returns what [`LogThrottle::new`] does, with the caller's clock.
    pub fn with_clock(at_once: NonZeroU32, clock: C) -> Self {
        Self::of_quota(Quota::per_second(NonZeroU32::MIN).allow_burst(at_once), clock)
    }

    fn of_quota(quota: Quota, clock: C) -> Self {
        Self { lines: RateLimiter::direct_with_clock(quota, clock), suppressed: AtomicU64::new(0) }
    }

    /// Records an event. Returns `None` if it gets no line; otherwise the number of events without a line since the previous
    /// one, which the line reports.
    pub fn turn(&self) -> Option<u64> {
        match self.lines.check() {
            Ok(()) => Some(self.suppressed.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.suppressed.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl<C: Clock> fmt::Debug for LogThrottle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogThrottle").field("suppressed", &self.suppressed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_flood_has_one_line_a_second_that_tells_of_the_others() {
        let clock = FakeRelativeClock::default();
        let throttle = LogThrottle::with_clock(NonZeroU32::MIN, clock.clone());
        assert_eq!((throttle.turn(), throttle.turn(), throttle.turn()), (Some(0), None, None));
        clock.advance(Duration::from_millis(999));
        assert_eq!(throttle.turn(), None);
        clock.advance(Duration::from_millis(1));
        assert_eq!((throttle.turn(), throttle.turn()), (Some(3), None));
        clock.advance(Duration::from_secs(60));
        assert_eq!((throttle.turn(), throttle.turn()), (Some(1), None), "quiet seconds are not saved up");
    }

    #[test]
    fn a_few_at_once_have_their_lines() {
        let clock = FakeRelativeClock::default();
        let throttle = LogThrottle::with_clock(NonZeroU32::new(3).unwrap(), clock.clone());
        let lines = || (0..100).filter(|_| throttle.turn().is_some()).count();
        assert_eq!(lines(), 3);
        clock.advance(Duration::from_secs(1));
        assert_eq!(lines(), 1);
    }
}
