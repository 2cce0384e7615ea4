//! How often one address may fail to log in.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::Quota;
use governor::clock::{Clock, DefaultClock};

use super::RetryAfter;
use super::keyed_rate_limiter::KeyedRateLimiter;

/// The failed logins of each address. A login that succeeds costs nothing, so any number of agents may share one.
///
/// Ask [`FailedLogins::allowed`] before looking at a token, and report with [`FailedLogins::failed`]. Logins that are
/// under way are not counted yet: bound how many one address may have at a time with [`super::PerAddress`]. Memory is
/// bounded as in [`super::VisitorRate`]; so past `max_keys` failing addresses, strangers are blocked together.
#[derive(Debug)]
pub struct FailedLogins<C: Clock = DefaultClock>(KeyedRateLimiter<C>);

impl FailedLogins {
    /// Lets each address fail `per_minute` times at once, and as often in each minute after that. Of an IPv6 address
    /// the first `ipv6_prefix` bits count.
    pub fn new(per_minute: NonZeroU32, ipv6_prefix: u8, max_keys: usize) -> Self {
        Self::with_clock(per_minute, ipv6_prefix, max_keys, DefaultClock::default())
    }

    /// As [`FailedLogins::new`], with `burst` failures at once.
    pub fn with_burst(per_minute: NonZeroU32, burst: NonZeroU32, ipv6_prefix: u8, max_keys: usize) -> Self {
        let quota = Quota::per_minute(per_minute).allow_burst(burst);
        Self(KeyedRateLimiter::new(quota, ipv6_prefix, max_keys, DefaultClock::default()))
    }
}

impl<C: Clock + Clone> FailedLogins<C> {
    /// As [`FailedLogins::new`], with a clock of the caller's.
    pub fn with_clock(per_minute: NonZeroU32, ipv6_prefix: u8, max_keys: usize, clock: C) -> Self {
        Self(KeyedRateLimiter::new(Quota::per_minute(per_minute), ipv6_prefix, max_keys, clock))
    }

    /// Goes by another rate and prefix from now on. If they are others, the failures so far are forgotten.
    pub fn change(&self, per_minute: NonZeroU32, ipv6_prefix: u8) {
        self.0.change(Quota::per_minute(per_minute), ipv6_prefix);
    }

    /// As [`FailedLogins::change`], with `burst` failures at once.
    pub fn change_with_burst(&self, per_minute: NonZeroU32, burst: NonZeroU32, ipv6_prefix: u8) {
        self.0.change(Quota::per_minute(per_minute).allow_burst(burst), ipv6_prefix);
    }
}

impl<C: Clock> FailedLogins<C> {
    /// Says whether `ip` may try to log in. Nothing is counted.
    ///
    /// # Errors
    /// The address has failed too often; the right token would be refused too.
    pub fn allowed(&self, ip: IpAddr) -> Result<(), RetryAfter> {
        self.0.peek(ip)
    }

    /// Counts a failed login of `ip`.
    pub fn failed(&self, ip: IpAddr) {
        // With no cell left the address is blocked already, and stays so no longer than it was to be.
        let _ = self.0.take(ip);
    }

    /// Forgets the addresses whose failures are long past. Walks all of them: call it from time to time.
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

    fn three_a_minute() -> (FailedLogins<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (FailedLogins::with_clock(NonZeroU32::new(3).unwrap(), 64, 10, clock.clone()), clock)
    }

    #[test]
    fn logins_that_succeed_are_never_counted() {
        let (logins, _) = three_a_minute();
        assert!((0..100).all(|_| logins.allowed(HOME).is_ok()));
    }

    #[test]
    fn the_last_failure_blocks_until_a_cell_is_back() {
        let (logins, clock) = three_a_minute();
        for _ in 0..3 {
            assert_eq!(logins.allowed(HOME), Ok(()));
            logins.failed(HOME);
        }
        assert_eq!(logins.allowed(HOME).map_err(RetryAfter::seconds), Err(20));
        logins.failed(HOME);
        clock.advance(Duration::from_millis(10_500));
        assert_eq!(logins.allowed(HOME).map_err(RetryAfter::seconds), Err(10), "9.5 s, rounded up");
        assert_eq!(logins.allowed("192.0.2.2".parse().unwrap()), Ok(()));
        clock.advance(Duration::from_millis(9_500));
        assert_eq!(logins.allowed(HOME), Ok(()));
        logins.failed(HOME);
        assert_eq!(logins.allowed(HOME).map_err(RetryAfter::seconds), Err(20));
    }

    #[test]
    fn another_rate_counts_from_the_next_failure_on() {
        let (logins, _) = three_a_minute();
        logins.failed(HOME);
        logins.failed(HOME);
        logins.change(NonZeroU32::new(3).unwrap(), 64);
        logins.failed(HOME);
        assert!(logins.allowed(HOME).is_err(), "by the same rate nothing is forgotten");
        logins.change(NonZeroU32::MIN, 64);
        assert_eq!(logins.allowed(HOME), Ok(()));
        logins.failed(HOME);
        assert_eq!(logins.allowed(HOME).map_err(RetryAfter::seconds), Err(60));
    }

    #[test]
    fn an_old_failure_is_forgotten() {
        let (logins, clock) = three_a_minute();
        logins.failed(HOME);
        logins.evict_idle();
        assert_eq!(logins.0.len(), 1);
        clock.advance(Duration::from_secs(120));
        logins.evict_idle();
        assert_eq!(logins.0.len(), 0);
    }
}
