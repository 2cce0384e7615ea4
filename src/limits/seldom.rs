//! How often something has a line in the log that strangers can cause as often as they like.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// One line a second in the long run, however often it happens: a flood must not push everything else out of the log.
///
/// The clock is a type parameter so that tests can turn it by hand.
pub struct Seldom<C: Clock = DefaultClock> {
    lines: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    /// How often it has happened since the last line.
    others: AtomicU64,
}

impl Seldom {
    /// The first `at_once` have their lines, too, after as many quiet seconds.
    pub fn new(at_once: NonZeroU32) -> Self {
        Self::with_clock(at_once, DefaultClock::default())
    }
}

impl<C: Clock> Seldom<C> {
    /// As [`Seldom::new`], with a clock of the caller's.
    pub fn with_clock(at_once: NonZeroU32, clock: C) -> Self {
        let quota = Quota::per_second(NonZeroU32::MIN).allow_burst(at_once);
        Self { lines: RateLimiter::direct_with_clock(quota, clock), others: AtomicU64::new(0) }
    }

    /// It has happened. If this time has a line: how many have had none since the one before, to be said in it.
    pub fn turn(&self) -> Option<u64> {
        match self.lines.check() {
            Ok(()) => Some(self.others.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.others.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl<C: Clock> fmt::Debug for Seldom<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seldom").field("others", &self.others).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_flood_has_one_line_a_second_that_tells_of_the_others() {
        let clock = FakeRelativeClock::default();
        let seldom = Seldom::with_clock(NonZeroU32::MIN, clock.clone());
        assert_eq!((seldom.turn(), seldom.turn(), seldom.turn()), (Some(0), None, None));
        clock.advance(Duration::from_millis(999));
        assert_eq!(seldom.turn(), None);
        clock.advance(Duration::from_millis(1));
        assert_eq!((seldom.turn(), seldom.turn()), (Some(3), None));
        clock.advance(Duration::from_secs(60));
        assert_eq!((seldom.turn(), seldom.turn()), (Some(1), None), "quiet seconds are not saved up");
    }

    #[test]
    fn a_few_at_once_have_their_lines() {
        let clock = FakeRelativeClock::default();
        let seldom = Seldom::with_clock(NonZeroU32::new(3).unwrap(), clock.clone());
        let lines = || (0..100).filter(|_| seldom.turn().is_some()).count();
        assert_eq!(lines(), 3);
        clock.advance(Duration::from_secs(1));
        assert_eq!(lines(), 1);
    }
}
