//! governor's rate limiter (the generic cell rate algorithm) over a bounded number of addresses.

use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::{DashMap, Entry};
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::AddressKey;

/// Too much from one address, or for one client: when to try again, and what is allowed.
///
/// The numbers fit `Retry-After` (RFC 9110, section 10.2.3) and the `RateLimit` fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much: try again in {seconds} s")]
pub struct RetryAfter {
    seconds: u64,
    quota: u32,
    window: u64,
}

impl RetryAfter {
    pub(super) fn of(wait: Duration, quota: Quota) -> Self {
        let window = whole_seconds(quota.burst_size_replenished_in());
        Self { seconds: whole_seconds(wait), quota: quota.burst_size().get(), window }
    }

    /// The seconds to wait, at least 1.
    pub fn seconds(self) -> u64 {
        self.seconds
    }

    /// How many are allowed at once.
    pub fn quota(self) -> u32 {
        self.quota
    }

    /// In how many seconds as many are allowed again if none comes in between; at least 1.
    pub fn window(self) -> u64 {
        self.window
    }
}

/// Rounded up, at least 1.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// One quota, counted for each address on its own, for up to a number of addresses at a time. The quota may change at any
/// time; nobody who asks waits for that.
#[derive(Debug)]
pub(super) struct Cells<C: Clock> {
    counted: ArcSwap<Counted<C>>,
    max_keys: usize,
    clock: C,
}

/// What is counted by one quota.
#[derive(Debug)]
struct Counted<C: Clock> {
    limiter: RateLimiter<Ask, Store, C, NoOpMiddleware<C::Instant>>,
    quota: Quota,
    ipv6_prefix: u8,
}

impl<C: Clock + Clone> Cells<C> {
    pub(super) fn new(quota: Quota, ipv6_prefix: u8, max_keys: usize, clock: C) -> Self {
        let counted = Counted::new(quota, ipv6_prefix, max_keys, clock.clone());
        Self { counted: ArcSwap::from_pointee(counted), max_keys, clock }
    }

    /// Goes by another quota from now on. Everybody begins anew; by the same one again, nobody does.
    pub(super) fn change(&self, quota: Quota, ipv6_prefix: u8) {
        let now = self.counted.load();
        if (now.quota, now.ipv6_prefix) != (quota, ipv6_prefix) {
            self.counted.store(Arc::new(Counted::new(quota, ipv6_prefix, self.max_keys, self.clock.clone())));
        }
    }
}

impl<C: Clock> Counted<C> {
    fn new(quota: Quota, ipv6_prefix: u8, max_keys: usize, clock: C) -> Self {
        Self { limiter: RateLimiter::new(quota, Store::new(max_keys), clock), quota, ipv6_prefix }
    }

    /// Takes `cells`, or none; all that there are at most, if more are wanted.
    fn take_several(&self, ip: IpAddr, cells: NonZeroU32) -> Result<(), RetryAfter> {
        let ask = Ask { address: AddressKey::new(ip, self.ipv6_prefix), take: true };
        match self.limiter.check_key_n(&ask, cells.min(self.quota.burst_size())) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(RetryAfter::of(until.wait_time_from(self.limiter.clock().now()), self.quota)),
            // No more than there are was asked for.
            Err(_) => Err(RetryAfter::of(self.quota.burst_size_replenished_in(), self.quota)),
        }
    }

    fn ask(&self, ip: IpAddr, take: bool) -> Result<(), RetryAfter> {
        let ask = Ask { address: AddressKey::new(ip, self.ipv6_prefix), take };
        self.limiter.check_key(&ask).map_err(|until| {
            let wait = until.wait_time_from(self.limiter.clock().now());
            RetryAfter::of(wait, self.quota)
        })
    }
}

impl<C: Clock> Cells<C> {
    /// Takes a cell, if one is left.
    pub(super) fn take(&self, ip: IpAddr) -> Result<(), RetryAfter> {
        self.counted.load().ask(ip, true)
    }

    /// Takes as many cells, or none if as many are not left.
    pub(super) fn take_several(&self, ip: IpAddr, cells: NonZeroU32) -> Result<(), RetryAfter> {
        self.counted.load().take_several(ip, cells)
    }

    /// Says what [`Self::take`] would, and takes nothing.
    pub(super) fn peek(&self, ip: IpAddr) -> Result<(), RetryAfter> {
        self.counted.load().ask(ip, false)
    }

    /// Forgets the addresses that have all their cells back, and gives their memory back.
    pub(super) fn evict_idle(&self) {
        let counted = self.counted.load_full();
        counted.limiter.retain_recent();
        counted.limiter.shrink_to_fit();
    }

    /// How many addresses are remembered.
    pub(super) fn len(&self) -> usize {
        self.counted.load().limiter.len()
    }
}

/// What the limiter is asked: about whom, and whether to take the cell or only to look.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ask {
    address: AddressKey,
    take: bool,
}

/// The states of up to `max` addresses. While there are as many, all further ones share a single state, so that
/// neither memory nor the total rate of strangers grows with the number of addresses somebody can send from.
#[derive(Debug)]
struct Store {
    known: DashMap<AddressKey, InMemoryState>,
    /// The number of entries in `known`, or at times a little more: never less. `DashMap::len` would visit each shard.
    count: AtomicUsize,
    max: usize,
    overflow: InMemoryState,
}

impl Store {
    fn new(max: usize) -> Self {
        Self { known: DashMap::new(), count: AtomicUsize::new(0), max, overflow: InMemoryState::default() }
    }

    /// Claims room for one more address.
    fn claim(&self) -> bool {
        let more = |count: usize| (count < self.max).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn release(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `decide` on a state and leaves the state as it is.
fn look<T>(state: &InMemoryState, decide: impl Fn(Option<Nanos>) -> T) -> T {
    // An `Err` changes nothing, so the answer travels as the error.
    let Err(answer) = state.measure_and_replace(&NotKeyed::NonKey, |at| Err::<(Infallible, Nanos), T>(decide(at)));
    answer
}

impl StateStore for Store {
    type Key = Ask;

    fn measure_and_replace<T, F, E>(&self, ask: &Ask, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let measure = |state: &InMemoryState| {
            if ask.take {
                state.measure_and_replace(&NotKeyed::NonKey, &decide)
            } else {
                look(state, &decide).map(|(answer, _)| answer)
            }
        };
        if let Some(state) = self.known.get(&ask.address) {
            return measure(&state);
        }
        if !ask.take && self.count.load(Ordering::Relaxed) < self.max {
            return decide(None).map(|(answer, _)| answer);
        }
        if !ask.take || !self.claim() {
            return measure(&self.overflow);
        }
        match self.known.entry(ask.address) {
            Entry::Vacant(vacant) => measure(&vacant.insert(InMemoryState::default())),
            Entry::Occupied(occupied) => {
                self.release();
                measure(occupied.get())
            }
        }
    }
}

impl ShrinkableKeyedStateStore<Ask> for Store {
    fn retain_recent(&self, drop_below: Nanos) {
        self.known.retain(|_, state| {
            let recent = look(state, |at| at.is_some_and(|at| at > drop_below));
            if !recent {
                self.release();
            }
            recent
        });
    }

    fn shrink_to_fit(&self) {
        self.known.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    const A_SECOND: RetryAfter = RetryAfter { seconds: 1, quota: 1, window: 1 };

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// One cell a second, no burst.
    fn one_a_second(max_keys: usize) -> (Cells<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Cells::new(Quota::per_second(NonZeroU32::MIN), 64, max_keys, clock.clone()), clock)
    }

    #[test]
    fn looking_takes_nothing() {
        let (cells, _) = one_a_second(1);
        assert_eq!(cells.peek(ip(1)), Ok(()));
        assert_eq!(cells.peek(ip(1)), Ok(()));
        assert_eq!(cells.len(), 0);
        assert_eq!(cells.take(ip(1)), Ok(()));
        assert_eq!(cells.peek(ip(1)), Err(A_SECOND));
        assert_eq!(cells.peek(ip(2)), Ok(()));
        assert_eq!(cells.take(ip(2)), Ok(()));
        assert_eq!(cells.peek(ip(3)), Err(A_SECOND), "3 shares the overflow cell with 2");
    }

    #[test]
    fn strangers_past_the_bound_share_one_cell() {
        let (cells, clock) = one_a_second(2);
        assert!(cells.take(ip(1)).is_ok() && cells.take(ip(2)).is_ok());
        assert_eq!(cells.take(ip(3)), Ok(()));
        assert_eq!(cells.take(ip(4)), Err(A_SECOND));
        assert_eq!(cells.len(), 2);
        clock.advance(Duration::from_secs(1));
        assert!(cells.take(ip(1)).is_ok() && cells.take(ip(2)).is_ok(), "a known address keeps its own cells");
    }

    #[test]
    fn idle_addresses_make_room() {
        let (cells, clock) = one_a_second(2);
        assert!(cells.take(ip(1)).is_ok() && cells.take(ip(2)).is_ok());
        cells.evict_idle();
        assert_eq!(cells.len(), 2, "both still wait for their cell");
        clock.advance(Duration::from_secs(5));
        assert!(cells.take(ip(2)).is_ok());
        cells.evict_idle();
        assert_eq!(cells.len(), 1, "1 has been idle");
        assert!(cells.take(ip(3)).is_ok() && cells.take(ip(4)).is_ok());
        assert_eq!(cells.take(ip(5)), Err(A_SECOND), "3 has a cell of its own again, 4 and 5 share one");
    }

    #[test]
    fn another_quota_counts_from_the_next_cell_on() {
        let (cells, clock) = one_a_second(2);
        assert!(cells.take(ip(1)).is_ok() && cells.take(ip(2)).is_ok());
        cells.change(Quota::per_second(NonZeroU32::MIN), 64);
        assert_eq!((cells.take(ip(1)), cells.len()), (Err(A_SECOND), 2), "the same again refills nothing");
        let three = NonZeroU32::new(3).unwrap();
        cells.change(Quota::per_minute(three), 64);
        assert_eq!((0..10).filter(|_| cells.take(ip(1)).is_ok()).count(), 3);
        let wait = RetryAfter { seconds: 20, quota: 3, window: 60 };
        assert_eq!(cells.take(ip(1)), Err(wait));
        assert!(cells.take(ip(2)).is_ok() && cells.take(ip(3)).is_ok() && cells.len() == 2, "the bound is the same");
        clock.advance(Duration::from_secs(20));
        assert_eq!((cells.take(ip(1)), cells.take(ip(1))), (Ok(()), Err(wait)));
        let v6 = |last: &str| -> IpAddr { format!("2001:db8::{last}").parse().unwrap() };
        cells.change(Quota::per_second(NonZeroU32::MIN), 128);
        assert!(cells.take(v6("1")).is_ok() && cells.take(v6("2")).is_ok());
    }

    #[test]
    fn whoever_asks_while_the_quota_changes_goes_by_one_of_them() {
        let (cells, _) = one_a_second(1000);
        let cells = &cells;
        std::thread::scope(|scope| {
            let asking: Vec<_> = (1..=4)
                .map(|last| scope.spawn(move || (0..5_000).filter(|_| cells.take(ip(last)).is_ok()).count()))
                .collect();
            for burst in (1..=50).map(|burst| NonZeroU32::new(burst).unwrap()) {
                cells.change(Quota::per_second(NonZeroU32::MIN).allow_burst(burst), 64);
            }
            for asked in asking {
                let taken = asked.join().unwrap();
                // A burst of each quota at most.
                assert!((1..=1 + (1..=50).sum::<usize>()).contains(&taken), "{taken}");
            }
        });
    }

    #[test]
    fn the_bound_holds_when_many_threads_come_at_once() {
        let (cells, _) = one_a_second(100);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for last in 0..=255 {
                        let _ = cells.take(ip(last));
                    }
                });
            }
        });
        assert_eq!(cells.len(), 100);
        let Counted { limiter, .. } = Arc::into_inner(cells.counted.into_inner()).unwrap();
        assert_eq!(limiter.into_state_store().known.len(), 100);
    }
}
