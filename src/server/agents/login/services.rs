//! What a client may offer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use crate::access::Access;
use crate::protocol::login::{MAX_DOMAINS, MAX_SERVICES, Refusal, Refused, ServiceKind, ServiceOffer};
use crate::routing::RoutingMode;
use crate::server::agents::Agents;
use crate::server::directory::ports::OpenPort;
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::Tunnel;
use crate::server::domain_verification::NotProved;
use crate::server::settings::Settings;
use crate::values::{ClientId, Domain, Name};

/// How long it may take to prove all domains of an agent by DNS, and how many questions are asked at once.
const PROOFS: Duration = Duration::from_secs(7);
const AT_ONCE: usize = 8;

/// How many uncached domains a login may prove. An agent with more of them is accepted after a few attempts.
const PROOFS_OF_A_LOGIN: usize = 32;

/// How many of a client's names a refusal lists.
const LISTED_NAMES: usize = 10;

fn not_allowed(message: String) -> Refused {
    Refused::new(Refusal::NotAllowed, message)
}

impl Agents {
    /// Makes services of what an agent offers, if the client may offer all of it. Those that are in `before` and have
    /// not changed are the same ones. What costs something is done last.
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
            check_twice(offer, &offers[..at])?;
            self.check_name(client, offer)?;
            self.check_kind(offer, by_subdomain)?;
            if offer.domains.len() > MAX_DOMAINS {
                return Err(not_allowed(format!("the service `{}` has more than {MAX_DOMAINS} domains", offer.name)));
            }
        }
        let unchanged = |offer: &ServiceOffer| before.iter().find(|service| service.offer() == offer);
        let changed =
            offers.iter().filter(|offer| unchanged(offer).is_none_or(|service| !self.may_still_have(client, service)));
        let proved = self.check_domains(&settings, client, changed).await?;
        let make = |offer: &ServiceOffer| match unchanged(offer) {
            Some(unchanged) => Ok(Arc::clone(unchanged)),
            None => {
                let access = compile_access(offer)?;
                let proved = offer.domains.iter().filter(|domain| proved.contains(*domain)).cloned().collect();
                let port = self.open_port(client, offer)?;
                Ok(Service::new(offer.clone(), access, port, proved, self.runtime.metrics.meter(client, &offer.name)))
            }
        };
        offers.iter().map(make).collect()
    }

    /// Whether a client may still offer what it offers, after its operator has changed something. What DNS has proved
    /// is not asked again, but the operator's list comes first.
    pub(crate) fn may_still_offer(&self, tunnel: &Tunnel, service: &Service) -> bool {
        let (client, offer) = (tunnel.client(), service.offer());
        let ports = self.directory.clients.tcp_ports(client);
        self.check_name(client, offer).is_ok()
            && self.may_still_have(client, service)
            && service.port().is_none_or(|port| ports.iter().any(|range| range.contains(&port)))
    }

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

    /// Whether the domains of a service are still its client's.
    fn may_still_have(&self, client: &ClientId, service: &Service) -> bool {
        service.offer().domains.iter().all(|domain| {
            self.directory.clients.may_have_domain(client, domain)
                || (service.has_verified(domain) && self.directory.clients.owner_of_domain(domain.as_str()).is_none())
        })
    }

    /// Each domain must be on the operator's list, or be proved by DNS: a few at a time, and all of them within
    /// [`PROOFS`]. Gives back those that were proved.
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
                // What the operator has given to somebody else is not to be had by any proof.
                if settings.proofs.is_none() || self.directory.clients.owner_of_domain(domain.as_str()).is_some() {
                    return Err(not_allowed(not_listed(client, domain)));
                }
                unlisted.insert(domain.clone());
            }
        }
        let Some(proofs) = settings.proofs.as_ref().filter(|_| !unlisted.is_empty()) else { return Ok(unlisted) };
        let prove = |domain: Domain| async move {
            proofs.check(client, &domain).await.map_err(|why| match why {
                NotProved::No(how) => not_allowed(format!("{}, or {how}", not_listed(client, &domain))),
                NotProved::Unknown(why) => Refused::new(Refusal::TooMany, why),
            })
        };
        let mut asked: Vec<Domain> =
            unlisted.iter().filter(|domain| !proofs.has_proved(client, domain)).cloned().collect();
        asked.sort_unstable();
        let left = asked.split_off(asked.len().min(PROOFS_OF_A_LOGIN)).len();
        let all = stream::iter(asked).map(prove).buffer_unordered(AT_ONCE).try_collect::<()>();
        match timeout(PROOFS, all).await {
            Ok(Ok(())) if left > 0 => Err(Refused {
                retry_after_s: Some(1),
                ..Refused::new(Refusal::TooMany, format!("{left} more domains are to be proved by DNS; try again"))
            }),
            Ok(proved) => proved.map(|()| unlisted),
            Err(_) => Err(Refused::new(Refusal::TooMany, "DNS does not answer in time whose the domains are")),
        }
    }

    /// Opens the public port of a `tcp` service. One that is open for the same service already stays so.
    fn open_port(self: &Arc<Self>, client: &ClientId, offer: &ServiceOffer) -> Result<Option<Arc<OpenPort>>, Refused> {
        if offer.kind != ServiceKind::Tcp {
            return Ok(None);
        }
        let allowed = self.directory.clients.tcp_ports(client);
        let (port, listener) =
            self.directory.ports.acquire((client, &offer.name), offer.remote_port, &allowed).map_err(|why| {
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

/// The command by which the operator allows it; whoever reads the refusal at home passes it on.
fn allowed_by(client: &ClientId, flag: &str, value: &str) -> String {
    format!("the operator allows it with `adit token set {client} --{flag} {value}`")
}

fn not_listed(client: &ClientId, domain: &Domain) -> String {
    // An asterisk is the shell's, too.
    let quote = if domain.is_wildcard() { "'" } else { "" };
    let how = allowed_by(client, "domains", &format!("{quote}+{domain}{quote}"));
    format!("the client `{client}` may not claim the domain `{domain}`; {how}")
}

/// What the service asks of its visitors, ready to be asked.
fn compile_access(offer: &ServiceOffer) -> Result<Access, Refused> {
    Access::of(offer).map_err(|error| {
        not_allowed(format!("the access to the service `{}` cannot be limited like this: {error}", offer.name))
    })
}

fn check_twice(offer: &ServiceOffer, earlier: &[ServiceOffer]) -> Result<(), Refused> {
    if earlier.iter().any(|other| other.name == offer.name) {
        return Err(not_allowed(format!("two services claim the name `{}`", offer.name)));
    }
    match offer.domains.iter().find(|domain| earlier.iter().any(|other| other.domains.contains(domain))) {
        Some(domain) => Err(not_allowed(format!("two services claim the domain `{domain}`"))),
        None => Ok(()),
    }
}

/// The first few names, and how many more there are: a refusal is for a person to read.
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
        assert!(check_twice(&offer("c", &["d.example", "e.example"]), &earlier).is_ok());
        for taken in ["a.example", "b.example", "c.example"] {
            let refused = check_twice(&offer("c", &["d.example", taken]), &earlier).unwrap_err();
            assert_eq!(refused.message, format!("two services claim the domain `{taken}`"));
        }
    }
}
