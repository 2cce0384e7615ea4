//! How fast one address may ask.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::Quota;
use governor::clock::{Clock, DefaultClock};

use super::RetryAfter;
use super::keyed_rate_limiter::KeyedRateLimiter;
use super::pace::{Delay, Pace};

/// The requests of each address: a steady rate and a burst on top. A short excess is delayed.
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
        let pace = Pace::delayed(Quota::per_second(rate).allow_burst(burst));
        Self(KeyedRateLimiter::with_pace(pace, ipv6_prefix, max_keys, clock))
    }

    /// Goes by another rate, burst and prefix from the next request on. If they are others, every address has its whole
    /// burst again.
    pub fn change(&self, rate: NonZeroU32, burst: NonZeroU32, ipv6_prefix: u8) {
        self.0.change_pace(Pace::delayed(Quota::per_second(rate).allow_burst(burst)), ipv6_prefix);
    }
}

impl<C: Clock> VisitorRate<C> {
    /// Counts one request of `ip`. If the address has used up its burst, returns how long the request has to wait.
    ///
    /// # Errors
    /// It would have to wait for too long; the request is not counted.
    pub fn check(&self, ip: IpAddr) -> Result<Option<Delay>, RetryAfter> {
        self.0.take_or_wait(ip)
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

    /// How long the next request waits, in milliseconds; `None` if it is refused.
    fn wait(rate: &VisitorRate<FakeRelativeClock>, ip: IpAddr) -> Option<u128> {
        rate.check(ip).ok().map(|delay| delay.map_or(0, |delay| delay.time.as_millis()))
    }

    #[test]
    fn first_the_burst_then_the_reserve_then_nothing() {
        let (rate, clock) = rate(4, 3);
        let waits = |count: usize| (0..count).map(|_| wait(&rate, VISITOR)).collect::<Vec<_>>();
        let expected = [0, 0, 0, 250, 500, 750, 1000].map(Some);
        assert_eq!(waits(7), expected);
        assert_eq!(rate.check(VISITOR).map_err(RetryAfter::seconds), Err(1), "a quarter of a second, rounded up");
        clock.advance(Duration::from_millis(250));
        assert_eq!(waits(2), [Some(1000), None], "a request that comes later waits for those before it");
        assert_eq!(wait(&rate, "192.0.2.2".parse().unwrap()), Some(0), "another address has its own cells");
        clock.advance(Duration::from_secs(1));
        assert_eq!(waits(1), [Some(250)]);
        clock.advance(Duration::from_secs(60));
        assert_eq!(waits(8), [&expected[..], &[None]].concat(), "the burst fills up, no further");
    }

    #[test]
    fn a_refusal_after_a_delay_says_what_is_allowed_without_one() {
        let (rate, _) = rate(2, 1);
        let delays: Vec<_> = (0..3).map(|_| rate.check(VISITOR).unwrap()).collect();
        let refusal = rate.check(VISITOR).unwrap_err();
        assert_eq!((refusal.seconds(), refusal.quota(), refusal.window()), (1, 1, 1));
        assert!(
            delays[0].is_none() && delays[1..].iter().all(|delay| delay.is_some_and(|delay| delay.refusal == refusal))
        );
    }

    #[test]
    fn a_high_rate_delays_only_so_many() {
        let (rate, _) = rate(1_000_000, 1);
        assert_eq!((0..5_000).filter(|_| rate.check(VISITOR).is_ok()).count(), 1025);
    }

    #[test]
    fn another_rate_counts_from_the_next_request_on() {
        let (rate, clock) = rate(1, 2);
        assert_eq!((0..5).filter(|_| rate.check(VISITOR).is_ok()).count(), 3);
        let [ten, five] = [10, 5].map(|n| NonZeroU32::new(n).unwrap());
        rate.change(ten, five, 64);
        assert_eq!((0..20).filter(|_| rate.check(VISITOR).is_ok()).count(), 15);
        rate.change(ten, five, 64);
        assert_eq!(rate.check(VISITOR).map_err(|wait| (wait.quota(), wait.window())), Err((5, 1)));
        clock.advance(Duration::from_millis(100));
        assert!(rate.check(VISITOR).is_ok() && rate.check(VISITOR).is_err());
    }

    #[test]
    fn an_ipv6_network_shares_its_cells() {
        let (rate, _) = rate(1, 1);
        assert_eq!(wait(&rate, "2001:db8::1".parse().unwrap()), Some(0));
        assert_eq!(wait(&rate, "2001:db8::2".parse().unwrap()), Some(1000));
        assert_eq!(wait(&rate, "2001:db8:0:1::1".parse().unwrap()), Some(0));
        assert_eq!(rate.addresses(), 2);
    }

    #[test]
    fn the_real_clock_runs() {
        let rate = VisitorRate::new(NonZeroU32::MIN, NonZeroU32::MIN, 64, 10);
        assert_eq!(rate.check(VISITOR), Ok(None));
        assert!(rate.check(VISITOR).is_ok_and(|delay| delay.is_some()) && rate.check(VISITOR).is_err());
        rate.evict_idle();
        assert_eq!(rate.addresses(), 1);
    }
}
