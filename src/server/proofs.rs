//! Whose a domain is, as DNS says: its owner names the client and this server in a TXT record.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use tokio::time::timeout;

use crate::values::{ClientId, Domain};

/// How long one question may take. A login has little more than that.
const DEADLINE: Duration = Duration::from_secs(5);

/// Before the domain, so that its own TXT records are nobody's business.
const LABEL: &str = "_adit";

/// Asks DNS. Answers are kept for as long as they say.
pub(super) struct DomainProofs {
    resolver: TokioResolver,
    /// The server's own domain: a record is for this server only.
    server: String,
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
    pub(super) fn new(servers: &[SocketAddr], server: &str) -> Result<Self, String> {
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
        Ok(Self { resolver, server: server.to_owned() })
    }

    /// Whether the owner of `domain` has given it to `client` at this server.
    ///
    /// # Errors
    /// Not so, or nobody knows.
    pub(super) async fn check(&self, client: &ClientId, domain: &Domain) -> Result<(), NotProved> {
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
#[derive(Debug)]
pub(super) enum NotProved {
    /// There is no such record; the text says which one to make.
    No(String),
    /// Nobody knows at the moment, and why.
    Unknown(String),
}
