//! A service that an agent offers.

use std::sync::Arc;

use crate::access::Access;
use crate::limits::{Permits, VisitorRate};
use crate::protocol::login::{PathPrefix, ServiceKind, ServiceOffer};
use crate::server::directory::ports::OpenPort;
use crate::server::metrics::Meter;
use crate::values::{Domain, Name};

/// A service that a client may offer, with the resources that it holds. It stays the same object for as long as its agent
/// does not change it.
#[derive(Debug)]
pub struct Service {
    offer: ServiceOffer,
    /// Decides which visitors may use it.
    access: Arc<Access>,
    /// Its own limit for the requests of one address, if it has one.
    rate: Option<VisitorRate>,
    /// Its own limit for what is open at once, if it has one.
    streams: Option<Permits>,
    /// The public port of a `tcp` service, open for as long as this lives.
    port: Option<Arc<OpenPort>>,
    /// The domains that DNS proves to be the client's. The others are on the operator's list.
    verified: Vec<Domain>,
    /// Counts its requests.
    meter: Arc<Meter>,
}

impl Service {
    /// Creates the service for an offer that has passed all checks.
    pub(crate) fn new(
        offer: ServiceOffer,
        access: Access,
        rate: Option<VisitorRate>,
        port: Option<Arc<OpenPort>>,
        verified: Vec<Domain>,
        meter: Arc<Meter>,
    ) -> Arc<Self> {
        let streams = offer.limits.as_ref().and_then(|limits| limits.streams);
        let streams = streams.and_then(|most| usize::try_from(most.get()).ok()).map(Permits::new);
        Arc::new(Self { offer, access: Arc::new(access), rate, streams, port, verified, meter })
    }

    /// Creates a service without a port or verified domains.
    #[cfg(test)]
    pub(crate) fn for_tests(offer: ServiceOffer) -> Arc<Self> {
        let access = Access::of(&offer).unwrap();
        Self::new(offer, access, None, None, Vec::new(), Meter::for_tests())
    }

    /// Returns the offer as the agent sent it.
    pub fn offer(&self) -> &ServiceOffer {
        &self.offer
    }

    /// Returns its public name.
    pub fn name(&self) -> &Name {
        &self.offer.name
    }

    /// Returns the protocol that it carries.
    pub fn kind(&self) -> ServiceKind {
        self.offer.kind
    }

    /// Returns what happens to its name on path routes.
    pub fn path_prefix(&self) -> PathPrefix {
        self.offer.path_prefix
    }

    /// Returns what decides which visitors may use it.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// Returns its own limit for the requests of one address, if it has one.
    pub(crate) fn rate(&self) -> Option<&VisitorRate> {
        self.rate.as_ref()
    }

    /// Returns its own limit for what is open at once, if it has one.
    pub(crate) fn streams(&self) -> Option<&Permits> {
        self.streams.as_ref()
    }

    /// Returns its public port, if it has one.
    pub fn port(&self) -> Option<u16> {
        self.port.as_ref().map(|port| port.port)
    }

    /// Returns the counter of its requests.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Returns whether DNS has proved that `domain` is the client's.
    pub(crate) fn has_verified(&self, domain: &Domain) -> bool {
        self.verified.contains(domain)
    }

    /// Returns whether agents that offer this and `other` share the visitors (same group and kind).
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        self.offer.group.is_some() && self.offer.group == other.offer.group && self.kind() == other.kind()
    }
}
