//! What the configuration says at the moment. It is exchanged as a whole when it is read again (`reload`): whoever needs it
//! takes it once, where a connection, a request or a login begins, and passes it along.

use std::sync::Arc;

use crate::routing::Router;
use crate::server::agents::domain_verification::DomainProofs;
use crate::server::lifecycle::fd_budget::Room;
use crate::server::options::ServerOptions;
use crate::server::{FIRST_FAILURES, LOGINS_OF_AN_ADDRESS, Shared, login_checks};

/// The configuration, and what follows from it.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: ServerOptions,
    pub(crate) router: Router,
    /// How clients show that a domain is theirs, if they can.
    pub(crate) proofs: Option<Arc<DomainProofs>>,
}

impl Settings {
    /// What follows from `config`. What DNS has said to those who were asked `before` is kept, if they are still asked.
    ///
    /// # Errors
    /// Domains are to be proved by DNS, and there is no DNS; the message says what to do.
    pub(crate) fn new(config: ServerOptions, before: Option<&Self>) -> Result<Self, String> {
        let public = &config.public;
        let asks_the_same = |before: &&Self| {
            let before = &before.config.public;
            (&before.resolvers, &before.domain) == (&public.resolvers, &public.domain)
        };
        let kept = before.filter(asks_the_same).and_then(|before| before.proofs.clone());
        let proofs = match (public.domain_proof, kept) {
            (false, _) => None,
            (true, Some(kept)) => Some(kept),
            (true, None) => Some(Arc::new(DomainProofs::new(&public.resolvers, &public.domain)?)),
        };
        let router = Router::new(public.domain.as_str(), public.routing.as_slice());
        Ok(Self { config, router, proofs })
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
        self.failed_logins.change(per_ip.logins_per_minute, prefix);
        self.login_checks.change(login_checks(per_ip.logins_per_minute), prefix);
        self.first_failures.change_with_burst(per_ip.logins_per_minute, FIRST_FAILURES, prefix);
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
