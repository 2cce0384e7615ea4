//! How many bytes may be held at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// At most so many bytes at once. Nobody waits: whoever asks for more than is left gets none.
///
/// Clones count together. How many there are may change at any time.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Bytes>);

#[derive(Debug)]
struct Bytes {
    in_use: AtomicUsize,
    capacity: AtomicUsize,
}

/// A part of a [`Budget`], as large as it has grown; dropping it gives all of it back.
#[derive(Debug)]
#[must_use = "a share that is dropped at once counts nothing"]
pub struct Share {
    budget: Arc<Bytes>,
    bytes: usize,
}

impl Budget {
    /// A budget of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Bytes { in_use: AtomicUsize::new(0), capacity: AtomicUsize::new(capacity) }))
    }

    /// A share of nothing, which can grow.
    pub fn share(&self) -> Share {
        Share { budget: Arc::clone(&self.0), bytes: 0 }
    }

    /// Changes how many bytes there are. What is given out stays so, even if it is more.
    pub fn set_capacity(&self, capacity: usize) {
        self.0.capacity.store(capacity, Ordering::Relaxed);
    }

    /// How many bytes are given out at the moment.
    pub fn in_use(&self) -> usize {
        self.0.in_use.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Takes `bytes` more; `false`, and nothing has changed, if as many are not left.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Bytes { in_use, capacity } = &*self.budget;
        let capacity = capacity.load(Ordering::Relaxed);
        let more = |in_use: usize| in_use.checked_add(bytes).filter(|sum| *sum <= capacity);
        let has_grown = in_use.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok();
        if has_grown {
            self.bytes += bytes;
        }
        has_grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.in_use.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_while_bytes_are_left_and_gives_all_of_them_back() {
        let budget = Budget::new(10);
        let (mut one, mut two) = (budget.share(), budget.clone().share());
        assert!(one.grow(4) && two.grow(3) && one.grow(2));
        assert!(!two.grow(2) && !two.grow(usize::MAX), "one byte is left");
        assert_eq!(budget.in_use(), 9);
        drop(one);
        assert_eq!(budget.in_use(), 3);
        assert!(two.grow(7) && !two.grow(1));
        drop(two);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn another_capacity_counts_from_the_next_byte_on() {
        let budget = Budget::new(10);
        let mut share = budget.share();
        assert!(share.grow(10) && !share.grow(1));
        budget.set_capacity(12);
        assert!(share.grow(2) && !share.grow(1));
        budget.set_capacity(5);
        assert_eq!(budget.in_use(), 12, "what is held stays held");
        let mut other = budget.clone().share();
        assert!(!other.grow(1));
        drop(share);
        assert!(other.grow(5) && !other.grow(1));
    }
}
