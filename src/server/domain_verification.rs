//! Whose a domain is, as DNS says: its owner names the client and this server in a TXT record.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::limits::{AddressKey, Allowance, ClientUse, FairQueue, Party};
use crate::values::{ClientId, Domain};

/// How long one question may take. A login has little more than that.
const DEADLINE: Duration = Duration::from_secs(5);

/// Before the domain, so that its own TXT records are nobody's business.
const LABEL: &str = "_adit";

/// Maximum number of concurrent lookups: in all, and for one client.
const AT_ONCE: (usize, usize) = (32, 8);

/// How many lookups a client may cause in a burst, and in each minute after that.
const QUESTIONS: NonZeroU32 = NonZeroU32::new(60).expect("60 is not zero");

/// How long an answer is kept: a proof, the lack of one, and that nobody knows. Whoever has just made the record does not want
/// to wait for long.
const KEPT: [Duration; 3] = [Duration::from_secs(5 * 60), Duration::from_secs(20), Duration::from_secs(3)];

/// Answers that are kept for one client: more than an agent can ask about; and clients that are remembered.
const MAX_ANSWERS: usize = 4096;
const MAX_CLIENTS: usize = 1024;

/// Looks up DNS proofs. It caches the results, limits the lookups of each client, and runs them in a fair order.
pub(crate) struct DomainProofs {
    resolver: TokioResolver,
    /// The server's own domain: a record is for this server only.
    server: String,
    queue: FairQueue,
    asked: Mutex<HashMap<ClientId, Arc<Asked>>>,
}

/// What was asked for one client.
#[derive(Debug)]
struct Asked {
    rate: Arc<ClientUse>,
    answers: Mutex<HashMap<Domain, (Answer, Instant)>>,
}

/// The cached result of a lookup for a domain and a client.
type Answer = Result<(), NotProved>;

impl Asked {
    fn new() -> Self {
        let (requests_per_second, burst) = (Some(NonZeroU32::MIN), Some(QUESTIONS));
        let rate = ClientUse::new(Allowance { requests_per_second, burst, streams: None });
        Self { rate, answers: Mutex::default() }
    }

    fn known(&self, domain: &Domain, now: Instant) -> Option<Answer> {
        let answers = self.answers.lock();
        answers.get(domain).filter(|(_, until)| now < *until).map(|(answer, _)| answer.clone())
    }

    fn remember(&self, domain: &Domain, answer: &Answer, now: Instant) {
        let mut answers = self.answers.lock();
        if answers.len() >= MAX_ANSWERS {
            answers.retain(|_, (_, until)| now < *until);
        }
        if answers.len() < MAX_ANSWERS {
            let [yes, no, unknown] = KEPT;
            let kept = match answer {
                Ok(()) => yes,
                Err(NotProved::No(_)) => no,
                Err(NotProved::Unknown(_)) => unknown,
            };
            answers.insert(domain.clone(), (answer.clone(), now + kept));
        }
    }

    /// Whether nothing of it matters any more.
    fn is_over(&self, now: Instant) -> bool {
        self.answers.lock().values().all(|(_, until)| *until <= now)
    }
}

impl std::fmt::Debug for DomainProofs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DomainProofs(for {})", self.server)
    }
}

impl DomainProofs {
    /// Asks these name servers, or without any those that the system asks. `server` is the server's own domain.
    ///
    /// # Errors
    /// The system does not say whom to ask; the message says what to do.
    pub(crate) fn new(servers: &[SocketAddr], server: &str) -> Result<Self, String> {
        let mut builder = if servers.is_empty() {
            let advice = "name some in `public.resolvers`";
            TokioResolver::builder_tokio().map_err(|error| format!("no name servers are known ({error}); {advice}"))?
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
        let resolver = builder.build().map_err(|error| format!("names cannot be looked up: {error}"))?;
        let queue = FairQueue::new(AT_ONCE.0, AT_ONCE.1);
        Ok(Self { resolver, server: server.to_owned(), queue, asked: Mutex::default() })
    }

    /// Whether DNS has proved a moment ago that `domain` is `client`'s: asking costs nothing.
    pub(crate) fn has_proved(&self, client: &ClientId, domain: &Domain) -> bool {
        let asked = self.asked.lock().get(client).cloned();
        asked.and_then(|asked| asked.known(domain, Instant::now())).is_some_and(|answer| answer.is_ok())
    }

    fn asked_for(&self, client: &ClientId) -> Arc<Asked> {
        let mut asked = self.asked.lock();
        if asked.len() >= MAX_CLIENTS && !asked.contains_key(client) {
            let now = Instant::now();
            asked.retain(|_, asked| !asked.is_over(now));
        }
        Arc::clone(asked.entry(client.clone()).or_insert_with(|| Arc::new(Asked::new())))
    }

    /// Whether the owner of `domain` has given it to `client` at this server.
    ///
    /// # Errors
    /// Not so, or nobody knows.
    pub(crate) async fn check(&self, client: &ClientId, domain: &Domain) -> Result<(), NotProved> {
        let asked = self.asked_for(client);
        if let Some(known) = asked.known(domain, Instant::now()) {
            return known;
        }
        asked.rate.check().map_err(|wait| {
            let why = format!("DNS was asked too often for `{client}`; try again in {} s", wait.seconds());
            NotProved::Unknown(why)
        })?;
        // Clients take turns, wherever their agents are.
        let address = AddressKey::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 64);
        let _turn = self.queue.turn(Party { client: client.clone(), address }, 1).await;
        let answer = self.ask(client, domain).await;
        asked.remember(domain, &answer, Instant::now());
        answer
    }

    async fn ask(&self, client: &ClientId, domain: &Domain) -> Answer {
        let record = format!("{LABEL}.{}.", domain.host());
        let expected = format!("{client}@{}", self.server);
        let at = record.trim_end_matches('.').to_owned();
        let unknown =
            |why: String| NotProved::Unknown(format!("DNS does not say at the moment whose `{domain}` is ({why})"));
        let found = match timeout(DEADLINE, self.resolver.txt_lookup(record)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) if error.is_no_records_found() => None,
            Ok(Err(error)) => return Err(unknown(error.to_string())),
            Err(_) => return Err(unknown("no answer".to_owned())),
        };
        let is_proof = |data: &RData| match data {
            // A long text comes in pieces (RFC 7208, section 3.3, has the same rule).
            RData::TXT(text) => text.txt_data.concat().trim_ascii().eq_ignore_ascii_case(expected.as_bytes()),
            _ => false,
        };
        match found.is_some_and(|found| found.answers().iter().any(|answer| is_proof(&answer.data))) {
            true => Ok(()),
            false => Err(NotProved::No(format!("the domain's owner can: by a TXT record `{expected}` at {at}"))),
        }
    }
}

/// Why a domain is not proved to be a client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotProved {
    /// There is no such record; the text says which one to make.
    No(String),
    /// Nobody knows at the moment, and why.
    Unknown(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(number: usize) -> Domain {
        Domain::new(&format!("d{number}.example")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_a_while() {
        let (asked, now) = (Asked::new(), Instant::now());
        let answers = [Ok(()), Err(NotProved::No("no".to_owned())), Err(NotProved::Unknown("silence".to_owned()))];
        for (number, (answer, kept)) in answers.iter().zip(KEPT).enumerate() {
            asked.remember(&domain(number), answer, now);
            assert_eq!(asked.known(&domain(number), now + kept - Duration::from_millis(1)).as_ref(), Some(answer));
            assert_eq!(asked.known(&domain(number), now + kept), None);
        }
        assert!(!asked.is_over(now) && asked.is_over(now + KEPT[0]));
        for number in 0..2 * MAX_ANSWERS {
            asked.remember(&domain(number), &Ok(()), now);
        }
        assert_eq!(asked.answers.lock().len(), MAX_ANSWERS);
        asked.remember(&domain(0), &Ok(()), now + KEPT[0]);
        assert_eq!(asked.answers.lock().len(), 1);
    }

    #[test]
    fn a_client_has_only_so_many_questions() {
        let asked = Asked::new();
        assert!((0..QUESTIONS.get()).all(|_| asked.rate.check().is_ok()));
        assert!(asked.rate.check().is_err());
        assert!(Asked::new().rate.check().is_ok(), "another client has its own");
    }
}
