//! What the configuration says at the moment. It is exchanged as a whole when it is read again (`reload`): whoever needs it
//! takes it once, where a connection, a request or a login begins, and passes it along.

use std::sync::Arc;

use crate::routing::Router;
use crate::server::domain_verification::DomainProofs;
use crate::server::options::ServerOptions;

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
