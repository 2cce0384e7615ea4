//! The current settings. A reload replaces them as a whole. A connection, a request or a login takes them once, at its
//! beginning, and passes them along.

use std::sync::Arc;

use crate::routing::Router;
use crate::server::domain_verification::{DomainVerifier, ResolverError};
use crate::server::options::ServerOptions;

/// The configuration, and what is derived from it.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: ServerOptions,
    pub(crate) router: Router,
    /// Verifies the domains of clients by DNS, if that is enabled.
    pub(crate) domain_verifier: Option<Arc<DomainVerifier>>,
}

impl Settings {
    /// Derives the settings from `config`. Keeps the verifier of the settings `before`, with its cache, if its options are the
    /// same.
    ///
    /// # Errors
    /// Domains are to be verified by DNS, and no name server is known. The message says what to do.
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
