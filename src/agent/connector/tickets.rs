//! The tickets with which the agent reconnects to its servers.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::values::Secret;
use crate::values::ServerAddress;

/// The tickets that the agent's servers have given it. In memory only.
///
/// A valid ticket replaces the token as proof. After it expires, or the token changes, it still proves when the agent was
/// started; so it is kept until the server issues a new one.
#[derive(Debug, Default)]
pub(in crate::agent) struct Tickets(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// At most one for each configured server.
    of: HashMap<ServerAddress, Kept>,
    /// The server that issued the latest ticket: servers that share a key accept each other's.
    latest: Option<ServerAddress>,
}

#[derive(Debug, Clone)]
struct Kept {
    ticket: Secret,
    /// Whether no server has refused it yet.
    is_proof: bool,
}

/// How a ticket can be used.
#[derive(Debug)]
pub(in crate::agent) enum TicketUse {
    /// It may be valid as proof.
    Proof(Secret),
    /// It only proves when the agent was started.
    Start(Secret),
}

impl Tickets {
    /// Stores a ticket that `server` has issued.
    pub(in crate::agent) fn keep(&self, server: &ServerAddress, ticket: Secret) {
        if ticket.expose().is_empty() {
            return;
        }
        let mut inner = self.0.lock();
        inner.latest = Some(server.clone());
        inner.of.insert(server.clone(), Kept { ticket, is_proof: true });
    }

    /// Returns the ticket to show to `server`: its own, or the latest.
    pub(in crate::agent) fn of(&self, server: &ServerAddress) -> Option<TicketUse> {
        let inner = self.0.lock();
        let kept = inner.of.get(server).or_else(|| inner.of.get(inner.latest.as_ref()?))?.clone();
        Some(if kept.is_proof { TicketUse::Proof(kept.ticket) } else { TicketUse::Start(kept.ticket) })
    }

    /// Records that `server` did not accept `ticket` as proof.
    pub(in crate::agent) fn refused(&self, server: &ServerAddress, ticket: Secret) {
        self.0.lock().of.insert(server.clone(), Kept { ticket, is_proof: false });
    }

    /// Marks all tickets as invalid proof: they were issued for another token.
    pub(in crate::agent) fn invalidate_proofs(&self) {
        self.0.lock().of.values_mut().for_each(|kept| kept.is_proof = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str) -> ServerAddress {
        host.parse().unwrap()
    }

    fn shown(tickets: &Tickets, host: &str) -> Option<(bool, String)> {
        tickets.of(&server(host)).map(|which| match which {
            TicketUse::Proof(ticket) => (true, ticket.expose().to_owned()),
            TicketUse::Start(ticket) => (false, ticket.expose().to_owned()),
        })
    }

    fn some(is_proof: bool, ticket: &str) -> Option<(bool, String)> {
        Some((is_proof, ticket.to_owned()))
    }

    #[test]
    fn a_ticket_that_is_no_proof_any_more_still_tells_the_start() {
        let tickets = Tickets::default();
        assert_eq!(shown(&tickets, "a"), None);
        tickets.keep(&server("a"), Secret::new("1"));
        tickets.keep(&server("a"), Secret::new(""));
        assert_eq!((shown(&tickets, "a"), shown(&tickets, "b")), (some(true, "1"), some(true, "1")));
        tickets.refused(&server("b"), Secret::new("1"));
        assert_eq!((shown(&tickets, "a"), shown(&tickets, "b")), (some(true, "1"), some(false, "1")));
        tickets.keep(&server("b"), Secret::new("2"));
        assert_eq!(
            (shown(&tickets, "a"), shown(&tickets, "b")),
            (some(true, "1"), some(true, "2")),
            "each has its own"
        );
        tickets.invalidate_proofs();
        assert_eq!((shown(&tickets, "a"), shown(&tickets, "b")), (some(false, "1"), some(false, "2")));
    }
}
