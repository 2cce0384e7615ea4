//! From a name or a domain to whoever offers it.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::server::directory::service::Offered;
use crate::values::{ClientId, TunnelId};

/// Who offers what. Readers take a clone out and hold no lock; writers take turns, which is the registry's business.
#[derive(Debug)]
pub(crate) struct Index<K: Eq + Hash>(DashMap<K, Holders>);

/// Those that one key leads to: one, or several of one client that share the visitors. Never empty.
#[derive(Debug, Default)]
struct Holders {
    members: Vec<Arc<Offered>>,
    /// Where the next visitor begins to look, so that idle members take turns.
    next: AtomicUsize,
}

impl Holders {
    /// The member with the fewest open streams, of those that fit and can serve.
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
    pub(crate) fn new() -> Self {
        Self(DashMap::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whoever is to serve the next visitor of `key`, of those that fit.
    pub(crate) fn choose<Q>(&self, key: &Q, fits: impl Fn(&Offered) -> bool) -> Option<Arc<Offered>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key)?.choose(fits).cloned()
    }

    /// Whether another client holds `key`.
    pub(crate) fn is_foreign(&self, key: &K, client: &ClientId) -> bool {
        self.0.get(key).is_some_and(|holders| holders.members.iter().any(|held| held.tunnel.client() != client))
    }

    /// All that `key` leads to.
    pub(crate) fn members(&self, key: &K) -> Vec<Arc<Offered>> {
        self.0.get(key).map(|holders| holders.members.clone()).unwrap_or_default()
    }

    /// From now on `key` leads to these.
    pub(crate) fn set(&self, key: K, members: Vec<Arc<Offered>>) {
        if members.is_empty() {
            self.0.remove(&key);
        } else {
            self.0.entry(key).or_default().members = members;
        }
    }

    /// Whether `key` leads to this tunnel.
    pub(crate) fn leads_to(&self, key: &K, tunnel: TunnelId) -> bool {
        self.0.get(key).is_some_and(|holders| holders.members.iter().any(|held| held.tunnel.id() == tunnel))
    }
}
