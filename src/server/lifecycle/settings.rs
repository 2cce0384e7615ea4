//! What the configuration says at the moment. It is exchanged as a whole when it is read again (`reload`): whoever needs it
//! takes it once, where a connection, a request or a login begins, and passes it along.

use std::sync::Arc;

use crate::limits::{Allowance, ClientUse, Permit};
use crate::routing::Router;
use crate::server::directory::client_usage::allowance_of;
use crate::server::directory::domain_verification::{DomainVerifier, ResolverError};
use crate::server::directory::notices::Notices;
use crate::server::directory::public_urls::PublicUrls;
use crate::server::lifecycle::fd_budget::Room;
use crate::server::options::ServerOptions;
use crate::server::{LOGINS_OF_AN_ADDRESS, Shared};
use crate::values::ClientId;

/// The configuration, and what follows from it.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: ServerOptions,
    pub(crate) router: Router,
    /// How clients show that a domain is theirs, if they can.
    pub(crate) domain_verifier: Option<Arc<DomainVerifier>>,
}

impl Settings {
    /// What follows from `config`. What DNS has said to those who were asked `before` is kept, if they are still asked.
    ///
    /// # Errors
    /// Domains are to be proved by DNS, and there is no DNS; the message says what to do.
    pub(crate) fn new(config: ServerOptions, before: Option<&Self>) -> Result<Self, ResolverError> {
        let public = &config.public;
        let asks_the_same = |before: &&Self| {
            let before = &before.config.public;
            (&before.resolvers, &before.domain) == (&public.resolvers, &public.domain)
        };
        let kept = before.filter(asks_the_same).and_then(|before| before.domain_verifier.clone());
        let domain_verifier = match (public.domain_proof, kept) {
            (false, _) => None,
            (true, Some(kept)) => Some(kept),
            (true, None) => Some(Arc::new(DomainVerifier::new(&public.resolvers, &public.domain)?)),
        };
        let router = Router::new(public.domain.as_str(), public.routing.as_slice());
        Ok(Self { config, router, domain_verifier })
    }
}

impl Shared {
    /// What counts now. Cheap, but not free: once for each connection or request.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Lets `settings` count from now on, with all limits. What is open goes on, even if it is more than may be.
    pub(crate) fn exchange(&self, settings: Settings) {
        let settings = Arc::new(settings);
        let before = self.settings.swap(Arc::clone(&settings));
        let (tunnel, limits) = (&settings.config.tunnel, &settings.config.limits);
        let (per_ip, prefix) = (&limits.per_ip, limits.per_ip.ipv6_prefix);
        self.visitors.change(per_ip.requests_per_second, per_ip.burst, prefix);
        self.visitor_connections.change(per_ip.connections, prefix);
        self.login_limits.apply(per_ip);
        self.wrong_admin_tokens.change(per_ip.logins_per_minute, prefix);
        self.passwords.change(per_ip.logins_per_minute, prefix);
        self.logins_by_address.change(LOGINS_OF_AN_ADDRESS, prefix);
        // A line in the log says so if there are fewer files than that.
        if limits.connections != before.config.limits.connections {
            self.connections.set_capacity(Room::of_changed(limits).connections);
        }
        self.streams.set_capacity(limits.streams);
        self.held_heads.set_capacity(limits.held_heads);
        self.held_bodies.set_capacity(limits.held_bodies);
        self.unread.set_limit(limits.unread_answers);
        self.registry.set_max_tunnels(tunnel.max_tunnels);
        self.usages.set_allowances(self.clients.len(), |client| self.allowance(client));
    }
}

impl Shared {
    /// Returns the public URLs under these settings.
    pub(crate) fn urls<'a>(&self, settings: &'a Settings) -> PublicUrls<'a> {
        let https_port = self.https.as_ref().map(|https| https.port);
        PublicUrls { public: &settings.config.public, http_port: self.public_port, https_port }
    }

    /// Returns the notices about names under these settings.
    pub(crate) fn notices<'a>(&'a self, settings: &'a Settings) -> Notices<'a> {
        Notices { registry: &self.registry, urls: self.urls(settings) }
    }
}

impl Shared {
    /// Returns what `client` uses.
    pub(crate) fn usage_of(&self, client: &ClientId) -> Arc<ClientUse> {
        self.usages.of(client, self.clients.len(), || self.allowance(client))
    }

    /// Returns one of `limits.streams` for a client that uses `usage`.
    pub(crate) fn stream_for(&self, usage: &ClientUse) -> Option<Permit> {
        self.usages.stream_for(&self.streams, usage)
    }

    /// Returns what `client` may use.
    pub(crate) fn allowance(&self, client: &ClientId) -> Allowance {
        let own = self.clients.entry(client).map(|entry| entry.limits).unwrap_or_default();
        allowance_of(own, self.settings().config.limits.per_client)
    }
}
