//! How fast one address may ask.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::Quota;
use governor::clock::{Clock, DefaultClock};

use super::RetryAfter;
use super::keyed_rate_limiter::KeyedRateLimiter;

/// The requests of each address: a steady rate and a burst on top.
///
/// Up to `max_keys` addresses have cells of their own (some 100 bytes each); while there are as many, all further ones
/// share one address's worth, so a flood from everywhere cannot fill the memory. Call [`VisitorRate::evict_idle`]
/// every minute or so. The clock is a type parameter so that tests can turn it by hand.
#[derive(Debug)]
pub struct VisitorRate<C: Clock = DefaultClock>(KeyedRateLimiter<C>);

impl VisitorRate {
    /// Allows each address `burst` requests at once and `requests_per_second` in the long run. Of an IPv6 address the
    /// first `ipv6_prefix` bits count.
    pub fn new(requests_per_second: NonZeroU32, burst: NonZeroU32, ipv6_prefix: u8, max_keys: usize) -> Self {
        Self::with_clock(requests_per_second, burst, ipv6_prefix, max_keys, DefaultClock::default())
    }
}

impl<C: Clock + Clone> VisitorRate<C> {
    /// As [`VisitorRate::new`], with a clock of the caller's.
    pub fn with_clock(rate: NonZeroU32, burst: NonZeroU32, ipv6_prefix: u8, max_keys: usize, clock: C) -> Self {
        Self(KeyedRateLimiter::new(Quota::per_second(rate).allow_burst(burst), ipv6_prefix, max_keys, clock))
    }

    /// Goes by another rate, burst and prefix from the next request on. If they are others, every address has its whole
    /// burst again.
    pub fn change(&self, rate: NonZeroU32, burst: NonZeroU32, ipv6_prefix: u8) {
        self.0.change(Quota::per_second(rate).allow_burst(burst), ipv6_prefix);
    }
}

impl<C: Clock> VisitorRate<C> {
    /// Counts one request of `ip`.
    ///
    /// # Errors
    /// The address has used up its burst and asks faster than its rate; the request is not counted.
    pub fn check(&self, ip: IpAddr) -> Result<(), RetryAfter> {
        self.0.take(ip)
    }

    /// Forgets the addresses that have their whole burst back. Walks all of them: call it from time to time.
    pub fn evict_idle(&self) {
        self.0.evict_idle();
    }

    /// How many addresses have cells of their own at the moment.
    pub fn addresses(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    const VISITOR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn rate(per_second: u32, burst: u32) -> (VisitorRate<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let [per_second, burst] = [per_second, burst].map(|n| NonZeroU32::new(n).unwrap());
        (VisitorRate::with_clock(per_second, burst, 64, 10, clock.clone()), clock)
    }

    #[test]
    fn first_the_burst_then_the_rate() {
        let (rate, clock) = rate(10, 3);
        for _ in 0..3 {
            assert_eq!(rate.check(VISITOR), Ok(()));
        }
        assert_eq!(rate.check(VISITOR).map_err(RetryAfter::seconds), Err(1), "a tenth of a second, rounded up");
        clock.advance(Duration::from_millis(100));
        assert_eq!(rate.check(VISITOR), Ok(()));
        assert!(rate.check(VISITOR).is_err());
        assert_eq!(rate.check("192.0.2.2".parse().unwrap()), Ok(()), "another address has its own cells");
        clock.advance(Duration::from_secs(1));
        assert_eq!((0..9).filter(|_| rate.check(VISITOR).is_ok()).count(), 3, "the burst fills up, no further");
    }

    #[test]
    fn another_rate_counts_from_the_next_request_on() {
        let (rate, clock) = rate(1, 2);
        assert_eq!((0..5).filter(|_| rate.check(VISITOR).is_ok()).count(), 2);
        let [ten, five] = [10, 5].map(|n| NonZeroU32::new(n).unwrap());
        rate.change(ten, five, 64);
        assert_eq!((0..10).filter(|_| rate.check(VISITOR).is_ok()).count(), 5);
        rate.change(ten, five, 64);
        assert_eq!(rate.check(VISITOR).map_err(|wait| (wait.quota(), wait.window())), Err((5, 1)));
        clock.advance(Duration::from_millis(100));
        assert!(rate.check(VISITOR).is_ok() && rate.check(VISITOR).is_err());
    }

    #[test]
    fn an_ipv6_network_shares_its_cells() {
        let (rate, _) = rate(1, 1);
        assert!(rate.check("2001:db8::1".parse().unwrap()).is_ok());
        assert!(rate.check("2001:db8::2".parse().unwrap()).is_err());
        assert!(rate.check("2001:db8:0:1::1".parse().unwrap()).is_ok());
        assert_eq!(rate.addresses(), 2);
    }

    #[test]
    fn the_real_clock_runs() {
        let rate = VisitorRate::new(NonZeroU32::MIN, NonZeroU32::MIN, 64, 10);
        assert!(rate.check(VISITOR).is_ok());
        assert!(rate.check(VISITOR).is_err());
        rate.evict_idle();
        assert_eq!(rate.addresses(), 1);
    }
}
