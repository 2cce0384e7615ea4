//! Changes to the list of clients that the API makes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::auth::{Token, TokenVerifier};
use crate::server::admin::error::ApiError;
use crate::server::agents::Agents;
use crate::tenants::edit_error::EditError;
use crate::tenants::entry::ClientsFile;
use crate::values::ClientId;

/// Edits the list of clients and applies each change to the connected agents.
#[derive(Debug, Clone)]
pub(crate) struct ClientEditor(Arc<Agents>);

impl ClientEditor {
    /// Returns an editor that applies its changes to `agents`.
    pub(crate) fn new(agents: &Arc<Agents>) -> Self {
        Self(Arc::clone(agents))
    }

    /// Edits the list of clients. When this returns, the change is in effect.
    ///
    /// # Errors
    /// The store refuses the edit or cannot be written.
    pub(crate) async fn edit<T: Send + 'static>(
        &self,
        edit: impl FnMut(&mut ClientsFile) -> Result<T, EditError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let outcome = self.0.client_store.edit(edit).await?;
        self.0.recheck_all();
        Ok(outcome)
    }

    /// Reloads the list of clients. When this returns, the list is in effect.
    ///
    /// # Errors
    /// The store's content is not valid; the previous list stays in effect.
    pub(crate) async fn reload(&self) -> Result<(), ApiError> {
        self.0.client_store.reload().await;
        self.0.recheck_all();
        self.0.client_store.problems().map_or(Ok(()), |errors| Err(ApiError::unusable_file(errors)))
    }

    /// Generates a token for `client`, and returns it with its hash.
    ///
    /// # Errors
    /// The system has no randomness, or hashing fails.
    pub(crate) async fn fresh_token(&self, client: &ClientId) -> Result<(Token, String), ApiError> {
        let token = Token::generate().map_err(|error| ApiError::failed(&error))?;
        // The operator's own address: it waits for no agent's.
        let party = self.0.party(client, IpAddr::V4(Ipv4Addr::LOCALHOST));
        let turn = self.0.login.verifier.turn(party, None).await;
        let hashed = TokenVerifier::hash_in(turn, token.as_secret()).await.map_err(|error| ApiError::failed(&error))?;
        Ok((token, hashed))
    }
}
