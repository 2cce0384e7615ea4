//! A rate limit for costly checks of one address.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::Quota;
use governor::clock::{Clock, DefaultClock};

use super::RetryAfter;
use super::keyed_rate_limiter::KeyedRateLimiter;

/// The costly checks of each address, whether they succeed or fail: argon2 takes as long for the right password.
///
/// Memory is bounded as in [`super::VisitorRate`].
#[derive(Debug)]
pub struct Checks<C: Clock = DefaultClock>(KeyedRateLimiter<C>);

impl Checks {
    /// Lets each address have `per_minute` checks at once, and as many in each minute after that. Of an IPv6 address the
    /// first `ipv6_prefix` bits count.
    pub fn new(per_minute: NonZeroU32, ipv6_prefix: u8, max_keys: usize) -> Self {
        Self::with_clock(per_minute, ipv6_prefix, max_keys, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Checks<C> {
    /// As [`Checks::new`], with a clock of the caller's.
    pub fn with_clock(per_minute: NonZeroU32, ipv6_prefix: u8, max_keys: usize, clock: C) -> Self {
        Self(KeyedRateLimiter::new(Quota::per_minute(per_minute), ipv6_prefix, max_keys, clock))
    }

    /// Uses another rate and prefix from now on. If they are others, every address begins anew.
    pub fn change(&self, per_minute: NonZeroU32, ipv6_prefix: u8) {
        self.0.change(Quota::per_minute(per_minute), ipv6_prefix);
    }
}

impl<C: Clock> Checks<C> {
    /// Counts a check for `ip` that costs as much as `weight` usual ones.
    ///
    /// # Errors
    /// The address has had as many as it may; nothing is counted.
    pub fn take(&self, ip: IpAddr, weight: u64) -> Result<(), RetryAfter> {
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        self.0.take_several(ip, NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN))
    }

    /// Forgets the addresses that have all of theirs back. Walks all of them: call it from time to time.
    pub fn evict_idle(&self) {
        self.0.evict_idle();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn costly_checks_count_more() {
        let clock = FakeRelativeClock::default();
        let checks = Checks::with_clock(NonZeroU32::new(6).unwrap(), 64, 10, clock.clone());
        assert!(checks.take(HOME, 1).is_ok() && checks.take(HOME, 4).is_ok());
        assert_eq!(checks.take(HOME, 4).map_err(RetryAfter::seconds), Err(30), "one is left, and three are missing");
        assert_eq!(checks.take("192.0.2.2".parse().unwrap(), 100), Ok(()), "all there are");
        clock.advance(Duration::from_secs(10));
        assert!(checks.take(HOME, 2).is_ok() && checks.take(HOME, 1).is_err());
        clock.advance(Duration::from_secs(120));
        checks.evict_idle();
        assert_eq!(checks.0.len(), 0);
    }
}
