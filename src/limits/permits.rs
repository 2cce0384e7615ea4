//! How many things may run at once. A permit is a value that moves into the task it counts, and counts no more when
//! it is dropped, by whichever way the task ends.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use dashmap::DashMap;

use super::AddressKey;

/// At most so many at once. Nobody waits: with all permits out, the next one who asks gets none.
///
/// Clones count together. Costs one atomic operation each way.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    in_use: AtomicUsize,
    capacity: AtomicUsize,
}

/// One permit of [`Permits`]; dropping it gives it back.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once limits nothing"]
pub struct Permit(Arc<Counter>);

impl Permits {
    /// A limit of `capacity` at once; with 0 nobody gets one.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Counter { in_use: AtomicUsize::new(0), capacity: AtomicUsize::new(capacity) }))
    }

    /// A permit, or `None` at once when all are out.
    pub fn try_acquire(&self) -> Option<Permit> {
        self.try_acquire_if(|_| true)
    }

    /// The same for one of `sharers` who share these and has `held` of them already. Until half of them are out: as many as
    /// it likes. The other half is divided: each has an equal part of it for itself, whatever the others hold. An equal part
    /// is `least` at least: a small whole is not cut to pieces.
    pub fn try_acquire_shared(&self, held: usize, sharers: usize, least: usize) -> Option<Permit> {
        let capacity = self.capacity();
        let part = if sharers > 1 { (capacity / 2 / sharers).max(least) } else { capacity };
        self.try_acquire_if(|in_use| in_use < capacity / 2 || held < part)
    }

    /// The same, if `may` allows one more than so many.
    fn try_acquire_if(&self, may: impl Fn(usize) -> bool) -> Option<Permit> {
        let capacity = self.capacity();
        let more = |in_use: usize| (in_use < capacity && may(in_use)).then_some(in_use + 1);
        self.0.in_use.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok()?;
        Some(Permit(Arc::clone(&self.0)))
    }

    /// How many permits are out at the moment.
    pub fn in_use(&self) -> usize {
        self.0.in_use.load(Ordering::Relaxed)
    }

    /// How many permits there are in all.
    pub fn capacity(&self) -> usize {
        self.0.capacity.load(Ordering::Relaxed)
    }

    /// What one of many who share these should have at the most at the moment. Until half of them are out: as many as it
    /// likes. Then a `part`th of what the others have left it, and at least `least`.
    ///
    /// Whatever somebody takes, the next one finds some left; and the more there are who take all they can, the less each
    /// of them gets.
    pub fn fair_share(&self, part: NonZeroUsize, least: usize) -> FairShare {
        let (capacity, in_use) = (self.capacity(), self.in_use());
        FairShare { plenty: in_use < capacity / 2, left: capacity.saturating_sub(in_use), part, least }
    }

    /// Changes how many there are. Those that are out stay out, even if they are more.
    pub fn set_capacity(&self, capacity: usize) {
        self.0.capacity.store(capacity, Ordering::Relaxed);
    }
}

/// How much of what is left one of many may have; see [`Permits::fair_share`].
#[derive(Debug, Clone, Copy)]
pub struct FairShare {
    plenty: bool,
    left: usize,
    part: NonZeroUsize,
    least: usize,
}

impl FairShare {
    /// Whether somebody who has `held` may have one more.
    fn allows_one_more(self, held: usize) -> bool {
        self.plenty || held < (self.left.saturating_add(held) / self.part).max(self.least)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

/// At most so many at once for each address ([`AddressKey`]).
///
/// An address is remembered while it holds permits, so memory is bounded by whatever bounds the permits in all: take
/// one of [`Permits`] as well. Clones count together. Limit and prefix may change at any time.
#[derive(Debug, Clone)]
pub struct PerAddress(Arc<Addresses>);

#[derive(Debug)]
struct Addresses {
    in_use: DashMap<AddressKey, Held>,
    limit: AtomicU32,
    ipv6_prefix: AtomicU8,
}

/// What one address has.
#[derive(Debug)]
struct Held {
    permits: u32,
    /// Counted, not limited here.
    streams: Permits,
}

/// One permit of [`PerAddress`]; dropping it gives it back.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once limits nothing"]
pub struct AddressPermit {
    addresses: Arc<Addresses>,
    address: AddressKey,
    streams: Permits,
}

impl PerAddress {
    /// A limit of `limit` at once for each address. Of an IPv6 address the first `ipv6_prefix` bits count.
    pub fn new(limit: NonZeroU32, ipv6_prefix: u8) -> Self {
        let (limit, ipv6_prefix) = (AtomicU32::new(limit.get()), AtomicU8::new(ipv6_prefix));
        Self(Arc::new(Addresses { in_use: DashMap::new(), limit, ipv6_prefix }))
    }

    /// Goes by another limit and prefix from the next permit on. Those that are out stay out, even if they are more; with
    /// another prefix, those of IPv6 addresses count with nobody any more.
    pub fn change(&self, limit: NonZeroU32, ipv6_prefix: u8) {
        self.0.limit.store(limit.get(), Ordering::Relaxed);
        self.0.ipv6_prefix.store(ipv6_prefix, Ordering::Relaxed);
    }

    /// A permit for `ip`, or `None` at once when the address has all of its own.
    pub fn try_acquire(&self, ip: IpAddr) -> Option<AddressPermit> {
        self.try_acquire_if(ip, |_| true)
    }

    /// The same, if the address does not have its share already.
    pub fn try_acquire_within(&self, ip: IpAddr, share: FairShare) -> Option<AddressPermit> {
        self.try_acquire_if(ip, |held| share.allows_one_more(held as usize))
    }

    fn try_acquire_if(&self, ip: IpAddr, may: impl FnOnce(u32) -> bool) -> Option<AddressPermit> {
        let address = AddressKey::new(ip, self.0.ipv6_prefix.load(Ordering::Relaxed));
        // The entry is locked while it is counted, here and in `drop`. One that is full is never a new one: whoever has
        // nothing may have one.
        let held = || Held { permits: 0, streams: Permits::new(usize::MAX) };
        let mut held = self.0.in_use.entry(address).or_insert_with(held);
        let limit = self.0.limit.load(Ordering::Relaxed);
        if held.permits > 0 && (held.permits >= limit || !may(held.permits)) {
            return None;
        }
        held.permits += 1;
        let streams = held.streams.clone();
        Some(AddressPermit { addresses: Arc::clone(&self.0), address, streams })
    }

    /// How many addresses hold a permit at the moment. Visits every shard of the map: for metrics, not for each request.
    pub fn addresses(&self) -> usize {
        self.0.in_use.len()
    }
}

impl AddressPermit {
    /// A permit for one more stream, if all permits of this address together have fewer than `most`, and not their share
    /// already.
    pub fn stream(&self, most: usize, share: FairShare) -> Option<Permit> {
        self.streams.try_acquire_if(|held| held < most && share.allows_one_more(held))
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        self.addresses.in_use.remove_if_mut(&self.address, |_, held| {
            held.permits -= 1;
            held.permits == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_permit_counts_as_long_as_it_lives() {
        let permits = Permits::new(2);
        let first = permits.try_acquire().unwrap();
        let second = permits.clone().try_acquire().unwrap();
        assert!(permits.try_acquire().is_none());
        assert_eq!((permits.in_use(), permits.capacity()), (2, 2));
        drop(first);
        assert!(permits.try_acquire().is_some());
        drop(second);
        assert_eq!(permits.in_use(), 0);
        assert!(Permits::new(0).try_acquire().is_none());
    }

    #[test]
    fn a_permit_comes_back_from_a_task_that_dies() {
        let (permits, addresses) = (Permits::new(1), PerAddress::new(NonZeroU32::MIN, 64));
        let held = (permits.try_acquire().unwrap(), addresses.try_acquire(ip(1)).unwrap());
        let thread = std::thread::spawn(move || {
            let _held = held;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert_eq!((permits.in_use(), addresses.addresses()), (0, 0));
    }

    #[test]
    fn each_address_has_its_own_and_leaves_nothing_behind() {
        let limit = PerAddress::new(NonZeroU32::new(2).unwrap(), 64);
        let first = limit.try_acquire(ip(1)).unwrap();
        let second = limit.try_acquire("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert!(limit.try_acquire(ip(1)).is_none());
        let other = limit.try_acquire(ip(2)).unwrap();
        assert_eq!(limit.addresses(), 2);
        drop(first);
        assert_eq!(limit.addresses(), 2, "one permit of the first address is still out");
        drop((second, other));
        assert_eq!(limit.addresses(), 0);
    }

    #[test]
    fn a_smaller_capacity_lets_what_is_out_go_on() {
        let permits = Permits::new(3);
        let mut held: Vec<_> = (0..3).map(|_| permits.try_acquire().unwrap()).collect();
        permits.set_capacity(2);
        assert_eq!((permits.in_use(), permits.capacity()), (3, 2));
        held.pop();
        assert!(permits.try_acquire().is_none(), "as many as may be are out");
        held.pop();
        held.push(permits.try_acquire().unwrap());
        assert!(permits.try_acquire().is_none());
        permits.set_capacity(3);
        held.push(permits.try_acquire().unwrap());
        drop(held);
        assert_eq!(permits.in_use(), 0);
    }

    #[test]
    fn another_limit_of_addresses_counts_from_the_next_permit_on() {
        let limit = PerAddress::new(NonZeroU32::MIN, 64);
        let v6 = |last: &str| -> IpAddr { format!("2001:db8::{last}").parse().unwrap() };
        let mut held = vec![limit.try_acquire(ip(1)).unwrap(), limit.try_acquire(v6("1")).unwrap()];
        assert!(limit.try_acquire(ip(1)).is_none() && limit.try_acquire(v6("2")).is_none());
        limit.change(NonZeroU32::new(3).unwrap(), 64);
        held.extend([limit.try_acquire(ip(1)).unwrap(), limit.try_acquire(ip(1)).unwrap()]);
        assert!(limit.try_acquire(ip(1)).is_none());
        limit.change(NonZeroU32::MIN, 128);
        assert!(limit.try_acquire(ip(1)).is_none(), "three are out");
        held.push(limit.try_acquire(v6("2")).expect("each address is a visitor of its own now"));
        assert!(limit.try_acquire(v6("2")).is_none());
        // Each permit goes back to where it was taken, whatever the prefix is by then.
        drop(held);
        assert_eq!(limit.addresses(), 0);
        assert!(limit.try_acquire(ip(1)).is_some());
    }

    const PART: NonZeroUsize = NonZeroUsize::new(16).unwrap();

    #[test]
    fn streams_are_counted_over_all_permits_of_an_address() {
        let limit = PerAddress::new(NonZeroU32::MAX, 64);
        let all = Permits::new(1_000).fair_share(PART, 8);
        let (one, two) = (limit.try_acquire(ip(1)).unwrap(), limit.try_acquire(ip(1)).unwrap());
        let held = (one.stream(2, all).unwrap(), two.stream(2, all).unwrap());
        assert!(one.stream(2, all).is_none() && one.stream(3, all).is_some());
        assert!(limit.try_acquire(ip(2)).unwrap().stream(1, all).is_some(), "another address has its own");
        drop(held);
        assert!(two.stream(1, all).is_some());
        // With nothing left but the least:
        let none = Permits::new(0).fair_share(PART, 2);
        let held = [one.stream(100, none).unwrap(), one.stream(100, none).unwrap()];
        assert!(one.stream(100, none).is_none());
        drop(held);
    }

    #[test]
    fn whoever_comes_late_finds_a_share() {
        let (permits, limit) = (Permits::new(1_000), PerAddress::new(NonZeroU32::new(256).unwrap(), 64));
        let mut held = Vec::new();
        // Thirty addresses take all they can get.
        let mut take_all = |last| {
            let before = held.len();
            while let Some(own) = limit.try_acquire_within(ip(last), permits.fair_share(PART, 8)) {
                let Some(permit) = permits.try_acquire() else { break };
                held.push((permit, own));
            }
            held.len() - before
        };
        let counts: Vec<usize> = (0..30).map(&mut take_all).collect();
        assert_eq!((counts[0], counts[1], counts[2]), (256, 244, 500 / 16), "{counts:?}");
        assert!(counts.iter().all(|&count| count >= 8) && counts.is_sorted_by(|one, next| one >= next), "{counts:?}");
        assert_eq!(take_all(0), 0, "who has its share gets no more");
    }

    #[test]
    fn a_small_whole_is_not_cut_to_pieces() {
        let (permits, limit) = (Permits::new(4), PerAddress::new(NonZeroU32::MAX, 64));
        let held: Vec<_> = (0..8)
            .map_while(|_| {
                Some((limit.try_acquire_within(ip(1), permits.fair_share(PART, 8))?, permits.try_acquire()?))
            })
            .collect();
        assert_eq!(held.len(), 4);
    }

    #[test]
    fn one_alone_may_have_all_and_one_of_several_leaves_the_others_their_part() {
        let take_all = |permits: &Permits, sharers| {
            let mut held = Vec::new();
            while let Some(permit) = permits.try_acquire_shared(held.len(), sharers, 1) {
                held.push(permit);
            }
            held
        };
        for capacity in [0, 1, 2, 3, 1_000] {
            assert_eq!(take_all(&Permits::new(capacity), 1).len(), capacity, "alone");
        }
        let permits = Permits::new(1_000);
        let first = take_all(&permits, 5);
        assert_eq!(first.len(), 500);
        let others: Vec<_> = (1..5).map(|_| take_all(&permits, 5)).collect();
        assert!(others.iter().all(|held| held.len() == 100));
        drop(first);
        let small = Permits::new(3);
        assert!((0..3).all(|held| small.try_acquire_shared(held, 2, 8).map(std::mem::forget).is_some()));
        assert_eq!(take_all(&permits, 5).len(), 100, "half of them are out, to the others and to this one");
    }

    proptest! {
        /// Whatever the others do, each one can always take its part.
        #[test]
        fn whoever_shares_permits_finds_its_part(
            capacity in 1_usize..500,
            sharers in 1_usize..20,
            steps in proptest::collection::vec((any::<usize>(), any::<bool>()), 0..2_000),
        ) {
            let permits = Permits::new(capacity);
            let mut held: Vec<Vec<Permit>> = (0..sharers).map(|_| Vec::new()).collect();
            let part = capacity / 2 / sharers;
            for (who, takes) in steps {
                let own = &mut held[who % sharers];
                if !takes && who % 3 == 0 {
                    own.pop();
                    continue;
                }
                let count = own.len();
                let permit = permits.try_acquire_shared(count, sharers, 1);
                prop_assert!(permit.is_some() || count >= part);
                own.extend(permit);
            }
            prop_assert!(permits.in_use() <= capacity);
        }
    }

    #[test]
    fn threads_never_get_more_than_the_limit() {
        let (permits, addresses) = (Permits::new(3), PerAddress::new(NonZeroU32::new(2).unwrap(), 64));
        let held = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let (permit, address) = (permits.try_acquire(), addresses.try_acquire(ip(1)));
                        if address.is_some() {
                            assert!(held.fetch_add(1, Ordering::SeqCst) < 2);
                            held.fetch_sub(1, Ordering::SeqCst);
                        }
                        assert!(permits.in_use() <= 3);
                        drop((address, permit));
                    }
                });
            }
        });
        assert_eq!((permits.in_use(), addresses.addresses()), (0, 0));
    }
}
