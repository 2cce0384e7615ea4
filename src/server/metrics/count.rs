//! Counters.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter of events.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// Adds `more`.
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Returns the count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each of several kinds of events.
#[derive(Debug)]
pub(crate) struct Counts<const KINDS: usize>([Count; KINDS]);

impl<const KINDS: usize> Default for Counts<KINDS> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

impl<const KINDS: usize> Counts<KINDS> {
    /// Returns the counter of `kind`; kinds beyond the last one share the last counter.
    pub(crate) fn at(&self, kind: usize) -> &Count {
        &self.0[kind.min(KINDS - 1)]
    }

    /// Returns all counts, in the order of the kinds.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(Count::get)
    }
}
