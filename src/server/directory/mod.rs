//! Where a name is served: the connected tunnels with their lanes, services, names and ports, and what each client uses.
//!
//! [`resolve`] is what the ingress asks; [`registry`] answers for this node.

pub mod authenticated;
pub(crate) mod client_usage;
pub(crate) mod notices;
pub mod offered;
pub mod ports;
pub(crate) mod public_urls;
pub mod registry;
pub(crate) mod resolve;
pub mod service;
pub mod tunnel;

use std::net::IpAddr;
use std::sync::Arc;

use crate::limits::{Allowance, ClientUse, Permit, Permits, VisitorRate};
use crate::link::carriers::mux::Unread;
use crate::server::directory::client_usage::{ClientUsages, allowance_of};
use crate::server::directory::notices::Notices;
use crate::server::directory::ports::Ports;
use crate::server::directory::public_urls::PublicUrls;
use crate::server::directory::registry::Registry;
use crate::server::options::ServerOptions;
use crate::server::settings::Settings;
use crate::tenants::clients::Clients;
use crate::values::ClientId;

/// What is served on this node, and by whom.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) registry: Arc<Registry>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) usages: ClientUsages,
    /// All streams to agents.
    pub(crate) streams: Permits,
    /// Bytes from agents that visitors have not taken yet.
    pub(crate) unread: Arc<Unread>,
    pub(crate) ports: Ports,
    pub(crate) listeners: PublicListeners,
}

/// The ports on which visitors connect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublicListeners {
    pub(crate) http: u16,
    pub(crate) https: Option<u16>,
}

impl PublicListeners {
    /// Returns the public URLs under these settings.
    pub(crate) fn urls(self, settings: &Settings) -> PublicUrls<'_> {
        PublicUrls { public: &settings.config.public, http_port: self.http, https_port: self.https }
    }
}

impl Directory {
    pub(crate) fn new(options: &ServerOptions, clients: Arc<Clients>, listeners: PublicListeners) -> Self {
        let ports_on: IpAddr = options.public.http.ip();
        Self {
            registry: Registry::new(options.tunnel.max_tunnels),
            clients,
            usages: ClientUsages::default(),
            streams: Permits::new(options.limits.streams),
            unread: Unread::new(options.limits.unread_answers),
            ports: Ports::new(ports_on),
            listeners,
        }
    }

    /// Applies changed settings.
    pub(crate) fn apply(&self, settings: &Settings) {
        let Self { registry, clients: _, usages: _, streams, unread, ports: _, listeners: _ } = self;
        registry.set_max_tunnels(settings.config.tunnel.max_tunnels);
        streams.set_capacity(settings.config.limits.streams);
        unread.set_limit(settings.config.limits.unread_answers);
        self.update_allowances(settings);
    }

    /// Gives each client what it may use now.
    pub(crate) fn update_allowances(&self, settings: &Settings) {
        self.usages.set_allowances(self.clients.len(), |client| self.allowance(client, settings));
    }

    /// Returns what `client` uses.
    pub(crate) fn usage_of(&self, client: &ClientId, settings: &Settings) -> Arc<ClientUse> {
        self.usages.of(client, self.clients.len(), || self.allowance(client, settings))
    }

    /// Returns one of `limits.streams` for a client that uses `usage`.
    pub(crate) fn stream_for(&self, usage: &ClientUse) -> Option<Permit> {
        self.usages.stream_for(&self.streams, usage)
    }

    /// Returns what `client` may use.
    pub(crate) fn allowance(&self, client: &ClientId, settings: &Settings) -> Allowance {
        let own = self.clients.entry(client).map(|entry| entry.limits).unwrap_or_default();
        allowance_of(own, settings.config.limits.per_client)
    }

    /// Forgets addresses of visitors that have been idle. Walks all of them.
    pub(crate) fn evict_idle(&self) {
        for tunnel in self.registry.all() {
            tunnel.services().iter().filter_map(|service| service.rate()).for_each(VisitorRate::evict_idle);
        }
    }

    /// Returns the notices about names under these settings.
    pub(crate) fn notices<'a>(&'a self, settings: &'a Settings) -> Notices<'a> {
        Notices { registry: &self.registry, urls: self.listeners.urls(settings) }
    }
}
