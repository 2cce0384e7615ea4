//! How much all visitors of one client may ask together.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::Quota;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use parking_lot::RwLock;

use super::RetryAfter;
use super::pace::{Delay, Pace};
use super::permits::{Permit, Permits};

/// What one client may use, over all its tunnels and visitors. `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Requests a second in the long run.
    pub requests_per_second: Option<NonZeroU32>,
    /// Requests at once before the rate counts; without one, as many as in a second.
    pub burst: Option<NonZeroU32>,
    /// Streams at once.
    pub streams: Option<usize>,
    /// Whether a short excess is refused, too, instead of delayed.
    pub is_strict: bool,
}

type Rate<C> = governor::RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>;

/// One client's use of its [`Allowance`], which can change at any time: the next request goes by the new one.
#[derive(Debug)]
pub struct ClientUse<C: Clock = DefaultClock> {
    current: RwLock<Current<C>>,
    streams: Permits,
    clock: C,
}

#[derive(Debug)]
struct Current<C: Clock> {
    allowance: Allowance,
    rate: Option<(Rate<C>, Pace)>,
}

impl ClientUse {
    /// Nothing is used yet.
    pub fn new(allowance: Allowance) -> Arc<Self> {
        Arc::new(Self::with_clock(allowance, DefaultClock::default()))
    }
}

impl<C: Clock + Clone> ClientUse<C> {
    /// As [`ClientUse::new`], with a clock of the caller's.
    pub fn with_clock(allowance: Allowance, clock: C) -> Self {
        let current = Current { allowance, rate: rate(allowance, &clock) };
        let streams = Permits::new(allowance.streams.unwrap_or(usize::MAX));
        Self { current: RwLock::new(current), streams, clock }
    }

    /// Goes by another allowance from now on. What is open stays open.
    pub fn change(&self, allowance: Allowance) {
        let mut current = self.current.write();
        if current.allowance == allowance {
            return;
        }
        let same_rate = (current.allowance.requests_per_second, current.allowance.burst)
            == (allowance.requests_per_second, allowance.burst);
        if !same_rate {
            current.rate = rate(allowance, &self.clock);
        }
        current.allowance = allowance;
        self.streams.set_capacity(allowance.streams.unwrap_or(usize::MAX));
    }

    /// What the client may use now.
    pub fn allowance(&self) -> Allowance {
        self.current.read().allowance
    }

    /// Counts one request. If the client's visitors have used up the burst, returns how long the request has to wait.
    ///
    /// # Errors
    /// It would have to wait for too long; the request is not counted.
    pub fn check(&self) -> Result<Option<Delay>, RetryAfter> {
        match &self.current.read().rate {
            None => Ok(None),
            Some((rate, pace)) => match rate.check() {
                Ok(after) => Ok(pace.delay(&after)),
                Err(until) => Err(RetryAfter::of(until.wait_time_from(self.clock.now()), pace.quota())),
            },
        }
    }

    /// The permit for one more stream; `None` if as many as may be are open.
    pub fn stream(&self) -> Option<Permit> {
        self.streams.try_acquire()
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.streams.in_use()
    }
}

fn rate<C: Clock + Clone>(allowance: Allowance, clock: &C) -> Option<(Rate<C>, Pace)> {
    let per_second = allowance.requests_per_second?;
    let quota = Quota::per_second(per_second).allow_burst(allowance.burst.unwrap_or(per_second));
    let pace = if allowance.is_strict { Pace::strict(quota) } else { Pace::delayed(quota) };
    let rate = governor::RateLimiter::new(pace.whole(), InMemoryState::default(), C::clone(clock));
    Some((rate, pace))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn allowance(per_second: u32, burst: u32, streams: usize) -> Allowance {
        let [requests_per_second, burst] = [per_second, burst].map(NonZeroU32::new);
        Allowance { requests_per_second, burst, streams: Some(streams), ..Allowance::default() }
    }

    #[test]
    fn without_an_allowance_nothing_is_counted() {
        let used = ClientUse::new(Allowance::default());
        assert!((0..10_000).all(|_| used.check().is_ok()));
        let held: Vec<_> = (0..1_000).map(|_| used.stream().unwrap()).collect();
        assert_eq!(used.streams(), held.len());
    }

    #[test]
    fn a_change_counts_from_the_next_request_on() {
        let clock = FakeRelativeClock::default();
        let used = ClientUse::with_clock(allowance(10, 3, 2), clock.clone());
        assert_eq!((0..3).filter(|_| used.check() == Ok(None)).count(), 3);
        assert_eq!((0..20).filter(|_| used.check().is_ok()).count(), 10, "those wait for up to a second");
        assert_eq!(used.check().map_err(RetryAfter::seconds), Err(1));
        let held = [used.stream().unwrap(), used.stream().unwrap()];
        assert!(used.stream().is_none());
        // The same rate again does not refill it.
        used.change(allowance(10, 3, 3));
        assert!(used.check().is_err() && used.stream().is_some());
        used.change(allowance(100, 50, 1));
        assert_eq!((0..300).filter(|_| used.check().is_ok()).count(), 150);
        assert!(used.stream().is_none(), "two are open");
        drop(held);
        assert!(used.stream().is_some());
        used.change(Allowance { requests_per_second: NonZeroU32::new(5), ..Allowance::default() });
        assert_eq!((0..100).filter(|_| used.check() == Ok(None)).count(), 5, "a second's worth at once");
        clock.advance(Duration::from_millis(200));
        assert!(used.check().is_ok() && used.check().is_err());
        let strict = Allowance { requests_per_second: NonZeroU32::new(5), is_strict: true, ..Allowance::default() };
        let used = ClientUse::new(strict);
        assert_eq!((0..9).filter(|_| used.check().is_ok()).count(), 5);
        used.change(Allowance::default());
        assert!((0..100).all(|_| used.check().is_ok()));
    }
}
