//! Tells agents which names lead to them and where visitors reach them.

use std::sync::Arc;

use crate::protocol::control::Control;
use crate::protocol::json::{self, JsonError};
use crate::protocol::login::{Refusal, Refused, ServiceKind};
use crate::server::directory::public_urls::PublicUrls;
use crate::server::directory::registry::Registry;
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::Tunnel;

/// Builds and sends the notices about names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notices<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) urls: PublicUrls<'a>,
}

impl Notices<'_> {
    /// Tells every agent its current URLs. Logs which services are no longer reachable.
    pub(crate) fn send_to_all(&self) {
        for tunnel in self.registry.all() {
            let services = tunnel.services();
            let lost = services.iter().filter(|service| !self.urls.has_subdomains() && needs_subdomain(service));
            let lost = lost.map(|service| service.name().as_str()).collect::<Vec<_>>().join(",");
            if !lost.is_empty() {
                let client = tunnel.client();
                tracing::warn!(%client, names = lost, "these services need routing by subdomain, which was taken away: TLS of their own and hosts of their own lead nowhere now, and the agent's next login is refused");
            }
            self.send(&tunnel);
        }
    }

    /// Returns the notice for an agent: the services whose names it has, with their URLs, and the names for which it is on
    /// standby.
    pub(crate) fn offered(&self, tunnel: &Tunnel, change: u64) -> Control {
        let services = self.urls.of_all(&self.registry.held(tunnel));
        Control::Offered { change, services, standby: self.registry.standbys(tunnel) }
    }

    /// Tells an agent its names and URLs.
    pub(crate) fn send(&self, tunnel: &Tunnel) {
        let notice = self.offered(tunnel, 0);
        // A tunnel that is closing has neither.
        if matches!(&notice, Control::Offered { services, standby, .. } if services.is_empty() && standby.is_empty()) {
            return;
        }
        // If the URLs no longer fit into one message, the agent learns them with its next login.
        if json::encode_within(json::MAX_ANSWER, &notice).is_ok() {
            tunnel.notify(&notice);
        }
    }

    /// Checks that the URLs of all `services` fit into one message.
    ///
    /// # Errors
    /// They do not fit.
    pub(crate) fn check_fits(&self, services: &[Arc<Service>]) -> Result<(), Refused> {
        let services = self.urls.of_all(services);
        let answer = Control::Offered { change: 0, services, standby: Vec::new() };
        json::encode_within(json::MAX_ANSWER, &answer).map(drop).map_err(|error| urls_do_not_fit(&error))
    }
}

/// Returns whether it has hosts that only routing by subdomain leads to.
fn needs_subdomain(service: &Service) -> bool {
    let offer = service.offer();
    service.kind() == ServiceKind::Tls || offer.wildcard || !offer.domains.is_empty()
}

/// Returns the refusal of services whose URLs do not fit into one message.
pub(crate) fn urls_do_not_fit(error: &JsonError) -> Refused {
    let message = format!("the public addresses of these services do not fit into one answer ({error}); offer fewer");
    Refused::new(Refusal::NotAllowed, message)
}
