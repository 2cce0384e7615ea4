//! Where visitors reach what is offered, as agents are told.

use std::sync::Arc;

use super::service::Service;
use super::tunnel::Tunnel;
use crate::protocol::control::Control;
use crate::protocol::json::{self, JsonError};
use crate::protocol::login::{PublicService, Refusal, Refused, ServiceKind};
use crate::routing::RoutingMode;
use crate::server::Shared;
use crate::server::options::PublicOptions;
use crate::values::Name;

impl Shared {
    /// Where visitors reach each service, most useful first.
    pub(crate) fn public_services(&self, services: &[Arc<Service>]) -> Vec<PublicService> {
        let settings = self.settings();
        let urls = |service: &Service| self.urls_in(&settings.config.public, service);
        let public = |service: &Arc<Service>| PublicService {
            name: service.name().clone(),
            public_urls: urls(service),
            taken_over: false,
            taken_from: None,
        };
        services.iter().map(public).collect()
    }

    /// Where visitors reach this one.
    pub(crate) fn urls_of(&self, service: &Service) -> Vec<String> {
        self.urls_in(&self.settings().config.public, service)
    }

    fn urls_in(&self, public: &PublicOptions, service: &Service) -> Vec<String> {
        let (domain, name) = (&public.domain, service.name());
        let offer = service.offer();
        // A reload may have taken that away since the agent logged in.
        let by_subdomain = public.routing.contains(&RoutingMode::Subdomain);
        match service.kind() {
            ServiceKind::Http => {
                let mut urls = self.public_urls(public, name);
                let hosts = offer.domains.iter().map(ToString::to_string);
                let below = offer.wildcard.then(|| format!("*.{name}.{domain}"));
                if by_subdomain {
                    urls.extend(hosts.chain(below).map(|host| self.url_of_host(public, &host)));
                }
                urls
            }
            ServiceKind::Tcp => service.port().iter().map(|port| format!("tcp://{domain}:{port}")).collect(),
            ServiceKind::Tls => {
                let Some(https) = self.https.as_ref().filter(|_| by_subdomain) else { return Vec::new() };
                let hosts = std::iter::once(format!("{name}.{domain}"))
                    .chain(offer.domains.iter().map(ToString::to_string))
                    .chain(offer.wildcard.then(|| format!("*.{name}.{domain}")));
                hosts.map(|host| format!("tls://{host}:{}", https.port)).collect()
            }
        }
    }

    /// The address of a host of a client's own. What stands in front, if anything does, is what visitors reach.
    fn url_of_host(&self, public: &PublicOptions, host: &str) -> String {
        match (&public.url, &self.https) {
            (Some(url), _) if url.starts_with("https://") => format!("https://{host}/"),
            (Some(_), _) => format!("http://{host}/"),
            (None, Some(https)) => format!("https://{host}{}/", with_port(https.port, 443)),
            (None, None) => format!("http://{host}{}/", with_port(self.public_port, 80)),
        }
    }

    fn public_urls(&self, public: &PublicOptions, name: &Name) -> Vec<String> {
        if let Some(template) = &public.url {
            return vec![template.replace("{name}", name.as_str())];
        }
        let domain = &public.domain;
        let https = self.https.as_ref().map(|https| ("https", with_port(https.port, 443)));
        let origins = [https, Some(("http", with_port(self.public_port, 80)))];
        // What only sends visitors on is not worth telling.
        let only_redirects = |scheme: &str, host: &str| {
            scheme == "http" && public.redirect_to_https.iter().any(|pattern| pattern.matches(host))
        };
        let urls = |(scheme, port): (&str, String)| {
            let url = |mode: &RoutingMode| {
                let (host, path) = match mode {
                    RoutingMode::Subdomain => (format!("{name}.{domain}"), String::new()),
                    RoutingMode::Path => (domain.clone(), format!("{name}/")),
                    RoutingMode::Header => return None,
                };
                (!only_redirects(scheme, &host)).then(|| format!("{scheme}://{host}{port}/{path}"))
            };
            public.routing.iter().filter_map(url).collect::<Vec<_>>()
        };
        origins.into_iter().flatten().flat_map(urls).collect()
    }
}

impl Shared {
    /// Tells every agent where visitors reach it from now on, and the log which of them nobody reaches any more.
    pub(crate) fn tell_all_where_they_are_reached(&self) {
        let by_subdomain = self.settings().config.public.routing.contains(&RoutingMode::Subdomain);
        for tunnel in self.registry.all() {
            let services = tunnel.services();
            let lost = services.iter().filter(|service| !by_subdomain && needs_subdomain(service));
            let lost = lost.map(|service| service.name().as_str()).collect::<Vec<_>>().join(",");
            if !lost.is_empty() {
                let client = tunnel.client();
                tracing::warn!(%client, names = lost, "these services need routing by subdomain, which was taken away: TLS of their own and hosts of their own lead nowhere now, and the agent's next login is refused");
            }
            self.tell_services(&tunnel);
        }
    }

    /// What an agent offers, as visitors reach it, and what of it is another agent's.
    pub(crate) fn offered(&self, tunnel: &Tunnel, change: u64) -> Control {
        let services = self.public_services(&self.registry.held(tunnel));
        Control::Offered { change, services, standby: self.registry.standbys(tunnel) }
    }

    /// Tells an agent what it offers, and under which addresses that is reached.
    pub(crate) fn tell_services(&self, tunnel: &Tunnel) {
        let notice = self.offered(tunnel, 0);
        // One that is on its way out has neither.
        if matches!(&notice, Control::Offered { services, standby, .. } if services.is_empty() && standby.is_empty()) {
            return;
        }
        // An agent whose addresses do not fit into one message any more learns them when it comes again.
        if json::encode_within(json::MAX_ANSWER, &notice).is_ok() {
            tunnel.notify(&notice);
        }
    }
}

/// Whether it has hosts that no other way leads to.
fn needs_subdomain(service: &Service) -> bool {
    let offer = service.offer();
    service.kind() == ServiceKind::Tls || offer.wildcard || !offer.domains.is_empty()
}

/// What an agent is told whose services have more public addresses than one message can list.
pub(crate) fn do_not_fit(error: &JsonError) -> Refused {
    let message = format!("the public addresses of these services do not fit into one answer ({error}); offer fewer");
    Refused::new(Refusal::NotAllowed, message)
}

/// The port as a URL has it: left out if it is the scheme's own.
pub(crate) fn with_port(port: u16, default: u16) -> String {
    if port == default { String::new() } else { format!(":{port}") }
}
