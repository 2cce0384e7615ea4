//! The tunnels that offer a name, and which of them gets it.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::server::directory::offered::Offered;
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::Tunnel;
use crate::values::{Domain, Name, TunnelId};

/// A tunnel that offers a name or domain, with the service that it offers there.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) tunnel: Arc<Tunnel>,
    pub(crate) service: Arc<Service>,
}

impl Candidate {
    /// Returns the id of its tunnel.
    pub(crate) fn id(&self) -> TunnelId {
        self.tunnel.id()
    }

    /// Returns whether both may serve the same name.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        self.id() == other.id() || self.service.shares_with(&other.service)
    }

    /// Returns whether `held` is through the same tunnel.
    pub(crate) fn is(&self, held: &Offered) -> bool {
        held.tunnel.id() == self.id()
    }
}

/// Returns the candidates that own a key from now on; `held` own it until now. `reserved_from` is the start number that a
/// candidate needs while the key is reserved and none of the candidates owns it. Agents that do not support standby ignore
/// the reservation.
pub(crate) fn decide(candidates: &[Candidate], held: &[Arc<Offered>], reserved_from: Option<u64>) -> Vec<Candidate> {
    let is_held = candidates.iter().any(|candidate| held.iter().any(|held| candidate.is(held)));
    let may = |candidate: &&Candidate| {
        is_held
            || !candidate.tunnel.can_stand_by()
            || reserved_from.is_none_or(|start| candidate.tunnel.start() >= start)
    };
    // If the newest candidate has to wait, older ones have to wait, too.
    let newest = candidates.iter().max_by_key(|candidate| candidate.tunnel.rank());
    let Some(newest) = newest.filter(may) else { return Vec::new() };
    candidates.iter().filter(|candidate| candidate.shares_with(newest)).cloned().collect()
}

/// Returns the candidates by the key that `key_of` returns for each of their services.
pub(crate) fn candidates_by<K: Eq + Hash>(
    tunnels: &[Arc<Tunnel>],
    key_of: impl Fn(&Service) -> Option<K>,
) -> HashMap<K, Vec<Candidate>> {
    let mut candidates: HashMap<K, Vec<Candidate>> = HashMap::new();
    for tunnel in tunnels {
        for service in tunnel.services().iter() {
            if let Some(key) = key_of(service) {
                let candidate = Candidate { tunnel: Arc::clone(tunnel), service: Arc::clone(service) };
                candidates.entry(key).or_default().push(candidate);
            }
        }
    }
    candidates
}

/// Returns the candidates of each of `domains`. A domain follows the name of its service: `leads` tells whether a name leads
/// to a tunnel.
pub(crate) fn candidates_by_domain(
    tunnels: &[Arc<Tunnel>],
    domains: &HashSet<Domain>,
    leads: impl Fn(&Name, TunnelId) -> bool,
) -> HashMap<Domain, Vec<Candidate>> {
    let mut candidates: HashMap<Domain, Vec<Candidate>> = HashMap::new();
    if domains.is_empty() {
        return candidates;
    }
    for tunnel in tunnels {
        for service in tunnel.services().iter().filter(|service| leads(service.name(), tunnel.id())) {
            for domain in service.offer().domains.iter().filter(|domain| domains.contains(*domain)) {
                let candidate = Candidate { tunnel: Arc::clone(tunnel), service: Arc::clone(service) };
                candidates.entry(domain.clone()).or_default().push(candidate);
            }
        }
    }
    candidates
}
