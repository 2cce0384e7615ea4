//! From a name or a domain to whoever offers it.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::server::service::{Offered, Service};
use crate::server::tunnel::Tunnel;
use crate::values::{ClientId, InstanceId, TunnelId};

/// Who offers what. Readers take a clone out and hold no lock; writers take turns, which is the registry's business.
#[derive(Debug)]
pub(super) struct Index<K: Eq + Hash>(DashMap<K, Holders>);

/// Those that one key leads to: one, or several of one client that share the visitors. Never empty.
#[derive(Debug, Default)]
struct Holders {
    members: Vec<Arc<Offered>>,
    /// Where the next visitor begins to look, so that idle members take turns.
    next: AtomicUsize,
}

impl Holders {
    fn is_shared_by(&self, tunnel: &Tunnel, service: &Service) -> bool {
        let shares = |held: &Arc<Offered>| held.tunnel.client() == tunnel.client() && held.service.shares_with(service);
        self.members.iter().all(shares)
    }

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
    pub(super) fn new() -> Self {
        Self(DashMap::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whoever is to serve the next visitor of `key`, of those that fit.
    pub(super) fn choose<Q>(&self, key: &Q, fits: impl Fn(&Offered) -> bool) -> Option<Arc<Offered>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key)?.choose(fits).cloned()
    }

    pub(super) fn is_held(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Whether another client holds `key`.
    pub(super) fn is_foreign(&self, key: &K, client: &ClientId) -> bool {
        self.0.get(key).is_some_and(|holders| holders.members.iter().any(|held| held.tunnel.client() != client))
    }

    /// Whether `key` is held by other agents, which would not share it with `service`.
    pub(super) fn is_held_against(&self, key: &K, instance: InstanceId, client: &ClientId, service: &Service) -> bool {
        self.0.get(key).is_some_and(|holders| {
            holders.members.iter().any(|held| {
                held.tunnel.instance() != instance
                    && !(held.tunnel.client() == client && held.service.shares_with(service))
            })
        })
    }

    /// Gives `key` to this tunnel's service: beside those that share it, and in place of all others. Gives back whom it
    /// was taken from; earlier tunnels of the same agent are not among them.
    pub(super) fn claim(&self, key: K, tunnel: &Arc<Tunnel>, service: &Arc<Service>) -> Vec<Arc<Offered>> {
        let offered = Arc::new(Offered { tunnel: Arc::clone(tunnel), service: Arc::clone(service) });
        let mut holders = self.0.entry(key).or_default();
        holders.members.retain(|held| held.tunnel.instance() != tunnel.instance());
        let shared = holders.is_shared_by(tunnel, service);
        let replaced = if shared { Vec::new() } else { std::mem::take(&mut holders.members) };
        holders.members.push(offered);
        replaced
    }

    /// Gives `key` to this tunnel's service if nobody has it, or only those that share it. Says whether it has it now.
    pub(super) fn join(&self, key: K, tunnel: &Arc<Tunnel>, service: &Arc<Service>) -> bool {
        let mut holders = self.0.entry(key).or_default();
        let joins = holders.is_shared_by(tunnel, service);
        if joins && !holders.members.iter().any(|held| held.tunnel.id() == tunnel.id()) {
            holders.members.push(Arc::new(Offered { tunnel: Arc::clone(tunnel), service: Arc::clone(service) }));
        }
        joins
    }

    /// Takes `key` away from a tunnel.
    pub(super) fn release(&self, key: &K, tunnel: TunnelId) {
        self.0.remove_if_mut(key, |_, holders| {
            holders.members.retain(|held| held.tunnel.id() != tunnel);
            holders.members.is_empty()
        });
    }

    /// Whether `key` leads to this tunnel.
    pub(super) fn leads_to(&self, key: &K, tunnel: TunnelId) -> bool {
        self.0.get(key).is_some_and(|holders| holders.members.iter().any(|held| held.tunnel.id() == tunnel))
    }
}
