//! Who has an invitation becomes a client.

use std::net::IpAddr;
use std::sync::Arc;

use super::Declined;
use crate::auth::{InviteCode, Token, TokenVerifier, USUAL_COST};
use crate::protocol::login::{Known, Refusal, Refused};
use crate::server::agents::Agents;
use crate::server::metrics::Limit;
use crate::tenants::edit::{RedeemError, Redeemed, redeem_invite};
use crate::tenants::entry::invite_key;
use crate::values::{ClientId, Secret, is_reserved_for_operator};

fn bad_invite() -> Refused {
    Refused::new(
        Refusal::BadInvite,
        "the invitation is unknown, was used, or is too old; ask the operator for a new one (`adit token invite`)",
    )
}

impl Agents {
    /// Buys a token with a code: the invitation is gone afterwards, and the client is in the clients file. Every attempt that
    /// fails counts against `from`, also one with a code that is good; and what can be known before is looked at before the
    /// token is hashed.
    pub(crate) async fn redeem(
        self: &Arc<Self>,
        code: &Secret,
        client: &ClientId,
        from: IpAddr,
    ) -> Result<Known, Declined> {
        self.check_failures(from).inspect_err(|_| self.runtime.metrics.limited(Limit::FailedLogins))?;
        let redeemed = self.try_redeem(code, client, from).await;
        let is_their_fault =
            |declined: &Declined| matches!(declined.refused.code, Refusal::BadInvite | Refusal::NotAllowed);
        if redeemed.as_ref().is_err_and(is_their_fault) {
            self.login.failed.failed(from);
        }
        redeemed
    }

    async fn try_redeem(self: &Arc<Self>, code: &Secret, client: &ClientId, from: IpAddr) -> Result<Known, Declined> {
        let known = InviteCode::parse(code.expose()).ok();
        let known = known.as_ref();
        let is_open = || self.directory.clients.invite(code).is_some();
        let Some(known) = known.filter(|_| is_open()) else {
            return Err(Declined::because(bad_invite(), self.why_no_invite(known)));
        };
        self.check_invited(code, client)?;
        self.check_rate(from, USUAL_COST)?;
        let broken = |error: &dyn std::fmt::Display| {
            tracing::error!(%client, "an invitation could not be redeemed: {error}");
            Refused::new(Refusal::Other, "the server cannot write its clients file; tell the operator")
        };
        let token = Token::generate().map_err(|error| broken(&error))?;
        // Many logins may arrive with the same code, and a hash takes memory: they wait in the queue.
        let turn = self.login.verifier.turn(self.party(client, from), None).await;
        if !is_open() {
            turn.unused();
            return Err(Declined::because(bad_invite(), self.why_no_invite(Some(known))));
        }
        let redeemed = {
            let (path, digest, client) = (self.settings().config.clients.clone(), known.digest(), client.clone());
            let hashed = TokenVerifier::hash_in(turn, token.as_secret()).await.map_err(|error| broken(&error))?;
            tokio::task::spawn_blocking(move || redeem_invite(&path, &digest, Some(&client), &hashed)).await
        };
        let Redeemed { id, names } = match redeemed {
            Ok(Ok(redeemed)) => redeemed,
            Ok(Err(error @ (RedeemError::NoSuchInvite | RedeemError::Expired))) => {
                return Err(Declined::because(bad_invite(), error.to_string()));
            }
            Ok(Err(RedeemError::Edit(error))) => return Err(broken(&error).into()),
            Ok(Err(error)) => return Err(Refused::new(Refusal::NotAllowed, error.to_string()).into()),
            Err(error) => return Err(broken(&error).into()),
        };
        self.clients_file.reload().await;
        tracing::info!(client = %id, %from, "a new client has redeemed an invitation");
        Ok(Known { client_id: id, token: Some(token.into()), names })
    }

    /// Whether the id that the newcomer has chosen can be had with this code, as far as the server knows. It costs nothing;
    /// the clients file has the last word. Only who has a code learns whether an id is taken.
    fn check_invited(&self, code: &Secret, client: &ClientId) -> Result<(), Refused> {
        let Some(invited) = self.directory.clients.invite(code) else { return Ok(()) };
        let error = match &invited.id {
            Some(id) if id != client => RedeemError::OtherId(client.clone()),
            None if is_reserved_for_operator(client.as_str()) => RedeemError::IdReserved(client.clone()),
            _ if self.directory.clients.is_taken(client, &invited.key) => RedeemError::IdTaken(client.clone()),
            _ => return Ok(()),
        };
        Err(Refused::new(Refusal::NotAllowed, error.to_string()))
    }

    /// For the log: what is wrong with a code that buys nothing.
    fn why_no_invite(&self, code: Option<&InviteCode>) -> String {
        let Some(digest) = code.map(InviteCode::digest) else { return "this is no code of an invitation".to_owned() };
        let key = invite_key(&digest);
        match self.directory.clients.invites().get(&key).filter(|invite| invite.code_hash == digest) {
            Some(invite) => format!("the invitation {key} has expired since {}", invite.expires),
            None => format!("there is no invitation {key}: it was used, was ended, or is of another server"),
        }
    }
}
