//! How many things may run at once. A permit is a value that moves into the task it counts, and counts no more when
//! it is dropped, by whichever way the task ends.

use std::net::IpAddr;
use std::num::NonZeroU32;
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
        let capacity = self.capacity();
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
    in_use: DashMap<AddressKey, u32>,
    limit: NonZeroU32,
    ipv6_prefix: u8,
}

/// One permit of [`PerAddress`]; dropping it gives it back.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once limits nothing"]
pub struct AddressPermit {
    addresses: Arc<Addresses>,
    address: AddressKey,
}

impl PerAddress {
    /// A limit of `limit` at once for each address. Of an IPv6 address the first `ipv6_prefix` bits count.
    pub fn new(limit: NonZeroU32, ipv6_prefix: u8) -> Self {
        Self(Arc::new(Addresses { in_use: DashMap::new(), limit, ipv6_prefix }))
    }

    /// A permit for `ip`, or `None` at once when the address has all of its own.
    pub fn try_acquire(&self, ip: IpAddr) -> Option<AddressPermit> {
        let address = AddressKey::new(ip, self.0.ipv6_prefix);
        // The entry is locked while it is counted, here and in `drop`. One that is full is never a new one.
        let mut in_use = self.0.in_use.entry(address).or_insert(0);
        if *in_use >= self.0.limit.get() {
            return None;
        }
        *in_use += 1;
        Some(AddressPermit { addresses: Arc::clone(&self.0), address })
    }

    /// How many addresses hold a permit at the moment. Visits every shard of the map: for metrics, not for each request.
    pub fn addresses(&self) -> usize {
        self.0.in_use.len()
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        self.addresses.in_use.remove_if_mut(&self.address, |_, in_use| {
            *in_use -= 1;
            *in_use == 0
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
