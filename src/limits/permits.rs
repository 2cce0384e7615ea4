//! How many things may run at once. A permit is a value that moves into the task it counts, and counts no more when
//! it is dropped, by whichever way the task ends.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
        self.try_acquire_below(usize::MAX)
    }

    /// The same, as if there were no more than `most`.
    pub fn try_acquire_below(&self, most: usize) -> Option<Permit> {
        let capacity = self.capacity().min(most);
        let more = |in_use: usize| (in_use < capacity).then_some(in_use + 1);
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

    /// The most that one of many who share these should have at the moment: a `part`th of what is left, and at least
    /// `least`.
    ///
    /// Whatever somebody takes, the next one finds some left; and the more there are who take all they can, the less each
    /// of them gets: `n` of them leave `1 / (1 + n / part)` of the whole, as long as that is more than `least` for each.
    pub fn fair_share(&self, part: NonZeroUsize, least: usize) -> usize {
        (self.capacity().saturating_sub(self.in_use()) / part).max(least)
    }

    /// Changes how many there are. Those that are out stay out, even if they are more.
    pub fn set_capacity(&self, capacity: usize) {
        self.0.capacity.store(capacity, Ordering::Relaxed);
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
/// one of [`Permits`] as well. Clones count together.
#[derive(Debug, Clone)]
pub struct PerAddress(Arc<Addresses>);

#[derive(Debug)]
struct Addresses {
    in_use: DashMap<AddressKey, Held>,
    limit: NonZeroU32,
    ipv6_prefix: u8,
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
        Self(Arc::new(Addresses { in_use: DashMap::new(), limit, ipv6_prefix }))
    }

    /// A permit for `ip`, or `None` at once when the address has all of its own.
    pub fn try_acquire(&self, ip: IpAddr) -> Option<AddressPermit> {
        self.try_acquire_below(ip, usize::MAX)
    }

    /// The same, as if an address might have no more than `most`.
    pub fn try_acquire_below(&self, ip: IpAddr, most: usize) -> Option<AddressPermit> {
        let limit = u32::try_from(most).map_or(self.0.limit.get(), |most| self.0.limit.get().min(most)).max(1);
        let address = AddressKey::new(ip, self.0.ipv6_prefix);
        // The entry is locked while it is counted, here and in `drop`. One that is full is never a new one.
        let held = || Held { permits: 0, streams: Permits::new(usize::MAX) };
        let mut held = self.0.in_use.entry(address).or_insert_with(held);
        if held.permits >= limit {
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
    /// A permit for one more stream, if all permits of this address together have fewer than `most`. Two atomic
    /// operations, as with [`Permits`].
    pub fn stream(&self, most: usize) -> Option<Permit> {
        self.streams.try_acquire_below(most)
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
    fn streams_are_counted_over_all_permits_of_an_address() {
        let limit = PerAddress::new(NonZeroU32::MAX, 64);
        let (one, two) = (limit.try_acquire(ip(1)).unwrap(), limit.try_acquire(ip(1)).unwrap());
        let held = (one.stream(2).unwrap(), two.stream(2).unwrap());
        assert!(one.stream(2).is_none() && one.stream(3).is_some());
        assert!(limit.try_acquire(ip(2)).unwrap().stream(1).is_some(), "another address has its own");
        drop(held);
        assert!(two.stream(1).is_some());
    }

    #[test]
    fn whoever_comes_late_finds_a_share() {
        let (part, least) = (NonZeroUsize::new(16).unwrap(), 8);
        let (permits, limit) = (Permits::new(1_000), PerAddress::new(NonZeroU32::new(256).unwrap(), 64));
        let mut held = Vec::new();
        // Forty addresses take all they can get.
        let counts = (0..40).map(|last| {
            let before = held.len();
            while let Some(permit) = permits.try_acquire() {
                let Some(own) = limit.try_acquire_below(ip(last), permits.fair_share(part, least)) else { break };
                held.push((permit, own));
            }
            held.len() - before
        });
        let counts: Vec<usize> = counts.collect();
        assert!(counts[0] < 64 && counts.iter().all(|&count| count >= least), "{counts:?}");
        assert!(counts.is_sorted_by(|one, next| one >= next), "{counts:?}");
        assert_eq!(Permits::new(4).fair_share(part, least), least, "a small whole is not cut to pieces");
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
