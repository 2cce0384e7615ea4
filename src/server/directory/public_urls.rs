//! The URLs at which visitors reach a service.

use std::sync::Arc;

use crate::protocol::login::{PublicService, ServiceKind};
use crate::routing::RoutingMode;
use crate::server::directory::service::Service;
use crate::server::options::PublicOptions;
use crate::values::Name;

/// Builds the public URLs of services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublicUrls<'a> {
    pub(crate) public: &'a PublicOptions,
    /// The port of the HTTP listener.
    pub(crate) http_port: u16,
    /// The port of the HTTPS listener, if there is one.
    pub(crate) https_port: Option<u16>,
}

impl PublicUrls<'_> {
    /// Returns the URLs of each service, the most useful first.
    pub(crate) fn of_all(&self, services: &[Arc<Service>]) -> Vec<PublicService> {
        let public = |service: &Arc<Service>| PublicService {
            name: service.name().clone(),
            public_urls: self.of(service),
            taken_over: false,
            taken_from: None,
        };
        services.iter().map(public).collect()
    }

    /// Returns the URLs of a service, the most useful first.
    pub(crate) fn of(&self, service: &Service) -> Vec<String> {
        let (domain, name) = (&self.public.domain, service.name());
        match service.kind() {
            ServiceKind::Http => self.of_http(service),
            ServiceKind::Tcp => service.port().iter().map(|port| format!("tcp://{domain}:{port}")).collect(),
            ServiceKind::Tls => {
                let Some(port) = self.https_port.filter(|_| self.has_subdomains()) else { return Vec::new() };
                let offer = service.offer();
                let hosts = std::iter::once(format!("{name}.{domain}"))
                    .chain(offer.domains.iter().map(ToString::to_string))
                    .chain(offer.wildcard.then(|| format!("*.{name}.{domain}")));
                hosts.map(|host| format!("tls://{host}:{port}")).collect()
            }
        }
    }

    fn of_http(&self, service: &Service) -> Vec<String> {
        let (domain, name, offer) = (&self.public.domain, service.name(), service.offer());
        let mut urls = self.of_name(name);
        // A reload may have disabled routing by subdomain since the agent logged in.
        if self.has_subdomains() {
            let hosts = offer.domains.iter().map(ToString::to_string);
            let below = offer.wildcard.then(|| format!("*.{name}.{domain}"));
            urls.extend(hosts.chain(below).map(|host| self.of_host(&host)));
        }
        urls
    }

    /// Returns whether services are routed by subdomain.
    pub(crate) fn has_subdomains(&self) -> bool {
        self.public.routing.contains(&RoutingMode::Subdomain)
    }

    /// Returns the URL of a host of a client's own. A reverse proxy in front of the server determines the scheme.
    fn of_host(&self, host: &str) -> String {
        match (&self.public.url, self.https_port) {
            (Some(url), _) if url.starts_with("https://") => format!("https://{host}/"),
            (Some(_), _) => format!("http://{host}/"),
            (None, Some(port)) => format!("https://{host}{}/", with_port(port, 443)),
            (None, None) => format!("http://{host}{}/", with_port(self.http_port, 80)),
        }
    }

    fn of_name(&self, name: &Name) -> Vec<String> {
        let public = self.public;
        if let Some(template) = &public.url {
            return vec![template.replace("{name}", name.as_str())];
        }
        let domain = &public.domain;
        let https = self.https_port.map(|port| ("https", with_port(port, 443)));
        let origins = [https, Some(("http", with_port(self.http_port, 80)))];
        // A URL that only redirects to another one is left out.
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

/// Returns the port as a URL contains it: empty if it is the default port of the scheme.
pub(crate) fn with_port(port: u16, default: u16) -> String {
    if port == default { String::new() } else { format!(":{port}") }
}
