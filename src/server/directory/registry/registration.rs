//! Adds tunnels and lanes to the registry, and removes them.

use std::sync::Arc;

use crate::protocol::standby::Standby;
use crate::server::directory::authenticated::Authenticated;
use crate::server::directory::registry::route_keys::RouteKeys;
use crate::server::directory::registry::{
    LaneGuard, MAX_TUNNELS_OF_A_CLIENT, NameAssignment, RegisterError, Registration, Registry, WriterState,
};
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::{Lane, RetireReason, Tunnel};
use crate::values::ClientId;

impl Registry {
    /// Adds a tunnel. It has no names before [`Registration::activate`].
    ///
    /// # Errors
    /// Another client has one of the names, or there are too many tunnels. Nothing has changed then.
    pub fn register(
        self: &Arc<Self>,
        login: Authenticated,
        make: impl FnOnce(Authenticated) -> Tunnel,
    ) -> Result<Registration, RegisterError> {
        let mut state = self.state.lock();
        self.check_foreign(&login.client, &login.services)?;
        let own = self.tunnels_of(&login.client);
        let tunnel = Arc::new(make(login));
        let assignments = self.preview_in(&state, &tunnel);
        self.check_has_name(&tunnel, &assignments)?;
        let is_on_standby = assignments.iter().all(|each| matches!(each, NameAssignment::Standby(_)));
        if is_on_standby || !self.replaces_one(&own, &tunnel) {
            if state.count >= state.max_tunnels {
                return Err(RegisterError::TooMany);
            }
            if own.len() >= MAX_TUNNELS_OF_A_CLIENT {
                return Err(RegisterError::TooManyOfClient);
            }
        }
        state.count += 1;
        self.tunnels.entry(tunnel.client().clone()).or_default().push(Arc::clone(&tunnel));
        drop(state);
        self.notify_changed();
        Ok(Registration::new(Arc::clone(self), tunnel))
    }

    /// Checks that an agent that does not support standby gets at least one name.
    fn check_has_name(&self, tunnel: &Tunnel, assignments: &[NameAssignment]) -> Result<(), RegisterError> {
        let refusal = |assignment: &NameAssignment| match assignment {
            NameAssignment::Standby(Standby { name, by: Some(by) }) => {
                Some(RegisterError::Replaced(name.clone(), by.clone()))
            }
            NameAssignment::Standby(Standby { name, by: None }) => Some(RegisterError::Reserved(name.clone())),
            NameAssignment::Owned { .. } => None,
        };
        match assignments.iter().map(refusal).collect::<Option<Vec<_>>>() {
            Some(all) if !tunnel.can_stand_by() => all.into_iter().next().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    /// Checks that no other client has one of the names or domains.
    pub(crate) fn check_foreign(&self, client: &ClientId, services: &[Arc<Service>]) -> Result<(), RegisterError> {
        for service in services {
            if self.names.is_foreign(service.name(), client) {
                return Err(RegisterError::NameTaken(service.name().clone()));
            }
            let mut domains = service.offer().domains.iter();
            if let Some(taken) = domains.find(|domain| self.domains.is_foreign(domain, client)) {
                return Err(RegisterError::DomainTaken(taken.clone()));
            }
        }
        Ok(())
    }

    /// Returns whether `login` replaces one of the client's tunnels. Such a login is accepted even if a limit is reached. For
    /// each serving tunnel at most one more may be connecting or draining, so the number of tunnels stays below twice the
    /// limit.
    fn replaces_one(&self, own: &[Arc<Tunnel>], login: &Tunnel) -> bool {
        let claimed = login.services();
        let takes = |held: &Arc<Service>| {
            claimed.iter().any(|claimed| claimed.name() == held.name() && !claimed.shares_with(held))
        };
        let replaced = |old: &Tunnel| {
            let services = old.services();
            let mut held = services.iter().filter(|service| self.names.leads_to(service.name(), old.id()));
            old.instance() == login.instance() || (old.start() <= login.start() && held.all(takes))
        };
        let (serving, passing): (Vec<&Arc<Tunnel>>, Vec<_>) = own.iter().partition(|tunnel| tunnel.is_serving());
        passing.len() < serving.len() && serving.into_iter().any(|old| replaced(old))
    }

    /// Adds the first lane, assigns the names and retires the replaced tunnels, atomically.
    pub(crate) fn activate(&self, tunnel: &Arc<Tunnel>, lane: &Arc<Lane>) -> Result<(), RegisterError> {
        let mut state = self.state.lock();
        let services = tunnel.services();
        self.check_foreign(tunnel.client(), &services)?;
        self.check_has_name(tunnel, &self.preview_in(&state, tunnel))?;
        self.reserve_for_owners(&mut state, tunnel);
        state.activations += 1;
        tunnel.activate(lane, state.activations);
        let mut keys = RouteKeys::of(&services);
        // A tunnel that waits for its first lane stays: that lane may still come.
        let older = self.tunnels_of(tunnel.client()).into_iter();
        let older = older.filter(|old| old.id() != tunnel.id() && old.has_been_up());
        let (previous, others): (Vec<_>, Vec<_>) = older.partition(|old| old.instance() == tunnel.instance());
        for old in &previous {
            old.retire(RetireReason::Reconnected);
            keys.add(&old.services());
        }
        self.reassign(&mut state, tunnel.client(), &[], keys, Some(tunnel.id()));
        for old in &others {
            self.retire_if_nameless(&mut state, old, tunnel);
        }
        self.make_room(&mut state, tunnel);
        drop(state);
        self.notify_changed();
        Ok(())
    }

    /// Retires standby tunnels while a limit is exceeded, the oldest first.
    fn make_room(&self, state: &mut WriterState, newcomer: &Tunnel) {
        let own = self.tunnels_of(newcomer.client());
        let over = state.count.saturating_sub(state.max_tunnels).max(own.len().saturating_sub(MAX_TUNNELS_OF_A_CLIENT));
        let passing = own.iter().filter(|tunnel| !tunnel.is_serving()).count();
        let mut idle: Vec<_> = own.iter().filter(|old| old.is_serving() && self.held(old).is_empty()).collect();
        idle.sort_by_key(|old| old.rank());
        for old in idle.into_iter().filter(|old| old.id() != newcomer.id()).take(over.saturating_sub(passing)) {
            self.retire_replaced(state, old, newcomer);
        }
    }

    /// Adds a further lane. Returns `None` if the tunnel has ended or has as many as it may.
    pub fn add_lane(self: &Arc<Self>, tunnel: &Arc<Tunnel>, lane: Arc<Lane>) -> Option<LaneGuard> {
        if !tunnel.add_lane(&lane) {
            return None;
        }
        self.notify_changed();
        Some(LaneGuard::new(Arc::clone(self), Arc::clone(tunnel), lane))
    }

    /// Takes all names from a tunnel. Its open streams continue.
    pub fn withdraw(&self, tunnel: &Arc<Tunnel>) {
        let mut state = self.state.lock();
        self.release_names(&mut state, tunnel);
        drop(state);
        self.notify_changed();
    }

    /// Removes a tunnel whose last lane has ended, or that never had one.
    pub(crate) fn remove(&self, tunnel: &Arc<Tunnel>) {
        let mut state = self.state.lock();
        if tunnel.has_been_up() {
            self.release_names(&mut state, tunnel);
        }
        self.tunnels.remove_if_mut(tunnel.client(), |_, tunnels| {
            let before = tunnels.len();
            tunnels.retain(|other| other.id() != tunnel.id());
            state.count -= before - tunnels.len();
            tunnels.is_empty()
        });
        drop(state);
        self.notify_changed();
    }
}
