//! Names and domains as keys of the registry.

use std::collections::HashSet;
use std::sync::Arc;

use crate::server::directory::service::Service;
use crate::values::{Domain, Name};

/// A key that leads to a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum RouteKey {
    Name(Name),
    Domain(Domain),
}

impl From<&Name> for RouteKey {
    fn from(name: &Name) -> Self {
        Self::Name(name.clone())
    }
}

impl From<&Domain> for RouteKey {
    fn from(domain: &Domain) -> Self {
        Self::Domain(domain.clone())
    }
}

/// Names and domains whose owner may change.
#[derive(Debug, Default)]
pub(crate) struct RouteKeys {
    pub(crate) names: HashSet<Name>,
    pub(crate) domains: HashSet<Domain>,
}

impl RouteKeys {
    /// Returns the names and domains of these services.
    pub(crate) fn of(services: &[Arc<Service>]) -> Self {
        let mut keys = Self::default();
        keys.add(services);
        keys
    }

    /// Adds the names and domains of these services.
    pub(crate) fn add(&mut self, services: &[Arc<Service>]) {
        self.names.extend(services.iter().map(|service| service.name().clone()));
        self.domains.extend(services.iter().flat_map(|service| service.offer().domains.iter().cloned()));
    }
}

impl FromIterator<RouteKey> for RouteKeys {
    fn from_iter<I: IntoIterator<Item = RouteKey>>(all: I) -> Self {
        let mut keys = Self::default();
        for key in all {
            match key {
                RouteKey::Name(name) => drop(keys.names.insert(name)),
                RouteKey::Domain(domain) => drop(keys.domains.insert(domain)),
            }
        }
        keys
    }
}
