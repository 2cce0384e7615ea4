//! Numbers that only grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often something has happened.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The same for each of several kinds.
#[derive(Debug)]
pub(crate) struct Counts<const KINDS: usize>([Count; KINDS]);

impl<const KINDS: usize> Default for Counts<KINDS> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

impl<const KINDS: usize> Counts<KINDS> {
    /// Of kinds beyond the last one, it is that of the last.
    pub(crate) fn at(&self, kind: usize) -> &Count {
        &self.0[kind.min(KINDS - 1)]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(Count::get)
    }
}
