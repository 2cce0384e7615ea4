//! What an agent offers at one time.

use std::sync::Arc;

use crate::agent::backend::local::{LocalTls, prepare_tls};
use crate::agent::options::Service;
use crate::protocol::login::ServiceOffer;
use crate::transport::tls::TlsError;
use crate::values::Name;

/// The services of an agent at one time, with everything prepared that can fail.
#[derive(Debug)]
pub(in crate::agent) struct Offer {
    /// The number of changes before it; 0 for the services the agent started with.
    pub(in crate::agent) number: u64,
    pub(in crate::agent) services: Arc<[Service]>,
    pub(in crate::agent) tls: LocalTls,
}

impl Offer {
    /// Reads the files that services name.
    pub(in crate::agent) fn prepare(number: u64, services: Vec<Service>) -> Result<Self, TlsError> {
        Ok(Self { number, tls: prepare_tls(&services)?, services: services.into() })
    }

    /// Returns the services as the server is told of them.
    pub(in crate::agent) fn for_server(&self) -> Vec<ServiceOffer> {
        self.services.iter().map(Service::offer).collect()
    }

    /// Returns the offered service of this name.
    pub(in crate::agent) fn service(&self, name: &Name) -> Option<&Service> {
        self.services.iter().find(|service| service.name == *name)
    }
}
