//! Limits the memory for decoded request heads.
//!
//! Header compression turns a few bytes on the wire into a head of many kilobytes ([RFC 7541], section 7.3), which stays in
//! memory while the request waits. Small heads are free; larger ones are charged to the total and to their holders.
//!
//! [RFC 7541]: https://www.rfc-editor.org/rfc/rfc7541

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use http::{HeaderMap, Uri};

use super::{AddressKey, Budget, Share};
use crate::values::{ClientId, Name};

/// Heads up to this many bytes are not charged. Browsers send 1 to 4 KiB.
pub const FREE_HEAD: usize = 8 * 1024;

/// The overhead of a field, in bytes: its place in the map. RFC 7541 assumes 32 bytes, which is less.
const FIELD: usize = 120;

/// Returns how much memory the head of a request takes, in bytes.
pub fn head_memory(headers: &HeaderMap, target: usize) -> usize {
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    fields.sum::<usize>() + target
}

/// Returns the length of a request target, in bytes.
pub fn target_length(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |target| target.as_str().len())
}

/// A party that may use only a share of the budget.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An address of visitors: a sixteenth.
    Address(AddressKey),
    /// A client, whose services are asked: a quarter.
    Client(ClientId),
    /// A service, in its agent: half.
    Service(Name),
}

impl Holder {
    /// The divisor of the budget for this kind of holder.
    fn parts(&self) -> usize {
        match self {
            Self::Address(_) => 16,
            Self::Client(_) => 4,
            Self::Service(_) => 2,
        }
    }
}

/// The memory budget for request heads, in bytes. Clones share it; the capacity may change at any time.
#[derive(Debug, Clone)]
pub struct HeldHeads(Arc<Heads>);

#[derive(Debug)]
struct Heads {
    budget: Budget,
    capacity: AtomicUsize,
    /// How much each holder uses; there are no entries with 0.
    holders: DashMap<Holder, usize>,
}

/// A charged head; dropping it returns its bytes.
#[derive(Debug)]
#[must_use = "a head that is dropped immediately counts nothing"]
pub struct HeldHead {
    heads: Arc<Heads>,
    bytes: usize,
    charged: Vec<Holder>,
    _share: Share,
}

/// The budget, or this holder's share of it, is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyHeads;

impl HeldHeads {
    /// Creates a budget of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        let (budget, capacity) = (Budget::new(capacity), AtomicUsize::new(capacity));
        Self(Arc::new(Heads { budget, capacity, holders: DashMap::new() }))
    }

    /// Changes the capacity. Charged heads stay, even if they exceed it.
    pub fn set_capacity(&self, capacity: usize) {
        self.0.budget.set_capacity(capacity);
        self.0.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Returns how many bytes are charged at the moment.
    pub fn in_use(&self) -> usize {
        self.0.budget.in_use()
    }

    /// Charges a head of `memory` bytes to `holder`. Small heads are free.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn hold(&self, memory: usize, holder: impl FnOnce() -> Holder) -> Result<Option<Box<HeldHead>>, TooManyHeads> {
        let bytes = memory.saturating_sub(FREE_HEAD);
        if bytes == 0 {
            return Ok(None);
        }
        let mut share = self.0.budget.share();
        if !share.grow(bytes) {
            return Err(TooManyHeads);
        }
        let mut held =
            Box::new(HeldHead { heads: Arc::clone(&self.0), bytes, charged: Vec::with_capacity(2), _share: share });
        held.charge(holder())?;
        Ok(Some(held))
    }
}

impl HeldHead {
    /// Charges the head to another holder as well. A holder without a head may always hold one.
    ///
    /// # Errors
    /// The holder has used up its share.
    pub fn charge(&mut self, holder: Holder) -> Result<(), TooManyHeads> {
        let most = self.heads.capacity.load(Ordering::Relaxed) / holder.parts();
        {
            // The map stays locked while counting, here and in `drop`, so an entry of 0 is always new.
            let mut held = self.heads.holders.entry(holder.clone()).or_insert(0);
            if *held > 0 && held.saturating_add(self.bytes) > most {
                return Err(TooManyHeads);
            }
            *held += self.bytes;
        }
        self.charged.push(holder);
        Ok(())
    }
}

impl Drop for HeldHead {
    fn drop(&mut self) {
        for holder in &self.charged {
            self.heads.holders.remove_if_mut(holder, |_, held| {
                *held = held.saturating_sub(self.bytes);
                *held == 0
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: usize = 1 << 20;

    fn address(last: u8) -> Holder {
        Holder::Address(AddressKey::new([192, 0, 2, last].into(), 64))
    }

    fn client(name: &str) -> Holder {
        Holder::Client(ClientId::new(name).unwrap())
    }

    #[test]
    fn a_small_head_is_free() {
        let heads = HeldHeads::new(0);
        assert!(heads.hold(FREE_HEAD, || address(1)).unwrap().is_none());
        assert_eq!(heads.hold(FREE_HEAD + 1, || address(1)).err(), Some(TooManyHeads));
        assert_eq!(heads.in_use(), 0);
    }

    #[test]
    fn a_head_is_charged_with_what_it_takes() {
        let mut headers = HeaderMap::new();
        for _ in 0..100 {
            headers.append("a", "b".parse().unwrap());
        }
        assert_eq!(head_memory(&headers, 10), 100 * (2 + FIELD) + 10);
        assert_eq!(target_length(&"http://a.example/path?query".parse().unwrap()), 11);
    }

    /// Each address and each client gets only its share, so the rest stays available to others.
    #[test]
    fn nobody_holds_more_than_their_part() {
        let heads = HeldHeads::new(CAPACITY);
        let size = FREE_HEAD + CAPACITY / 64;
        let take = |holder: &Holder| heads.hold(size, || holder.clone()).map(Option::unwrap);
        let mut held: Vec<_> = std::iter::from_fn(|| take(&address(1)).ok()).collect();
        assert_eq!((held.len(), heads.in_use()), (4, CAPACITY / 16));
        // Another address, until the client has its part.
        for last in 2.. {
            let Ok(mut head) = take(&address(last)) else { panic!("address {last} holds nothing") };
            match head.charge(client("alice")) {
                Ok(()) => held.push(head),
                Err(TooManyHeads) => break,
            }
        }
        assert_eq!(held.len(), 4 + 16);
        let mut other = take(&address(200)).unwrap();
        assert_eq!(other.charge(client("bob")), Ok(()));
        drop((held, other));
        assert_eq!((heads.in_use(), heads.0.holders.len()), (0, 0));
    }

    #[test]
    fn whoever_holds_nothing_may_hold_one_head() {
        let heads = HeldHeads::new(CAPACITY);
        let held = heads.hold(FREE_HEAD + CAPACITY / 2, || address(1)).unwrap();
        assert!(held.is_some() && heads.hold(FREE_HEAD + 1, || address(1)).is_err());
        assert!(heads.hold(FREE_HEAD + CAPACITY, || address(2)).is_err(), "it does not fit");
        assert!(heads.hold(FREE_HEAD + CAPACITY / 2, || address(2)).is_ok());
    }

    proptest! {
        /// For any order of charges and drops, the total equals the sum of the holders and the bounds hold; at the end it is 0.
        #[test]
        fn what_is_held_adds_up(steps in prop::collection::vec((0..4_u8, 0..3_u8, 0..CAPACITY / 4, any::<bool>()), 0..100)) {
            let heads = HeldHeads::new(CAPACITY);
            let mut held: Vec<Box<HeldHead>> = Vec::new();
            for (last, name, size, gives_back) in steps {
                if gives_back {
                    held.pop();
                } else if let Ok(Some(mut head)) = heads.hold(size, || address(last))
                    && head.charge(client(&format!("c{name}"))).is_ok()
                {
                    held.push(head);
                }
                let sum: usize = held.iter().map(|head| head.bytes).sum();
                prop_assert!(heads.in_use() == sum && sum <= CAPACITY);
                for holder in &heads.0.holders {
                    let of_holder = held.iter().filter(|head| head.charged.contains(holder.key()));
                    let (count, bytes) = of_holder.fold((0, 0), |(n, sum), head| (n + 1, sum + head.bytes));
                    prop_assert_eq!(bytes, *holder.value());
                    prop_assert!(count == 1 || bytes <= CAPACITY / holder.key().parts());
                }
            }
            drop(held);
            prop_assert_eq!((heads.in_use(), heads.0.holders.len()), (0, 0));
        }
    }
}
