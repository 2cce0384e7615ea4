//! Whose a login is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::Shared;
use super::super::metrics::Limit;
use super::super::tunnel::{MAX_LANES, Tunnel};
use super::unix_now;
use crate::auth::{Credential, Ticket};
use crate::protocol::login::{Hello, Join, Proof, Refusal, Refused};
use crate::values::Secret;

/// How long a ticket lets an agent back in without its token being checked. Refreshed on the control stream.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(60 * 60);

fn bad_token() -> Refused {
    Refused::new(
        Refusal::BadToken,
        "the client id or the token is wrong, or was revoked; ask the operator for a new one (`adit token new`)",
    )
}

impl Shared {
    /// Checking a token is costly, and tokens may be guessed. Tickets and lane secrets have 256 bits and are cheap to
    /// check: whoever has one gets in, whatever others have done from the same address.
    pub(super) fn check_failures(&self, from: IpAddr) -> Result<(), Refused> {
        self.failed_logins.allowed(from).map_err(|wait| {
            self.metrics.limited(Limit::FailedLogins);
            Refused {
                retry_after_s: Some(wait.seconds()),
                ..Refused::new(Refusal::TooMany, "too many failed logins from this address; try again later")
            }
        })
    }

    /// What of the client's the proof was made with. A wrong one counts against `from`.
    pub(super) async fn check_proof(&self, hello: &Hello, from: IpAddr) -> Result<Credential, Refused> {
        if let Some(Proof::Token(_)) = hello.proof {
            self.check_failures(from)?;
        }
        let credentials = self.clients.credentials(&hello.client_id);
        let proved = match &hello.proof {
            Some(Proof::Ticket(ticket)) => self.of_ticket(hello, ticket, credentials),
            Some(Proof::Token(token)) => self.of_token(hello, token, credentials).await,
            Some(Proof::Invite(_)) | None => None,
        };
        proved.ok_or_else(|| {
            self.failed_logins.failed(from);
            bad_token()
        })
    }

    fn of_ticket(&self, hello: &Hello, ticket: &Secret, credentials: Vec<Credential>) -> Option<Credential> {
        let claimed = Ticket::parse(ticket).ok().filter(|claimed| *claimed.claimed_client() == hello.client_id)?;
        let holds = |credential: &Credential| self.tickets.verify(&claimed, Some(&credential.hash), unix_now()).is_ok();
        credentials.into_iter().find(holds)
    }

    /// A client that does not exist costs what one that does costs. While a token is being rotated, a wrong one costs
    /// twice as much.
    async fn of_token(&self, hello: &Hello, token: &Secret, credentials: Vec<Credential>) -> Option<Credential> {
        if credentials.is_empty() {
            // The answer is known; the time it takes is the point.
            let _ = self.verifier.verify(token, None).await;
        }
        for credential in credentials {
            match self.verifier.verify(token, Some(&credential.hash)).await {
                Ok(true) => return Some(credential),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(client = %hello.client_id, %error, "the stored token hash cannot be used");
                }
            }
        }
        None
    }

    pub(super) fn check_join(&self, hello: &Hello, join: &Join, from: IpAddr) -> Result<Arc<Tunnel>, Refused> {
        let tunnel = self.registry.tunnel(&hello.client_id, join.tunnel_id);
        let Some(tunnel) = tunnel.filter(|tunnel| self.is_still_good(tunnel)) else {
            return Err(Refused::new(Refusal::WrongNode, "the tunnel that this lane wants to join is not here"));
        };
        if !tunnel.secret().matches(&join.lane_secret) {
            self.failed_logins.failed(from);
            return Err(bad_token());
        }
        if !tunnel.has_room_for_a_lane() {
            return Err(Refused::new(Refusal::TooMany, format!("the tunnel has {MAX_LANES} lanes already")));
        }
        Ok(tunnel)
    }

    /// Whether what the tunnel's agent has logged in with still holds.
    pub(in crate::server) fn is_still_good(&self, tunnel: &Tunnel) -> bool {
        let used = tunnel.credential();
        self.clients.credentials(tunnel.client()).iter().any(|credential| credential.hash == used.hash)
    }

    /// A fresh ticket for the agent of `tunnel`; `None` if it may not come back.
    pub(in crate::server) fn ticket(&self, tunnel: &Tunnel) -> Option<Secret> {
        let until = unix_now() + TICKET_LIFETIME.as_secs();
        self.is_still_good(tunnel).then(|| self.tickets.issue(tunnel.client(), &tunnel.credential().hash, until))
    }
}
