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
use governor::middleware::{NoOpMiddleware, StateInformationMiddleware};
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{NotUntil, Quota, RateLimiter};

use super::AddressKey;
use super::pace::{Delay, Pace};

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

/// One quota for each address, for a bounded number of addresses. The quota can be replaced at any time without blocking a
/// caller.
///
/// governor's own keyed store is not used because it grows with the number of addresses, and because its limiter cannot be
/// asked without taking a cell.
#[derive(Debug)]
pub(super) struct KeyedRateLimiter<C: Clock> {
    current: ArcSwap<Limiters<C>>,
    max_keys: usize,
    clock: C,
}

/// Two limiters with one quota over the same states: one takes cells, the other only reads.
#[derive(Debug)]
struct Limiters<C: Clock> {
    taking: RateLimiter<AddressKey, Taking, C, StateInformationMiddleware>,
    peeking: RateLimiter<AddressKey, Peeking, C, NoOpMiddleware<C::Instant>>,
    pace: Pace,
    ipv6_prefix: u8,
}

impl<C: Clock + Clone> KeyedRateLimiter<C> {
    pub(super) fn new(quota: Quota, ipv6_prefix: u8, max_keys: usize, clock: C) -> Self {
        Self::with_pace(Pace::strict(quota), ipv6_prefix, max_keys, clock)
    }

    pub(super) fn with_pace(pace: Pace, ipv6_prefix: u8, max_keys: usize, clock: C) -> Self {
        let limiters = Limiters::new(pace, ipv6_prefix, max_keys, &clock);
        Self { current: ArcSwap::from_pointee(limiters), max_keys, clock }
    }

    /// Replaces the quota and forgets every address, unless the quota is the same.
    pub(super) fn change(&self, quota: Quota, ipv6_prefix: u8) {
        self.change_pace(Pace::strict(quota), ipv6_prefix);
    }

    /// Replaces the quota and its reserve, and forgets every address, unless both are the same.
    pub(super) fn change_pace(&self, pace: Pace, ipv6_prefix: u8) {
        let now = self.current.load();
        if (now.pace, now.ipv6_prefix) != (pace, ipv6_prefix) {
            self.current.store(Arc::new(Limiters::new(pace, ipv6_prefix, self.max_keys, &self.clock)));
        }
    }
}

impl<C: Clock + Clone> Limiters<C> {
    fn new(pace: Pace, ipv6_prefix: u8, max_keys: usize, clock: &C) -> Self {
        let (states, quota) = (Arc::new(States::new(max_keys)), pace.whole());
        let taking = RateLimiter::new(quota, Taking(Arc::clone(&states)), clock.clone());
        Self { taking, peeking: RateLimiter::new(quota, Peeking(states), clock.clone()), pace, ipv6_prefix }
    }
}

impl<C: Clock> Limiters<C> {
    fn key(&self, ip: IpAddr) -> AddressKey {
        AddressKey::new(ip, self.ipv6_prefix)
    }

    fn retry_after(&self, until: &NotUntil<C::Instant>) -> RetryAfter {
        RetryAfter::of(until.wait_time_from(self.taking.clock().now()), self.pace.quota())
    }
}

impl<C: Clock> KeyedRateLimiter<C> {
    /// Takes a cell.
    ///
    /// # Errors
    /// No cell is left.
    pub(super) fn take(&self, ip: IpAddr) -> Result<(), RetryAfter> {
        self.take_or_wait(ip).map(drop)
    }

    /// Takes a cell, from the reserve if no other is left. Returns the delay then.
    ///
    /// # Errors
    /// No cell is left.
    pub(super) fn take_or_wait(&self, ip: IpAddr) -> Result<Option<Delay>, RetryAfter> {
        let limiters = self.current.load();
        match limiters.taking.check_key(&limiters.key(ip)) {
            Ok(after) => Ok(limiters.pace.delay(&after)),
            Err(until) => Err(limiters.retry_after(&until)),
        }
    }

    /// Takes `cells` cells, or the whole burst if that is less.
    ///
    /// # Errors
    /// Fewer cells are left; none is taken.
    pub(super) fn take_several(&self, ip: IpAddr, cells: NonZeroU32) -> Result<(), RetryAfter> {
        let limiters = self.current.load();
        let quota = limiters.pace.quota();
        match limiters.taking.check_key_n(&limiters.key(ip), cells.min(quota.burst_size())) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(until)) => Err(limiters.retry_after(&until)),
            // Never: no more than the burst was asked for.
            Err(_) => Err(RetryAfter::of(quota.burst_size_replenished_in(), quota)),
        }
    }

    /// Returns what [`Self::take`] would, without taking a cell.
    ///
    /// # Errors
    /// No cell is left.
    pub(super) fn peek(&self, ip: IpAddr) -> Result<(), RetryAfter> {
        let limiters = self.current.load();
        limiters.peeking.check_key(&limiters.key(ip)).map_err(|until| limiters.retry_after(&until))
    }

    /// Forgets the addresses that have all their cells back, and releases their memory.
    pub(super) fn evict_idle(&self) {
        let limiters = self.current.load_full();
        limiters.taking.retain_recent();
        limiters.taking.shrink_to_fit();
    }

    /// Returns the number of addresses that are remembered.
    pub(super) fn len(&self) -> usize {
        self.current.load().taking.len()
    }
}

/// The states of up to `max` addresses. While it is full, all further addresses share a single state, so that neither
/// memory nor the total rate of strangers grows with the number of addresses that a sender has.
#[derive(Debug)]
struct States {
    known: DashMap<AddressKey, InMemoryState>,
    /// The number of entries in `known`, or briefly a little more, never less. `DashMap::len` would visit each shard.
    count: AtomicUsize,
    max: usize,
    overflow: InMemoryState,
}

impl States {
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
fn read<T>(state: &InMemoryState, decide: impl Fn(Option<Nanos>) -> T) -> T {
    // An `Err` changes nothing, so the answer travels as the error.
    let Err(answer) = state.measure_and_replace(&NotKeyed::NonKey, |at| Err::<(Infallible, Nanos), T>(decide(at)));
    answer
}

/// The states as the limiter sees them that takes cells.
#[derive(Debug)]
struct Taking(Arc<States>);

impl StateStore for Taking {
    type Key = AddressKey;

    fn measure_and_replace<T, F, E>(&self, address: &AddressKey, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let states = &*self.0;
        let take = |state: &InMemoryState| state.measure_and_replace(&NotKeyed::NonKey, &decide);
        if let Some(state) = states.known.get(address) {
            return take(&state);
        }
        if !states.claim() {
            return take(&states.overflow);
        }
        match states.known.entry(*address) {
            Entry::Vacant(vacant) => take(&vacant.insert(InMemoryState::default())),
            Entry::Occupied(occupied) => {
                states.release();
                take(occupied.get())
            }
        }
    }
}

impl ShrinkableKeyedStateStore<AddressKey> for Taking {
    fn retain_recent(&self, drop_below: Nanos) {
        self.0.known.retain(|_, state| {
            let recent = read(state, |at| at.is_some_and(|at| at > drop_below));
            if !recent {
                self.0.release();
            }
            recent
        });
    }

    fn shrink_to_fit(&self) {
        self.0.known.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.0.known.is_empty()
    }
}

/// The states as the limiter sees them that only reads.
#[derive(Debug)]
struct Peeking(Arc<States>);

impl StateStore for Peeking {
    type Key = AddressKey;

    fn measure_and_replace<T, F, E>(&self, address: &AddressKey, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let states = &*self.0;
        let answer = match states.known.get(address) {
            Some(state) => read(&state, decide),
            None if states.count.load(Ordering::Relaxed) < states.max => decide(None),
            None => read(&states.overflow, decide),
        };
        answer.map(|(answer, _)| answer)
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
    fn one_a_second(max_keys: usize) -> (KeyedRateLimiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (KeyedRateLimiter::new(Quota::per_second(NonZeroU32::MIN), 64, max_keys, clock.clone()), clock)
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
        let Limiters { taking, .. } = Arc::into_inner(cells.current.into_inner()).unwrap();
        assert_eq!(taking.into_state_store().0.known.len(), 100);
    }
}
