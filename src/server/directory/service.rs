//! What a tunnel offers.

use std::sync::Arc;

use super::ports::OpenPort;
use super::tunnel::Tunnel;
use crate::access::Access;
use crate::protocol::login::{ServiceKind, ServiceOffer};
use crate::server::metrics::Meter;
use crate::values::{Domain, Name};

/// One service that a client may offer, with what was opened for it. It stays the same one while its agent does not
/// change it.
#[derive(Debug)]
pub struct Service {
    offer: ServiceOffer,
    /// Which visitors get in.
    access: Arc<Access>,
    /// The public port of a `tcp` service, open for as long as this lives.
    port: Option<Arc<OpenPort>>,
    /// Those of its domains that DNS has proved to be the client's; the others are on the operator's list.
    proved: Vec<Domain>,
    /// Counts its requests.
    meter: Arc<Meter>,
}

impl Service {
    /// For an offer that was found to be right.
    pub(crate) fn new(
        offer: ServiceOffer,
        access: Access,
        port: Option<Arc<OpenPort>>,
        proved: Vec<Domain>,
        meter: Arc<Meter>,
    ) -> Arc<Self> {
        Arc::new(Self { offer, access: Arc::new(access), port, proved, meter })
    }

    /// For an offer that needs nothing.
    #[cfg(test)]
    pub(crate) fn for_tests(offer: ServiceOffer) -> Arc<Self> {
        let access = Access::of(&offer).unwrap();
        Self::new(offer, access, None, Vec::new(), Meter::for_tests())
    }

    /// As the agent offers it.
    pub fn offer(&self) -> &ServiceOffer {
        &self.offer
    }

    /// Its public name.
    pub fn name(&self) -> &Name {
        &self.offer.name
    }

    /// What it carries.
    pub fn kind(&self) -> ServiceKind {
        self.offer.kind
    }

    /// Which visitors get in.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// Its public port, if it has one.
    pub fn port(&self) -> Option<u16> {
        self.port.as_ref().map(|port| port.port)
    }

    /// What counts its requests.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Whether DNS has proved that `domain` is the client's.
    pub(crate) fn has_proved(&self, domain: &Domain) -> bool {
        self.proved.contains(domain)
    }

    /// Whether agents that offer this and `other` share the visitors.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        self.offer.group.is_some() && self.offer.group == other.offer.group && self.kind() == other.kind()
    }
}

/// Where a name or a domain leads: a service, and the tunnel that offers it.
#[derive(Debug)]
pub struct Offered {
    /// Through which it is reached.
    pub tunnel: Arc<Tunnel>,
    /// What is offered.
    pub service: Arc<Service>,
}
