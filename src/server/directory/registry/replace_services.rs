//! Changes of the services that a connected agent offers.

use std::sync::Arc;

use crate::server::directory::registry::route_keys::RouteKeys;
use crate::server::directory::registry::{RegisterError, Registry, WriterState};
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::Tunnel;

/// The services that remain after [`Registry::retain_services`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// All of them: nothing has changed.
    All,
    /// Some of them.
    Some,
    /// None of them: nothing has changed, because a tunnel has at least one service.
    None,
}

impl Registry {
    /// Replaces the services of a tunnel, and its names and domains, atomically. Services that are the same objects in
    /// `services` are not affected.
    ///
    /// # Errors
    /// Another client has one of the names or domains. Nothing has changed then.
    pub fn change_services(&self, tunnel: &Arc<Tunnel>, services: Vec<Arc<Service>>) -> Result<(), RegisterError> {
        let mut state = self.state.lock();
        self.check_foreign(tunnel.client(), &services)?;
        self.exchange_services(&mut state, tunnel, services);
        drop(state);
        self.notify_changed();
        Ok(())
    }

    /// Removes the services of a tunnel that `keep` rejects.
    pub fn retain_services(&self, tunnel: &Arc<Tunnel>, keep: impl Fn(&Service) -> bool) -> Retained {
        // Evaluated under the lock, so that no change by the agent comes in between.
        let mut state = self.state.lock();
        let before = tunnel.services();
        let kept: Vec<Arc<Service>> = before.iter().filter(|service| keep(service)).cloned().collect();
        if kept.len() == before.len() {
            return Retained::All;
        }
        if kept.is_empty() {
            return Retained::None;
        }
        self.exchange_services(&mut state, tunnel, kept);
        drop(state);
        self.notify_changed();
        Retained::Some
    }

    /// Gives services back to a tunnel, in addition to its current ones.
    ///
    /// # Errors
    /// Another client has one of the names or domains. Nothing has changed then.
    pub fn return_services(&self, tunnel: &Arc<Tunnel>, back: Vec<Arc<Service>>) -> Result<(), RegisterError> {
        // Evaluated under the lock, so that no change by the agent comes in between.
        let mut state = self.state.lock();
        let mut services = tunnel.services().to_vec();
        let is_there = |service: &Arc<Service>| services.iter().any(|other| other.name() == service.name());
        let back: Vec<_> = back.into_iter().filter(|service| !is_there(service)).collect();
        self.check_foreign(tunnel.client(), &back)?;
        services.extend(back);
        self.exchange_services(&mut state, tunnel, services);
        drop(state);
        self.notify_changed();
        Ok(())
    }

    fn exchange_services(&self, state: &mut WriterState, tunnel: &Arc<Tunnel>, services: Vec<Arc<Service>>) {
        let mut keys = RouteKeys::of(&tunnel.services());
        keys.add(&services);
        tunnel.set_services(services.into());
        if tunnel.is_serving() {
            // The answer to the change tells the agent its names.
            self.reassign(state, tunnel.client(), &[], keys, Some(tunnel.id()));
            for other in self.tunnels_of(tunnel.client()).into_iter().filter(|other| other.id() != tunnel.id()) {
                self.retire_if_nameless(state, &other, tunnel);
            }
        }
    }
}
