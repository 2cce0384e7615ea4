//! Verifies by DNS that a domain belongs to a client: its owner names the client and this server in a TXT record.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::limits::{AddressKey, Allowance, ClientUse, FairQueue, Party};
use crate::values::{ClientId, Domain};

/// How long one lookup may take. A login has little more time than that.
const DEADLINE: Duration = Duration::from_secs(5);

/// The label in front of the domain, so that the domain's own TXT records do not matter.
const LABEL: &str = "_adit";

/// Maximum number of concurrent lookups: in all, and for one client.
const AT_ONCE: (usize, usize) = (32, 8);

/// How many lookups a client may cause in a burst, and in each minute after that.
const LOOKUPS: NonZeroU32 = NonZeroU32::new(60).expect("60 is not zero");

/// How long a result is cached: a proof, the lack of one, and a failed lookup. A domain's owner who has just added the record
/// should not have to wait for long.
const CACHED_FOR: [Duration; 3] = [Duration::from_secs(5 * 60), Duration::from_secs(20), Duration::from_secs(3)];

/// Maximum number of cached results of one client, more than an agent can request, and of clients.
const MAX_RESULTS: usize = 4096;
const MAX_CLIENTS: usize = 1024;

/// Verifies domains. It caches the results, limits the lookups of each client, and runs them in a fair order.
pub(crate) struct DomainVerifier {
    resolver: TokioResolver,
    /// The server's own domain: a record is for this server only.
    server: String,
    queue: FairQueue,
    clients: Mutex<HashMap<ClientId, Arc<ClientLookups>>>,
}

/// The lookups for one client: their rate, and the cached results.
#[derive(Debug)]
struct ClientLookups {
    rate: Arc<ClientUse>,
    results: Mutex<HashMap<Domain, Cached>>,
}

/// The result of a lookup, and until when it is cached.
#[derive(Debug)]
struct Cached {
    result: Verification,
    until: Instant,
}

/// The result of verifying a domain of a client.
type Verification = Result<(), NotVerified>;

impl ClientLookups {
    fn new() -> Self {
        let (requests_per_second, burst) = (Some(NonZeroU32::MIN), Some(LOOKUPS));
        let rate = ClientUse::new(Allowance { requests_per_second, burst, streams: None, is_strict: true });
        Self { rate, results: Mutex::default() }
    }

    fn cached(&self, domain: &Domain, now: Instant) -> Option<Verification> {
        let results = self.results.lock();
        results.get(domain).filter(|cached| now < cached.until).map(|cached| cached.result.clone())
    }

    fn cache(&self, domain: &Domain, result: &Verification, now: Instant) {
        let mut results = self.results.lock();
        if results.len() >= MAX_RESULTS {
            results.retain(|_, cached| now < cached.until);
        }
        if results.len() < MAX_RESULTS {
            let [verified, no_record, unavailable] = CACHED_FOR;
            let time = match result {
                Ok(()) => verified,
                Err(NotVerified::NoRecord(_)) => no_record,
                Err(NotVerified::Unavailable(_)) => unavailable,
            };
            results.insert(domain.clone(), Cached { result: result.clone(), until: now + time });
        }
    }

    /// Returns whether all cached results have expired.
    fn is_expired(&self, now: Instant) -> bool {
        self.results.lock().values().all(|cached| cached.until <= now)
    }
}

impl std::fmt::Debug for DomainVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DomainVerifier(for {})", self.server)
    }
}

impl DomainVerifier {
    /// Creates a verifier that queries these name servers, or those of the system if there are none. `server` is the server's
    /// own domain.
    ///
    /// # Errors
    /// The system has no name servers. The message says what to do.
    pub(crate) fn new(servers: &[SocketAddr], server: &str) -> Result<Self, ResolverError> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(ResolverError::NoNameServers)?
        } else {
            let server = |address: &SocketAddr| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                NameServerConfig::new(address.ip(), true, connections.into())
            };
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        builder.options_mut().timeout = DEADLINE / 3;
        let resolver = builder.build().map_err(ResolverError::Unusable)?;
        let queue = FairQueue::new(AT_ONCE.0, AT_ONCE.1);
        Ok(Self { resolver, server: server.to_owned(), queue, clients: Mutex::default() })
    }

    /// Returns whether the cache says that `domain` is `client`'s.
    pub(crate) fn is_verified(&self, client: &ClientId, domain: &Domain) -> bool {
        let lookups = self.clients.lock().get(client).cloned();
        lookups.and_then(|lookups| lookups.cached(domain, Instant::now())).is_some_and(|result| result.is_ok())
    }

    fn lookups_of(&self, client: &ClientId) -> Arc<ClientLookups> {
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(client) {
            let now = Instant::now();
            clients.retain(|_, lookups| !lookups.is_expired(now));
        }
        Arc::clone(clients.entry(client.clone()).or_insert_with(|| Arc::new(ClientLookups::new())))
    }

    /// Verifies that the owner of `domain` allows `client` to use it at this server.
    ///
    /// # Errors
    /// There is no such record, or the lookup failed.
    pub(crate) async fn verify(&self, client: &ClientId, domain: &Domain) -> Result<(), NotVerified> {
        let lookups = self.lookups_of(client);
        if let Some(cached) = lookups.cached(domain, Instant::now()) {
            return cached;
        }
        lookups.rate.check().map_err(|wait| {
            let why = format!("DNS was asked too often for `{client}`; try again in {} s", wait.seconds());
            NotVerified::Unavailable(why)
        })?;
        // Clients take turns, wherever their agents are.
        let address = AddressKey::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 64);
        let _turn = self.queue.turn(Party { client: client.clone(), address }, 1).await;
        let result = self.look_up(client, domain).await;
        lookups.cache(domain, &result, Instant::now());
        result
    }

    async fn look_up(&self, client: &ClientId, domain: &Domain) -> Verification {
        let record = format!("{LABEL}.{}.", domain.host());
        let expected = format!("{client}@{}", self.server);
        let at = record.trim_end_matches('.').to_owned();
        let unavailable = |why: String| {
            NotVerified::Unavailable(format!("DNS does not say at the moment whose `{domain}` is ({why})"))
        };
        let found = match timeout(DEADLINE, self.resolver.txt_lookup(record)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) if error.is_no_records_found() => None,
            Ok(Err(error)) => return Err(unavailable(error.to_string())),
            Err(_) => return Err(unavailable("no answer".to_owned())),
        };
        let is_proof = |data: &RData| match data {
            // A long text consists of several strings (RFC 7208, section 3.3, has the same rule).
            RData::TXT(text) => text.txt_data.concat().trim_ascii().eq_ignore_ascii_case(expected.as_bytes()),
            _ => false,
        };
        if found.is_some_and(|found| found.answers().iter().any(|answer| is_proof(&answer.data))) {
            return Ok(());
        }
        Err(NotVerified::NoRecord(format!("the domain's owner can: by a TXT record `{expected}` at {at}")))
    }
}

/// Why no name server can be queried.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The system's configuration names none.
    #[error("no name servers are known ({0}); name some in `public.resolvers`")]
    NoNameServers(#[source] NetError),
    /// The resolver cannot be created.
    #[error("names cannot be looked up: {0}")]
    Unusable(#[source] NetError),
}

/// Why a domain is not verified to be a client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotVerified {
    /// There is no such record. The text says which one to add.
    NoRecord(String),
    /// The lookup failed. The text says why.
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(number: usize) -> Domain {
        Domain::new(&format!("d{number}.example")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_a_while() {
        let (lookups, now) = (ClientLookups::new(), Instant::now());
        let answers =
            [Ok(()), Err(NotVerified::NoRecord("no".to_owned())), Err(NotVerified::Unavailable("silence".to_owned()))];
        for (number, (answer, kept)) in answers.iter().zip(CACHED_FOR).enumerate() {
            lookups.cache(&domain(number), answer, now);
            assert_eq!(lookups.cached(&domain(number), now + kept - Duration::from_millis(1)).as_ref(), Some(answer));
            assert_eq!(lookups.cached(&domain(number), now + kept), None);
        }
        assert!(!lookups.is_expired(now) && lookups.is_expired(now + CACHED_FOR[0]));
        for number in 0..2 * MAX_RESULTS {
            lookups.cache(&domain(number), &Ok(()), now);
        }
        assert_eq!(lookups.results.lock().len(), MAX_RESULTS);
        lookups.cache(&domain(0), &Ok(()), now + CACHED_FOR[0]);
        assert_eq!(lookups.results.lock().len(), 1);
    }

    #[test]
    fn a_client_has_only_so_many_questions() {
        let lookups = ClientLookups::new();
        assert!((0..LOOKUPS.get()).all(|_| lookups.rate.check().is_ok()));
        assert!(lookups.rate.check().is_err());
        assert!(ClientLookups::new().rate.check().is_ok(), "another client has its own");
    }
}
