//! The index from names and domains to what serves them.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::server::directory::offered::Offered;
use crate::values::{ClientId, TunnelId};

/// An index by name or domain. Readers clone an entry and hold no lock; the registry serializes writers.
#[derive(Debug)]
pub(crate) struct Index<K: Eq + Hash>(DashMap<K, Holders>);

/// The owners of one key: one, or several of one client that share the visitors. Never empty.
#[derive(Debug, Default)]
struct Holders {
    members: Vec<Arc<Offered>>,
    /// The member that the next selection starts with, so that idle members take turns.
    next: AtomicUsize,
}

impl Holders {
    /// Returns the fitting member with the fewest open streams; members that serve come first.
    fn choose(&self, fits: impl Fn(&Offered) -> bool) -> Option<&Arc<Offered>> {
        if let [only] = &*self.members {
            return Some(only).filter(|held| fits(held));
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.members.len();
        let in_turn = (0..count).filter_map(|at| self.members.get((start.wrapping_add(at)) % count));
        in_turn.filter(|held| fits(held)).min_by_key(|held| (!held.tunnel.is_serving(), held.tunnel.streams()))
    }
}

impl<K: Eq + Hash> Index<K> {
    /// Creates an empty index.
    pub(crate) fn new() -> Self {
        Self(DashMap::new())
    }

    /// Returns whether it is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the fitting member that serves the next visitor of `key`.
    pub(crate) fn choose<Q>(&self, key: &Q, fits: impl Fn(&Offered) -> bool) -> Option<Arc<Offered>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key)?.choose(fits).cloned()
    }

    /// Returns whether another client has `key`.
    pub(crate) fn is_foreign(&self, key: &K, client: &ClientId) -> bool {
        self.0.get(key).is_some_and(|holders| holders.members.iter().any(|held| held.tunnel.client() != client))
    }

    /// Returns all that `key` leads to.
    pub(crate) fn members(&self, key: &K) -> Vec<Arc<Offered>> {
        self.0.get(key).map(|holders| holders.members.clone()).unwrap_or_default()
    }

    /// Makes `key` lead to these members.
    pub(crate) fn set(&self, key: K, members: Vec<Arc<Offered>>) {
        if members.is_empty() {
            self.0.remove(&key);
        } else {
            self.0.entry(key).or_default().members = members;
        }
    }

    /// Returns whether `key` leads to this tunnel.
    pub(crate) fn leads_to(&self, key: &K, tunnel: TunnelId) -> bool {
        self.0.get(key).is_some_and(|holders| holders.members.iter().any(|held| held.tunnel.id() == tunnel))
    }
}
