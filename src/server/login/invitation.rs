//! Who has an invitation becomes a client.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::Shared;
use super::super::metrics::Limit;
use super::Declined;
use crate::auth::{InviteCode, Token};
use crate::config::{RedeemError, Redeemed, invite_key, redeem_invite};
use crate::protocol::login::{Known, Refusal, Refused};
use crate::values::{ClientId, Secret};

fn bad_invite() -> Refused {
    Refused::new(
        Refusal::BadInvite,
        "the invitation is unknown, was used, or is too old; ask the operator for a new one (`adit token invite`)",
    )
}

impl Shared {
    /// Buys a token with a code: the invitation is gone afterwards, and the client is in the clients file. A wrong code
    /// counts against `from`.
    pub(super) async fn redeem(
        self: &Arc<Self>,
        code: &Secret,
        client: &ClientId,
        from: IpAddr,
    ) -> Result<Known, Declined> {
        self.check_failures(from).inspect_err(|_| self.metrics.limited(Limit::FailedLogins))?;
        let known = InviteCode::parse(code.expose()).ok();
        let Some(known) = known.as_ref().filter(|_| self.clients.invite(code).is_some()) else {
            self.failed_logins.failed(from);
            return Err(Declined::because(bad_invite(), self.why_no_invite(known.as_ref())));
        };
        let broken = |error: &dyn std::fmt::Display| {
            tracing::error!(%client, "an invitation could not be redeemed: {error}");
            Refused::new(Refusal::Other, "the server cannot write its clients file; tell the operator")
        };
        let token = Token::generate().map_err(|error| broken(&error))?;
        let redeemed = {
            let (path, digest, client) = (self.settings().config.clients.clone(), known.digest(), client.clone());
            // Many may come with the same code at once, and a hash takes memory: they wait in line.
            let hashed = self.verifier.hash(token.as_secret()).await.map_err(|error| broken(&error))?;
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

    /// For the log: what is wrong with a code that buys nothing.
    fn why_no_invite(&self, code: Option<&InviteCode>) -> String {
        let Some(digest) = code.map(InviteCode::digest) else { return "this is no code of an invitation".to_owned() };
        let key = invite_key(&digest);
        match self.clients.invites().get(&key).filter(|invite| invite.code_hash == digest) {
            Some(invite) => format!("the invitation {key} has expired since {}", invite.expires),
            None => format!("there is no invitation {key}: it was used, was ended, or is of another server"),
        }
    }
}
