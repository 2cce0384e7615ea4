//! Logging in with what the agent remembers of earlier logins.

use std::sync::Arc;

use super::standby::LostNames;
use super::tickets::{TicketUse, Tickets};
use super::{ConnectError, Connector, LoggedIn, LoginAs};
use crate::agent::offer_changes::DesiredState;
use crate::protocol::login::{Proof, Refusal, Refused};
use crate::values::ServerAddress;

/// What an agent remembers of its logins. In memory only; clones refer to the same memory.
#[derive(Debug, Clone, Default)]
pub(in crate::agent) struct LoginHistory {
    pub(in crate::agent) tickets: Arc<Tickets>,
    pub(in crate::agent) lost_names: Arc<LostNames>,
}

/// Logs in with the ticket, if there is one, otherwise with the token.
pub(in crate::agent) async fn log_in(
    connector: &Connector,
    server: &ServerAddress,
    history: &LoginHistory,
    desired: &DesiredState,
) -> Result<LoggedIn, ConnectError> {
    let log_in_with = |proof, start| {
        let (services, waits_for) = (desired.offer.for_server(), history.lost_names.names_in(&desired.offer));
        connector.log_in(server, LoginAs { proof, start, waits_for }, services)
    };
    let mut start = None;
    match history.tickets.of(server) {
        Some(TicketUse::Proof(ticket)) => match log_in_with(Proof::Ticket(ticket.clone()), None).await {
            // The ticket has expired or belongs to another server: the token decides.
            Err(ConnectError::Refused(Refused { code: Refusal::BadToken, .. })) => {
                history.tickets.refused(server, ticket.clone());
                start = Some(ticket);
            }
            other => return other,
        },
        Some(TicketUse::Start(ticket)) => start = Some(ticket),
        None => {}
    }
    log_in_with(Proof::Token(desired.token.clone()), start).await
}
