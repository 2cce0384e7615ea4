//! Checks what a login proves its client with.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::auth::{HashError, Ticket, USUAL_COST, Work, work_of};
use crate::limits::{AddressKey, Party};
use crate::protocol::login::{Hello, Join, Proof, Refusal, Refused};
use crate::server::agents::Agents;
use crate::server::agents::login::refusal::LoginRefusal;
use crate::server::agents::login_limits::NotCompared;
use crate::server::directory::tunnel::{MAX_LANES, Tunnel};
use crate::server::metrics::Limit;
use crate::tenants::clients::{ClientStatus, Credential};
use crate::values::{ClientId, Secret, unix_now};

/// How long an agent may log in with a ticket instead of its token. The control stream refreshes it.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(60 * 60);

fn bad_token() -> Refused {
    Refused::new(
        Refusal::BadToken,
        "the client id or the token is wrong, or was revoked; ask the operator for a new one (`adit token rotate ID`, or \
         `adit token new ID` if there is no such client any more)",
    )
}

/// Returns why a proof of `client` is not valid, for the log.
fn reason_of(client: &ClientId, proof: Option<&Proof>, status: ClientStatus) -> String {
    match (status, proof) {
        (ClientStatus::Unknown, _) => format!("there is no client `{client}` in the clients file"),
        (ClientStatus::Removed(when), _) => format!("the client `{client}` was revoked at {when:.0}"),
        (ClientStatus::Expired(end), _) => format!(
            "the client `{client}` has expired since {end}; `adit token set {client} --expires WHEN` lets it in again"
        ),
        (ClientStatus::Active, Some(Proof::Ticket(_))) => format!(
            "the ticket of `{client}` holds no more: its token was changed, or it is too old; the agent shows its token next"
        ),
        (ClientStatus::Active, Some(Proof::Token(_))) => {
            format!("a wrong token for `{client}`; `adit token rotate {client}` makes a new one")
        }
        (ClientStatus::Active, Some(Proof::Invite(_)) | None) => format!("no proof for `{client}`"),
    }
}

impl Agents {
    /// Returns the credential that the proof is valid for. A wrong token counts as a failure of `from`. A ticket does not,
    /// because all tickets of one household may expire at once.
    pub(crate) async fn check_proof(&self, hello: &Hello, from: IpAddr) -> Result<Credential, LoginRefusal> {
        let proved = match &hello.proof {
            Some(Proof::Token(token)) => return self.check_token(hello, token, from).await,
            Some(Proof::Ticket(ticket)) => {
                self.verify_ticket(hello, ticket, self.directory.clients.credentials(&hello.client_id))
            }
            Some(Proof::Invite(_)) | None => None,
        };
        proved.ok_or_else(|| self.bad_proof(hello))
    }

    /// Checks a token. A token that was refused before is refused immediately and not counted again.
    async fn check_token(&self, hello: &Hello, token: &Secret, from: IpAddr) -> Result<Credential, LoginRefusal> {
        let client = &hello.client_id;
        let credentials = self.directory.clients.credentials(client);
        let prefix = self.settings().config.limits.per_ip.ipv6_prefix;
        let comparison = match self.login.permit_comparison(from, prefix, client, token, &credentials) {
            Ok(comparison) => comparison,
            Err(NotCompared::RefusedBefore) => return Err(self.bad_proof(hello)),
            Err(NotCompared::Limited(refused)) => {
                self.runtime.metrics.limited(Limit::FailedLogins);
                return Err(refused.into());
            }
        };
        match self.verify_token(client, from, token, credentials).await? {
            Some(credential) => Ok(credential),
            None => {
                comparison.failed();
                Err(self.bad_proof(hello))
            }
        }
    }

    fn bad_proof(&self, hello: &Hello) -> LoginRefusal {
        // The comparisons are complete, so the reason for the log does not affect the timing of the answer.
        let status = self.directory.clients.status(&hello.client_id, Timestamp::now());
        LoginRefusal::with_reason(bad_token(), reason_of(&hello.client_id, hello.proof.as_ref(), status))
    }

    fn verify_ticket(&self, hello: &Hello, ticket: &Secret, credentials: Vec<Credential>) -> Option<Credential> {
        let claimed = Ticket::parse(ticket).ok().filter(|claimed| *claimed.claimed_client() == hello.client_id)?;
        let is_valid =
            |credential: &Credential| self.tickets.verify(&claimed, Some(&credential.hash), unix_now()).is_ok();
        credentials.into_iter().find(is_valid)
    }

    /// Returns the start number in a ticket of this server that the agent presents: as its proof, or in addition to its token
    /// if the ticket has expired.
    pub(crate) fn signed_start(&self, hello: &Hello) -> Option<u64> {
        let proof = match &hello.proof {
            Some(Proof::Ticket(ticket)) => Some(ticket),
            _ => None,
        };
        let tickets = proof.into_iter().chain(&hello.start).filter_map(|ticket| Ticket::parse(ticket).ok());
        tickets.filter_map(|ticket| self.tickets.start_of(&ticket, &hello.client_id)).next()
    }

    /// Compares a token with the credentials of a client. Each comparison counts against `from`, valid or not. A client that
    /// does not exist takes as long as one that does. While a token is being rotated, a wrong one takes twice as long.
    ///
    /// # Errors
    /// The token cannot be compared at the moment. The agent tries again.
    async fn verify_token(
        &self,
        client: &ClientId,
        from: IpAddr,
        token: &Secret,
        credentials: Vec<Credential>,
    ) -> Result<Option<Credential>, Refused> {
        let party = || self.party(client, from);
        if credentials.is_empty() {
            self.check_rate(from, USUAL_COST)?;
            // Only takes as long as for a client that exists.
            let _ = self.login.verifier.verify(party(), token, None).await;
        }
        for credential in credentials {
            self.check_rate(from, work_of(&credential.hash).map_or(USUAL_COST, Work::cost))?;
            match self.login.verifier.verify(party(), token, Some(&credential.hash)).await {
                Ok(true) => return Ok(Some(credential)),
                Ok(false) => {}
                Err(error @ (HashError::Broken(_) | HashError::TooCostly(..))) => {
                    tracing::error!(%client, %error, "the stored token hash cannot be used");
                }
                Err(error) => {
                    tracing::error!(%client, %error, "a token could not be checked");
                    return Err(Refused::new(
                        Refusal::Other,
                        "the server cannot check tokens at the moment; try again",
                    ));
                }
            }
        }
        Ok(None)
    }

    /// Counts an argon2 computation against `from`, by its cost.
    pub(crate) fn check_rate(&self, from: IpAddr, cost: u64) -> Result<(), Refused> {
        self.login.check_rate(from, cost).inspect_err(|_| self.runtime.metrics.limited(Limit::FailedLogins))
    }

    /// Returns who an argon2 computation is for.
    pub(crate) fn party(&self, client: &ClientId, from: IpAddr) -> Party {
        let prefix = self.settings().config.limits.per_ip.ipv6_prefix;
        Party { client: client.clone(), address: AddressKey::new(from, prefix) }
    }

    /// Checks a login that wants to add a lane to a tunnel.
    pub(crate) fn check_join(&self, hello: &Hello, join: &Join, from: IpAddr) -> Result<Arc<Tunnel>, LoginRefusal> {
        let tunnel = self.directory.registry.tunnel(&hello.client_id, join.tunnel_id);
        let Some(tunnel) = tunnel.filter(|tunnel| self.is_still_valid(tunnel)) else {
            return Err(Refused::new(Refusal::WrongNode, "the tunnel that this lane wants to join is not here").into());
        };
        if !tunnel.secret().matches(&join.lane_secret) {
            self.login.record_failure(from);
            let reason = format!("a lane wanted to join a tunnel of `{}` with a wrong secret", hello.client_id);
            return Err(LoginRefusal::with_reason(bad_token(), reason));
        }
        if !tunnel.has_room_for_a_lane() {
            return Err(Refused::new(Refusal::TooMany, format!("the tunnel has {MAX_LANES} lanes already")).into());
        }
        Ok(tunnel)
    }

    /// Returns whether the credential that the tunnel's agent has logged in with is still valid.
    pub(crate) fn is_still_valid(&self, tunnel: &Tunnel) -> bool {
        let used = tunnel.credential();
        self.directory.clients.credentials(tunnel.client()).iter().any(|credential| credential.hash == used.hash)
    }

    /// Returns a new ticket for the agent of `tunnel`; `None` if its credential is no longer valid.
    pub(crate) fn ticket(&self, tunnel: &Tunnel) -> Option<Secret> {
        let until = unix_now() + TICKET_LIFETIME.as_secs();
        self.is_still_valid(tunnel)
            .then(|| self.tickets.issue(tunnel.client(), &tunnel.credential().hash, until, tunnel.start()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_apart_what_the_agent_is_told_in_one_way() {
        let client = ClientId::new("bob").unwrap();
        let moment: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        let token = Proof::Token(Secret::new("adit_secret"));
        let whole = "2026-01-01T00:00:00Z".parse().unwrap();
        for (standing, said) in [
            (ClientStatus::Unknown, "there is no client `bob`"),
            (ClientStatus::Removed(moment), "was revoked at 2026-01-01T00:00:00Z"),
            (ClientStatus::Expired(whole), "has expired since 2026-01-01T00:00:00Z; `adit token set bob"),
            (ClientStatus::Active, "a wrong token for `bob`"),
        ] {
            let declined = LoginRefusal::with_reason(bad_token(), reason_of(&client, Some(&token), standing));
            assert!(declined.reason().contains(said), "{}", declined.reason());
            assert!(!declined.reason().contains("secret"));
            assert_eq!(declined.refused.message, bad_token().message);
        }
        let ticket = Proof::Ticket(Secret::new("t"));
        assert!(reason_of(&client, Some(&ticket), ClientStatus::Active).contains("the ticket of `bob`"));
        assert_eq!(LoginRefusal::from(bad_token()).reason(), bad_token().message);
    }
}
