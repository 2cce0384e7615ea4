//! Whose a login is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::unix_now;
use crate::auth::{HashError, Ticket, USUAL_COST, Work, work_of};
use crate::limits::{AddressKey, Party};
use crate::protocol::login::{Hello, Join, Proof, Refusal, Refused};
use crate::server::agents::Agents;
use crate::server::directory::tunnel::{MAX_LANES, Tunnel};
use crate::server::metrics::Limit;
use crate::tenants::clients::{Credential, Standing};
use crate::values::{ClientId, Secret};

/// How long a ticket lets an agent back in without its token being checked. Refreshed on the control stream.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// A login that is declined: what the agent is told, which is one answer for many reasons, and which of them it is, for
/// the operator's log alone.
#[derive(Debug)]
pub(crate) struct Declined {
    /// What the agent is told.
    pub(crate) refused: Refused,
    why: Option<String>,
}

impl From<Refused> for Declined {
    fn from(refused: Refused) -> Self {
        Self { refused, why: None }
    }
}

impl Declined {
    /// What the log says. It holds no secret.
    pub(crate) fn for_the_log(&self) -> &str {
        self.why.as_deref().unwrap_or(&self.refused.message)
    }

    pub(crate) fn because(refused: Refused, why: impl Into<String>) -> Self {
        Self { refused, why: Some(why.into()) }
    }
}

fn bad_token() -> Refused {
    Refused::new(
        Refusal::BadToken,
        "the client id or the token is wrong, or was revoked; ask the operator for a new one (`adit token rotate ID`, or \
         `adit token new ID` if there is no such client any more)",
    )
}

/// Why a proof of `client` was not good.
fn why_not(client: &ClientId, proof: Option<&Proof>, standing: Standing) -> String {
    match (standing, proof) {
        (Standing::Unknown, _) => format!("there is no client `{client}` in the clients file"),
        (Standing::Removed(when), _) => format!("the client `{client}` was revoked at {when:.0}"),
        (Standing::Expired(end), _) => format!(
            "the client `{client}` has expired since {end}; `adit token set {client} --expires WHEN` lets it in again"
        ),
        (Standing::Listed, Some(Proof::Ticket(_))) => format!(
            "the ticket of `{client}` holds no more: its token was changed, or it is too old; the agent shows its token next"
        ),
        (Standing::Listed, Some(Proof::Token(_))) => {
            format!("a wrong token for `{client}`; `adit token rotate {client}` makes a new one")
        }
        (Standing::Listed, Some(Proof::Invite(_)) | None) => format!("no proof for `{client}`"),
    }
}

impl Agents {
    /// Checking a token is costly, and tokens may be guessed. Tickets and lane secrets have 256 bits and are cheap to
    /// check: whoever has one gets in, whatever others have done from the same address.
    pub(crate) fn check_failures(&self, from: IpAddr) -> Result<(), Refused> {
        self.login.failed.allowed(from).map_err(|wait| Refused {
            retry_after_s: Some(wait.seconds()),
            ..Refused::new(Refusal::TooMany, "too many failed logins from this address; try again later")
        })
    }

    /// What of the client's the proof was made with. A wrong token counts against `from`; a ticket does not, because
    /// those of a whole household may be too old at once.
    pub(crate) async fn check_proof(&self, hello: &Hello, from: IpAddr) -> Result<Credential, Declined> {
        let proved = match &hello.proof {
            Some(Proof::Token(token)) => return self.check_token(hello, token, from).await,
            Some(Proof::Ticket(ticket)) => {
                self.of_ticket(hello, ticket, self.directory.clients.credentials(&hello.client_id))
            }
            Some(Proof::Invite(_)) | None => None,
        };
        proved.ok_or_else(|| self.bad_proof(hello))
    }

    /// A repeat of a token that was refused is answered at once and counts no more. An address with too many failures has
    /// to wait, but not for clients none of whose tokens were refused to it: those may be neighbours behind one NAT.
    async fn check_token(&self, hello: &Hello, token: &Secret, from: IpAddr) -> Result<Credential, Declined> {
        let credentials = self.directory.clients.credentials(&hello.client_id);
        let address = AddressKey::new(from, self.settings().config.limits.per_ip.ipv6_prefix);
        let asked = self.login.refused_tokens.question(address, &hello.client_id, token, &credentials);
        if self.login.refused_tokens.has(&asked) {
            return Err(self.bad_proof(hello));
        }
        let counted_by = match self.check_failures(from) {
            Ok(()) => &self.login.failed,
            Err(_)
                if !self.login.refused_tokens.has_of_client(&asked)
                    && self.login.first_failures.allowed(from).is_ok() =>
            {
                &self.login.first_failures
            }
            Err(refused) => {
                self.runtime.metrics.limited(Limit::FailedLogins);
                return Err(refused.into());
            }
        };
        match self.of_token((hello, from), token, credentials).await? {
            Some(credential) => Ok(credential),
            None => {
                if self.login.refused_tokens.remember(&asked) {
                    counted_by.failed(from);
                }
                Err(self.bad_proof(hello))
            }
        }
    }

    fn bad_proof(&self, hello: &Hello) -> Declined {
        // All have been compared by now: what the log says makes no difference to when the answer leaves.
        let standing = self.directory.clients.standing(&hello.client_id, Timestamp::now());
        Declined::because(bad_token(), why_not(&hello.client_id, hello.proof.as_ref(), standing))
    }

    fn of_ticket(&self, hello: &Hello, ticket: &Secret, credentials: Vec<Credential>) -> Option<Credential> {
        let claimed = Ticket::parse(ticket).ok().filter(|claimed| *claimed.claimed_client() == hello.client_id)?;
        let holds = |credential: &Credential| self.tickets.verify(&claimed, Some(&credential.hash), unix_now()).is_ok();
        credentials.into_iter().find(holds)
    }

    /// When the agent was started, as one of this server's tickets says that it shows: as its proof, or beside its token
    /// because it is too old for a proof.
    pub(crate) fn signed_start(&self, hello: &Hello) -> Option<u64> {
        let proof = match &hello.proof {
            Some(Proof::Ticket(ticket)) => Some(ticket),
            _ => None,
        };
        let tickets = proof.into_iter().chain(&hello.start).filter_map(|ticket| Ticket::parse(ticket).ok());
        tickets.filter_map(|ticket| self.tickets.start_of(&ticket, &hello.client_id)).next()
    }

    /// A client that does not exist costs what one that does costs. While a token is being rotated, a wrong one costs
    /// twice as much. Each comparison counts against `from`, whatever comes of it. That the server cannot compare at the
    /// moment says nothing of the token: the agent tries again.
    async fn of_token(
        &self,
        (hello, from): (&Hello, IpAddr),
        token: &Secret,
        credentials: Vec<Credential>,
    ) -> Result<Option<Credential>, Refused> {
        let party = || self.party(&hello.client_id, from);
        if credentials.is_empty() {
            self.check_rate(from, USUAL_COST)?;
            // The answer is known; the time it takes is the point.
            let _ = self.login.verifier.verify(party(), token, None).await;
        }
        for credential in credentials {
            self.check_rate(from, work_of(&credential.hash).map_or(USUAL_COST, Work::cost))?;
            match self.login.verifier.verify(party(), token, Some(&credential.hash)).await {
                Ok(true) => return Ok(Some(credential)),
                Ok(false) => {}
                Err(error @ (HashError::Broken(_) | HashError::TooCostly(..))) => {
                    tracing::error!(client = %hello.client_id, %error, "the stored token hash cannot be used");
                }
                Err(error) => {
                    tracing::error!(client = %hello.client_id, %error, "a token could not be checked");
                    return Err(Refused::new(
                        Refusal::Other,
                        "the server cannot check tokens at the moment; try again",
                    ));
                }
            }
        }
        Ok(None)
    }

    /// Counts an argon2 computation for `from`, by its cost.
    pub(crate) fn check_rate(&self, from: IpAddr, cost: u64) -> Result<(), Refused> {
        self.login.checks.take(from, cost).map_err(|wait| {
            self.runtime.metrics.limited(Limit::FailedLogins);
            Refused {
                retry_after_s: Some(wait.seconds()),
                ..Refused::new(Refusal::TooMany, "too many logins from this address; try again later")
            }
        })
    }

    /// For whom an argon2 computation is done.
    pub(crate) fn party(&self, client: &ClientId, from: IpAddr) -> Party {
        let prefix = self.settings().config.limits.per_ip.ipv6_prefix;
        Party { client: client.clone(), address: AddressKey::new(from, prefix) }
    }

    pub(crate) fn check_join(&self, hello: &Hello, join: &Join, from: IpAddr) -> Result<Arc<Tunnel>, Declined> {
        let tunnel = self.directory.registry.tunnel(&hello.client_id, join.tunnel_id);
        let Some(tunnel) = tunnel.filter(|tunnel| self.is_still_good(tunnel)) else {
            return Err(Refused::new(Refusal::WrongNode, "the tunnel that this lane wants to join is not here").into());
        };
        if !tunnel.secret().matches(&join.lane_secret) {
            self.login.failed.failed(from);
            let why = format!("a lane wanted to join a tunnel of `{}` with a wrong secret", hello.client_id);
            return Err(Declined::because(bad_token(), why));
        }
        if !tunnel.has_room_for_a_lane() {
            return Err(Refused::new(Refusal::TooMany, format!("the tunnel has {MAX_LANES} lanes already")).into());
        }
        Ok(tunnel)
    }

    /// Whether what the tunnel's agent has logged in with still holds.
    pub(crate) fn is_still_good(&self, tunnel: &Tunnel) -> bool {
        let used = tunnel.credential();
        self.directory.clients.credentials(tunnel.client()).iter().any(|credential| credential.hash == used.hash)
    }

    /// A fresh ticket for the agent of `tunnel`; `None` if it may not come back.
    pub(crate) fn ticket(&self, tunnel: &Tunnel) -> Option<Secret> {
        let until = unix_now() + TICKET_LIFETIME.as_secs();
        self.is_still_good(tunnel)
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
            (Standing::Unknown, "there is no client `bob`"),
            (Standing::Removed(moment), "was revoked at 2026-01-01T00:00:00Z"),
            (Standing::Expired(whole), "has expired since 2026-01-01T00:00:00Z; `adit token set bob"),
            (Standing::Listed, "a wrong token for `bob`"),
        ] {
            let declined = Declined::because(bad_token(), why_not(&client, Some(&token), standing));
            assert!(declined.for_the_log().contains(said), "{}", declined.for_the_log());
            assert!(!declined.for_the_log().contains("secret"));
            assert_eq!(declined.refused.message, bad_token().message);
        }
        let ticket = Proof::Ticket(Secret::new("t"));
        assert!(why_not(&client, Some(&ticket), Standing::Listed).contains("the ticket of `bob`"));
        assert_eq!(Declined::from(bad_token()).for_the_log(), bad_token().message);
    }
}
