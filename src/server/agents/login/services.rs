//! Checks what a client may offer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use crate::access::Access;
use crate::limits::VisitorRate;
use crate::protocol::login::{MAX_DOMAINS, MAX_SERVICES, Refusal, Refused, ServiceKind, ServiceLimits, ServiceOffer};
use crate::routing::RoutingMode;
use crate::server::agents::Agents;
use crate::server::directory::ports::OpenPort;
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::Tunnel;
use crate::server::domain_verification::NotVerified;
use crate::server::settings::Settings;
use crate::values::{ClientId, Domain, Name};

/// How long verifying all domains of an agent by DNS may take, and the number of concurrent lookups.
const VERIFICATION_TIMEOUT: Duration = Duration::from_secs(7);
const AT_ONCE: usize = 8;

/// Maximum number of uncached domains that a login verifies. An agent with more of them is accepted after a few attempts.
const MAX_LOOKUPS: usize = 32;

/// Maximum number of addresses that a service's own limit remembers one by one; further ones share one allowance.
const REMEMBERED_BY_A_SERVICE: usize = 1024;

/// Maximum number of a client's names that a refusal lists.
const LISTED_NAMES: usize = 10;

fn not_allowed(message: String) -> Refused {
    Refused::new(Refusal::NotAllowed, message)
}

impl Agents {
    /// Creates the services that an agent offers, if the client may offer all of them. Services in `before` that have not
    /// changed stay the same objects. Expensive steps come last.
    pub(crate) async fn check_services(
        self: &Arc<Self>,
        client: &ClientId,
        offers: &[ServiceOffer],
        before: &[Arc<Service>],
    ) -> Result<Vec<Arc<Service>>, Refused> {
        if offers.is_empty() || offers.len() > MAX_SERVICES {
            return Err(not_allowed(format!("an agent offers 1 to {MAX_SERVICES} services, not {}", offers.len())));
        }
        let settings = self.settings();
        let by_subdomain = settings.config.public.routing.contains(&RoutingMode::Subdomain);
        for (at, offer) in offers.iter().enumerate() {
            check_unique(offer, &offers[..at])?;
            self.check_name(client, offer)?;
            self.check_kind(offer, by_subdomain)?;
            if offer.domains.len() > MAX_DOMAINS {
                return Err(not_allowed(format!("the service `{}` has more than {MAX_DOMAINS} domains", offer.name)));
            }
        }
        let unchanged = |offer: &ServiceOffer| before.iter().find(|service| service.offer() == offer);
        let changed = offers
            .iter()
            .filter(|offer| unchanged(offer).is_none_or(|service| !self.may_keep_domains(client, service)));
        let verified = self.check_domains(&settings, client, changed).await?;
        let make = |offer: &ServiceOffer| match unchanged(offer) {
            Some(unchanged) => Ok(Arc::clone(unchanged)),
            None => {
                let access = compile_access(offer)?;
                let verified = offer.domains.iter().filter(|domain| verified.contains(*domain)).cloned().collect();
                let port = self.open_port(client, offer)?;
                let rate = rate_of(offer, settings.config.limits.per_ip.ipv6_prefix);
                let meter = self.runtime.metrics.meter(client, &offer.name);
                Ok(Service::new(offer.clone(), access, rate, port, verified, meter))
            }
        };
        offers.iter().map(make).collect()
    }

    /// Returns whether a client may still offer a service after a change of the clients file. Domains that DNS has verified
    /// are not looked up again, but the clients file takes precedence.
    pub(crate) fn may_still_offer(&self, tunnel: &Tunnel, service: &Service) -> bool {
        let (client, offer) = (tunnel.client(), service.offer());
        let ports = self.directory.clients.tcp_ports(client);
        self.check_name(client, offer).is_ok()
            && self.may_keep_domains(client, service)
            && service.port().is_none_or(|port| ports.iter().any(|range| range.contains(&port)))
    }

    /// Checks that the client may claim the name.
    fn check_name(&self, client: &ClientId, offer: &ServiceOffer) -> Result<(), Refused> {
        let name = &offer.name;
        if !self.directory.clients.may_claim(client, name) {
            return Err(not_allowed(format!(
                "the client `{client}` may not claim the name `{name}`, only: {}; {}",
                list(&self.directory.clients.names(client)),
                allowed_by(client, "names", &format!("+{name}"))
            )));
        }
        if offer.wildcard && !self.directory.clients.may_be_wildcard(client, name) {
            return Err(not_allowed(format!(
                "the client `{client}` may not claim all hosts below `{name}`; {}",
                allowed_by(client, "names", &format!("'+*.{name}'"))
            )));
        }
        Ok(())
    }

    /// Checks that the server supports the kind of a service and its hosts.
    fn check_kind(&self, offer: &ServiceOffer, by_subdomain: bool) -> Result<(), Refused> {
        let name = &offer.name;
        if offer.kind == ServiceKind::Tls && (self.directory.listeners.https.is_none() || !by_subdomain) {
            return Err(not_allowed(format!(
                "the service `{name}` is of the kind tls, which needs `public.https` and routing by subdomain on the server"
            )));
        }
        let has_hosts = offer.wildcard || !offer.domains.is_empty();
        if has_hosts && offer.kind == ServiceKind::Tcp {
            return Err(not_allowed(format!("the service `{name}` is of the kind tcp, which knows no hosts")));
        }
        if has_hosts && !by_subdomain {
            return Err(not_allowed(format!(
                "the service `{name}` wants hosts of its own, which needs routing by subdomain on the server"
            )));
        }
        Ok(())
    }

    /// Returns whether the client may still use the domains of a service.
    fn may_keep_domains(&self, client: &ClientId, service: &Service) -> bool {
        service.offer().domains.iter().all(|domain| {
            self.directory.clients.may_have_domain(client, domain)
                || (service.has_verified(domain) && self.directory.clients.owner_of_domain(domain.as_str()).is_none())
        })
    }

    /// Checks that each domain is on the operator's list or verified by DNS, all of them within [`VERIFICATION_TIMEOUT`].
    /// Returns the domains that DNS has verified.
    async fn check_domains<'o>(
        &self,
        settings: &Settings,
        client: &ClientId,
        offers: impl Iterator<Item = &'o ServiceOffer>,
    ) -> Result<HashSet<Domain>, Refused> {
        let mut unlisted = HashSet::new();
        for domain in offers.flat_map(|offer| &offer.domains) {
            if domain.is_within(&settings.config.public.domain) {
                return Err(not_allowed(format!("`{domain}` belongs to the server itself; claim a name instead")));
            }
            if !self.directory.clients.may_have_domain(client, domain) {
                // A domain that the operator has assigned to another client cannot be claimed by DNS.
                if settings.domain_verifier.is_none()
                    || self.directory.clients.owner_of_domain(domain.as_str()).is_some()
                {
                    return Err(not_allowed(not_listed(client, domain)));
                }
                unlisted.insert(domain.clone());
            }
        }
        let Some(verifier) = settings.domain_verifier.as_ref().filter(|_| !unlisted.is_empty()) else {
            return Ok(unlisted);
        };
        let verify = |domain: Domain| async move {
            verifier.verify(client, &domain).await.map_err(|why| match why {
                NotVerified::NoRecord(how) => not_allowed(format!("{}, or {how}", not_listed(client, &domain))),
                NotVerified::Unavailable(why) => Refused::new(Refusal::TooMany, why),
            })
        };
        let mut pending: Vec<Domain> =
            unlisted.iter().filter(|domain| !verifier.is_verified(client, domain)).cloned().collect();
        pending.sort_unstable();
        let left = pending.split_off(pending.len().min(MAX_LOOKUPS)).len();
        let all = stream::iter(pending).map(verify).buffer_unordered(AT_ONCE).try_collect::<()>();
        match timeout(VERIFICATION_TIMEOUT, all).await {
            Ok(Ok(())) if left > 0 => Err(Refused {
                retry_after_s: Some(1),
                ..Refused::new(Refusal::TooMany, format!("{left} more domains are to be proved by DNS; try again"))
            }),
            Ok(verified) => verified.map(|()| unlisted),
            Err(_) => Err(Refused::new(Refusal::TooMany, "DNS does not answer in time whose the domains are")),
        }
    }

    /// Opens the public port of a `tcp` service. If it is already open for the same service, returns that.
    fn open_port(self: &Arc<Self>, client: &ClientId, offer: &ServiceOffer) -> Result<Option<Arc<OpenPort>>, Refused> {
        if offer.kind != ServiceKind::Tcp {
            return Ok(None);
        }
        let allowed = self.directory.clients.tcp_ports(client);
        let (port, listener) =
            self.directory.ports.acquire(client, &offer.name, offer.remote_port, &allowed).map_err(|why| {
                let how = why
                    .allowed_by(offer.remote_port)
                    .map(|ports| format!("; {}", allowed_by(client, "tcp-ports", &ports)));
                let how = how.unwrap_or_default();
                Refused::new(why.refusal(), format!("the service `{}` gets no port: {why}{how}", offer.name))
            })?;
        if let Some(listener) = listener {
            self.port_server.serve_port(&port, listener);
        }
        Ok(Some(port))
    }
}

/// Returns the command with which the operator allows it. The reader of the refusal passes it on.
fn allowed_by(client: &ClientId, flag: &str, value: &str) -> String {
    format!("the operator allows it with `adit token set {client} --{flag} {value}`")
}

fn not_listed(client: &ClientId, domain: &Domain) -> String {
    // An asterisk is the shell's, too.
    let quote = if domain.is_wildcard() { "'" } else { "" };
    let how = allowed_by(client, "domains", &format!("{quote}+{domain}{quote}"));
    format!("the client `{client}` may not claim the domain `{domain}`; {how}")
}

/// Returns the limit of a service's own for the requests of one address.
fn rate_of(offer: &ServiceOffer, ipv6_prefix: u8) -> Option<VisitorRate> {
    let ServiceLimits { requests_per_second, burst, .. } = offer.limits?;
    let requests_per_second = requests_per_second?;
    let burst = burst.unwrap_or(requests_per_second);
    Some(VisitorRate::new(requests_per_second, burst, ipv6_prefix, REMEMBERED_BY_A_SERVICE))
}

/// Compiles the access rules of a service.
fn compile_access(offer: &ServiceOffer) -> Result<Access, Refused> {
    Access::of(offer).map_err(|error| {
        not_allowed(format!("the access to the service `{}` cannot be limited like this: {error}", offer.name))
    })
}

/// Checks that no earlier service has the same name or one of the domains.
fn check_unique(offer: &ServiceOffer, earlier: &[ServiceOffer]) -> Result<(), Refused> {
    if earlier.iter().any(|other| other.name == offer.name) {
        return Err(not_allowed(format!("two services claim the name `{}`", offer.name)));
    }
    match offer.domains.iter().find(|domain| earlier.iter().any(|other| other.domains.contains(domain))) {
        Some(domain) => Err(not_allowed(format!("two services claim the domain `{domain}`"))),
        None => Ok(()),
    }
}

/// Returns the first few names, and how many more there are.
fn list(names: &[Name]) -> String {
    let first: Vec<&str> = names.iter().take(LISTED_NAMES).map(Name::as_str).collect();
    match names.len() - first.len() {
        0 => first.join(", "),
        more => format!("{}, … and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_that_another_service_has_is_found_at_any_place() {
        let offer = |name: &str, domains: &[&str]| {
            let domains = domains.iter().map(|text| Domain::new(text).unwrap()).collect();
            ServiceOffer { domains, ..ServiceOffer::new(Name::new(name).unwrap(), ServiceKind::Http) }
        };
        let earlier = [offer("a", &["a.example", "b.example"]), offer("b", &["c.example"])];
        assert!(check_unique(&offer("c", &["d.example", "e.example"]), &earlier).is_ok());
        for taken in ["a.example", "b.example", "c.example"] {
            let refused = check_unique(&offer("c", &["d.example", taken]), &earlier).unwrap_err();
            assert_eq!(refused.message, format!("two services claim the domain `{taken}`"));
        }
    }
}
