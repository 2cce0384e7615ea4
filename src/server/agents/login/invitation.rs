//! Redeems invitations: the holder of a code becomes a client.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::auth::{InviteCode, Token, TokenVerifier, USUAL_COST};
use crate::protocol::login::{Known, Refusal, Refused};
use crate::server::agents::Agents;
use crate::server::agents::login::refusal::LoginRefusal;
use crate::server::metrics::Limit;
use crate::tenants::edit::Redeemed;
use crate::tenants::edit_error::RedeemError;
use crate::tenants::entry::invite_key;
use crate::values::{ClientId, Secret, is_reserved_for_operator};

/// Only the holder of an authentic code learns that it has expired: codes cannot be guessed.
fn expired(expires: Timestamp) -> Refused {
    Refused::new(
        Refusal::BadInvite,
        format!("the invitation expired on {expires}; ask the operator for a new one (`adit token invite`)"),
    )
}

fn bad_invite() -> Refused {
    Refused::new(
        Refusal::BadInvite,
        "the invitation is unknown or was used; ask the operator for a new one (`adit token invite`)",
    )
}

impl Agents {
    /// Redeems a code: removes the invitation from the clients file, adds the client and returns its token. Every failed
    /// attempt counts against `from`, even one with a valid code. Everything that can be checked before the token is hashed,
    /// is.
    pub(crate) async fn redeem(
        self: &Arc<Self>,
        code: &Secret,
        client: &ClientId,
        from: IpAddr,
    ) -> Result<Known, LoginRefusal> {
        self.login.check_failures(from).inspect_err(|_| self.runtime.metrics.limited(Limit::FailedLogins))?;
        let redeemed = self.try_redeem(code, client, from).await;
        let is_their_fault =
            |refusal: &LoginRefusal| matches!(refusal.refused.code, Refusal::BadInvite | Refusal::NotAllowed);
        if redeemed.as_ref().is_err_and(is_their_fault) {
            self.login.record_failure(from);
        }
        redeemed
    }

    async fn try_redeem(
        self: &Arc<Self>,
        code: &Secret,
        client: &ClientId,
        from: IpAddr,
    ) -> Result<Known, LoginRefusal> {
        let known = InviteCode::parse(code.expose()).ok();
        let known = known.as_ref();
        let is_open = || self.directory.clients.invite(code).is_some();
        let Some(known) = known.filter(|_| is_open()) else {
            return Err(self.refuse_code(known));
        };
        self.check_invited(code, client)?;
        self.check_rate(from, USUAL_COST)?;
        let broken = |error: &dyn std::fmt::Display| {
            tracing::error!(%client, "an invitation could not be redeemed: {error}");
            Refused::new(Refusal::Other, "the server cannot write its clients file; tell the operator")
        };
        let token = Token::generate().map_err(|error| broken(&error))?;
        // Many logins may arrive with the same code, and a hash takes memory: they queue.
        let turn = self.login.verifier.turn(self.party(client, from), None).await;
        if !is_open() {
            turn.unused();
            return Err(self.refuse_code(Some(known)));
        }
        let redeemed = {
            let (digest, client) = (known.digest(), client.clone());
            let hashed = TokenVerifier::hash_in(turn, token.as_secret()).await.map_err(|error| broken(&error))?;
            self.client_store.edit(move |file| file.redeem_invite(&digest, Some(&client), &hashed)).await
        };
        let Redeemed { id, names } = match redeemed {
            Ok(redeemed) => redeemed,
            Err(RedeemError::NoSuchInvite | RedeemError::Expired) => return Err(self.refuse_code(Some(known))),
            Err(RedeemError::Edit(error)) => return Err(broken(&error).into()),
            Err(error) => return Err(Refused::new(Refusal::NotAllowed, error.to_string()).into()),
        };
        tracing::info!(client = %id, %from, "a new client has redeemed an invitation");
        Ok(Known { client_id: id, token: Some(token.into()), names })
    }

    /// Checks whether the chosen id is available with this code, as far as the server knows. This is cheap; editing the clients
    /// file checks again. Only the holder of a code learns whether an id is taken.
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

    /// Refuses a code that is not valid. The log says more than the agent is told.
    fn refuse_code(&self, code: Option<&InviteCode>) -> LoginRefusal {
        let Some(digest) = code.map(InviteCode::digest) else {
            return LoginRefusal::with_reason(bad_invite(), "this is no code of an invitation".to_owned());
        };
        let key = invite_key(&digest);
        match self.directory.clients.invites().get(&key).filter(|invite| invite.code_hash == digest) {
            Some(invite) => {
                let reason = format!("the invitation {key} has expired since {}", invite.expires);
                LoginRefusal::with_reason(expired(invite.expires), reason)
            }
            None => {
                let reason = format!("there is no invitation {key}: it was used, was ended, or is of another server");
                LoginRefusal::with_reason(bad_invite(), reason)
            }
        }
    }
}
