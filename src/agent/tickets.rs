//! What servers have given the agent to come back with.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::config::ServerAddress;
use crate::values::Secret;

/// The tickets that the agent's servers have given it. In memory only.
///
/// A ticket lets the agent in again without its token being checked, for a while. After that, and after another token, it
/// still says when the agent was started; so it is kept until the server gives a fresher one.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Bounded by the servers of the configuration.
    of: HashMap<ServerAddress, Kept>,
    /// Which of them gave the latest: servers that share a key take each other's.
    latest: Option<ServerAddress>,
}

#[derive(Debug, Clone)]
struct Kept {
    ticket: Secret,
    /// No server has refused it yet.
    is_proof: bool,
}

/// What a ticket is good for.
#[derive(Debug)]
pub(super) enum Use {
    /// It may let the agent in.
    Proof(Secret),
    /// It only says when the agent was started.
    Start(Secret),
}

impl Tickets {
    /// `server` has given this one.
    pub(super) fn keep(&self, server: &ServerAddress, ticket: Secret) {
        if ticket.expose().is_empty() {
            return;
        }
        let mut inner = self.0.lock();
        inner.latest = Some(server.clone());
        inner.of.insert(server.clone(), Kept { ticket, is_proof: true });
    }

    /// The ticket to show to `server`: its own, or the latest.
    pub(super) fn of(&self, server: &ServerAddress) -> Option<Use> {
        let inner = self.0.lock();
        let kept = inner.of.get(server).or_else(|| inner.of.get(inner.latest.as_ref()?))?.clone();
        Some(if kept.is_proof { Use::Proof(kept.ticket) } else { Use::Start(kept.ticket) })
    }

    /// `server` did not take `ticket` for a proof.
    pub(super) fn refused(&self, server: &ServerAddress, ticket: Secret) {
        self.0.lock().of.insert(server.clone(), Kept { ticket, is_proof: false });
    }

    /// None is a proof any more: they were for another token.
    pub(super) fn are_no_proofs(&self) {
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
            Use::Proof(ticket) => (true, ticket.expose().to_owned()),
            Use::Start(ticket) => (false, ticket.expose().to_owned()),
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
        tickets.are_no_proofs();
        assert_eq!((shown(&tickets, "a"), shown(&tickets, "b")), (some(false, "1"), some(false, "2")));
    }
}
