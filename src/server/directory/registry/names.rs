//! Assigns names and domains to tunnels.
//!
//! One rule applies after every change: of the active tunnels that offer a name, the one whose agent was started last has
//! it, together with those that share it (`group`). The others are on standby. A name that becomes free is reserved for its
//! last owner for some time ([`crate::server::directory::registry::reservations`]); an agent that was started later does not
//! have to wait.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::protocol::standby::{OtherAgent, Standby};
use crate::server::directory::offered::Offered;
use crate::server::directory::registry::candidates::{Candidate, candidates_by, candidates_by_domain, decide};
use crate::server::directory::registry::index::Index;
use crate::server::directory::registry::owner_changes::OwnerChanges;
use crate::server::directory::registry::route_keys::{RouteKey, RouteKeys};
use crate::server::directory::registry::{Registry, WriterState};
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::{RetireReason, Tunnel};
use crate::values::{ClientId, Name, TunnelId};

/// Whether a login gets the name of one of its services.
#[derive(Debug, Clone)]
pub enum NameAssignment {
    /// It gets the name.
    Owned {
        /// The agent that has the name until now, if any.
        taken_from: Option<OtherAgent>,
    },
    /// It is on standby for the name.
    Standby(Standby),
}

/// The owners of a key before and after a change.
struct Owners {
    before: Vec<Arc<Offered>>,
    after: Vec<Candidate>,
}

impl Registry {
    /// Assigns names and domains to the tunnels that should have them. Ignores the tunnels in `gone`. Logs changes and
    /// notifies the tunnels that have won or lost a name, except `newcomer`: the answer to its login tells it its names.
    pub(crate) fn reassign(
        &self,
        state: &mut WriterState,
        client: &ClientId,
        gone: &[TunnelId],
        keys: RouteKeys,
        newcomer: Option<TunnelId>,
    ) {
        let mut serving = self.tunnels_of(client);
        serving.retain(|tunnel| tunnel.is_serving() && !gone.contains(&tunnel.id()));
        let mut changes = OwnerChanges::default();
        let RouteKeys { names, mut domains } = keys;
        let by_name = candidates_by(&serving, |service| names.contains(service.name()).then(|| service.name().clone()));
        for name in &names {
            let candidates = by_name.get(name).map(Vec::as_slice).unwrap_or_default();
            if let Some(owners) = self.reassign_key(state, client, &self.names, name, candidates) {
                changes.add(name, &owners.before, &owners.after);
            }
        }
        // A domain follows the name of its service.
        for candidate in by_name.values().flatten() {
            domains.extend(candidate.service.offer().domains.iter().cloned());
        }
        let by_domain = candidates_by_domain(&serving, &domains, |name, id| self.names.leads_to(name, id));
        for domain in &domains {
            let candidates = by_domain.get(domain).map(Vec::as_slice).unwrap_or_default();
            self.reassign_key(state, client, &self.domains, domain, candidates);
        }
        changes.announce(client, newcomer);
    }

    /// Assigns one name or domain. Returns its owners before and after; `None` if another client has it.
    fn reassign_key<K>(
        &self,
        state: &mut WriterState,
        client: &ClientId,
        index: &Index<K>,
        key: &K,
        candidates: &[Candidate],
    ) -> Option<Owners>
    where
        K: Eq + Hash + Clone,
        for<'k> RouteKey: From<&'k K>,
    {
        if index.is_foreign(key, client) {
            return None;
        }
        let (before, route_key) = (index.members(key), RouteKey::from(key));
        let stays = |held: &Arc<Offered>| candidates.iter().any(|candidate| candidate.is(held));
        if let Some(last) = before.iter().map(|held| held.tunnel.start()).max()
            && !before.iter().any(stays)
        {
            state.reservations.reserve(client, route_key.clone(), last, state.reservation_time);
            self.reserved.notify_one();
        }
        let after = decide(candidates, &before, state.reservations.start_of(client, &route_key));
        if !after.is_empty() {
            state.reservations.cancel(client, &route_key);
        }
        let member = |candidate: Candidate| {
            let same = |held: &&Arc<Offered>| candidate.is(held) && Arc::ptr_eq(&held.service, &candidate.service);
            let same = before.iter().find(same).cloned();
            same.unwrap_or_else(|| Arc::new(Offered { tunnel: candidate.tunnel, service: candidate.service }))
        };
        index.set(key.clone(), after.iter().cloned().map(member).collect());
        Some(Owners { before, after })
    }

    /// Returns which names `tunnel` would get if it were activated now, in the order of its services.
    pub fn preview(&self, tunnel: &Arc<Tunnel>) -> Vec<NameAssignment> {
        self.preview_in(&self.state.lock(), tunnel)
    }

    /// As [`Registry::preview`], for a caller that has locked the state.
    pub(crate) fn preview_in(&self, state: &WriterState, tunnel: &Arc<Tunnel>) -> Vec<NameAssignment> {
        let services = tunnel.services();
        let mut others = self.tunnels_of(tunnel.client());
        others.retain(|other| other.is_serving() && other.instance() != tunnel.instance());
        let names: HashSet<&Name> = services.iter().map(|service| service.name()).collect();
        let mut offers = candidates_by(&others, |other| names.contains(other.name()).then(|| other.name().clone()));
        let preview = |service: &Arc<Service>| {
            let candidates = offers.remove(service.name()).unwrap_or_default();
            self.preview_one(state, tunnel, service, candidates)
        };
        services.iter().map(preview).collect()
    }

    fn preview_one(
        &self,
        state: &WriterState,
        tunnel: &Arc<Tunnel>,
        service: &Arc<Service>,
        mut candidates: Vec<Candidate>,
    ) -> NameAssignment {
        let name = service.name();
        let own = Candidate { tunnel: Arc::clone(tunnel), service: Arc::clone(service) };
        candidates.push(own.clone());
        let before = self.names.members(name);
        let is_own = |held: &Arc<Offered>| held.tunnel.instance() == tunnel.instance();
        let reserved = state.reservations.start_of(tunnel.client(), &RouteKey::from(name));
        // A name that an earlier tunnel of the same agent has is not free.
        let reserved = reserved.or_else(|| self.standby_start(tunnel, name)).filter(|_| !before.iter().any(is_own));
        let after = decide(&candidates, &before, reserved);
        let stays = |held: &Arc<Offered>| after.iter().any(|candidate| candidate.is(held));
        let mut others = before.iter().filter(|held| !is_own(held));
        if after.iter().any(|candidate| candidate.id() == own.id()) {
            let taken_from = others.find(|held| !stays(held)).map(|held| held.tunnel.as_other());
            return NameAssignment::Owned { taken_from };
        }
        NameAssignment::Standby(Standby { name: name.clone(), by: others.next().map(|held| held.tunnel.as_other()) })
    }

    /// Returns the start number that an agent needs in order to get `name` before `tunnel`, whose agent says that it is on
    /// standby for it although no owner is known: the server was restarted, and the owner may reconnect.
    fn standby_start(&self, tunnel: &Tunnel, name: &Name) -> Option<u64> {
        let waits = !tunnel.has_been_up() && tunnel.is_standby_for(name) && self.names.members(name).is_empty();
        waits.then(|| tunnel.start().saturating_add(1))
    }

    /// Reserves the unowned names that `tunnel` says it is on standby for.
    pub(crate) fn reserve_for_owners(&self, state: &mut WriterState, tunnel: &Tunnel) {
        let time = state.reservation_time;
        for service in tunnel.services().iter() {
            if let Some(start) = self.standby_start(tunnel, service.name()) {
                state.reservations.reserve(tunnel.client(), RouteKey::from(service.name()), start, time);
                self.reserved.notify_one();
            }
        }
    }

    /// Assigns the names whose reservation has expired. Returns whether there are other reservations.
    pub fn release_expired(&self) -> bool {
        let mut state = self.state.lock();
        let expired = state.reservations.take_expired();
        let any = !expired.is_empty();
        for (client, keys) in expired {
            self.reassign(&mut state, &client, &[], keys.into_iter().collect(), None);
        }
        let more = !state.reservations.is_empty();
        drop(state);
        if any {
            self.notify_changed();
        }
        more
    }

    /// Returns the services of a tunnel whose names it has.
    pub fn held(&self, tunnel: &Tunnel) -> Vec<Arc<Service>> {
        let services = tunnel.services();
        services.iter().filter(|service| self.names.leads_to(service.name(), tunnel.id())).cloned().collect()
    }

    /// Returns the names that a tunnel offers but does not have.
    pub fn standbys(&self, tunnel: &Tunnel) -> Vec<Standby> {
        let services = tunnel.services();
        let lost = services.iter().filter(|service| !self.names.leads_to(service.name(), tunnel.id()));
        let standby = |service: &Arc<Service>| {
            let by = self.names.members(service.name()).first().map(|held| held.tunnel.as_other());
            Standby { name: service.name().clone(), by }
        };
        lost.map(standby).collect()
    }

    /// Retires a tunnel without a name if its agent does not support standby.
    pub(crate) fn retire_if_nameless(&self, state: &mut WriterState, old: &Arc<Tunnel>, by: &Tunnel) {
        if old.is_serving() && !old.can_stand_by() && self.held(old).is_empty() {
            self.retire_replaced(state, old, by);
        }
    }

    /// Retires a tunnel that `by` replaces.
    pub(crate) fn retire_replaced(&self, state: &mut WriterState, old: &Arc<Tunnel>, by: &Tunnel) {
        old.retire(RetireReason::Replaced { by: by.as_other().to_string() });
        self.release_names(state, old);
    }

    /// Takes the names of a tunnel that no longer serves, and assigns them to others.
    pub(crate) fn release_names(&self, state: &mut WriterState, tunnel: &Tunnel) {
        self.reassign(state, tunnel.client(), &[tunnel.id()], RouteKeys::of(&tunnel.services()), None);
    }
}
