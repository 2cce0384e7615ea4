//! Changes by the operator. Each runs in a task of its own, so that a caller that disconnects does not leave half of one
//! behind, and each has a line in the audit log.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Method, StatusCode};

use crate::server::admin::error::ApiError;
use crate::server::admin::{Admin, Peer};
use crate::telemetry::AUDIT_LOG;
use crate::tenants::edit_error::EditError;
use crate::tenants::entry::ClientsFile;

/// Maximum number of characters of a caller's text that a line repeats.
const MAX_TARGET: usize = 80;

/// A request that changes something. Handlers get it as an argument.
pub(crate) struct Change {
    admin: Arc<Admin>,
    peer: SocketAddr,
}

impl FromRequestParts<Arc<Admin>> for Change {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<Peer>().copied();
        let Peer(peer) = peer.ok_or_else(|| ApiError::failed(&"the peer of a request is unknown"))?;
        Ok(Self { admin: Arc::clone(admin), peer })
    }
}

impl Change {
    /// Runs the change `action` of `target`, and logs its outcome.
    ///
    /// # Errors
    /// The change fails, or too many others are running.
    pub(crate) async fn run<T, F>(
        self,
        action: &'static str,
        target: &str,
        work: impl FnOnce(Arc<Admin>) -> F,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let Self { admin, peer } = self;
        let target: String = target.chars().take(MAX_TARGET).collect();
        let Some(permit) = admin.changes.try_acquire() else {
            let refused = ApiError::busy();
            audit(peer, action, &target, Err(&refused));
            return Err(refused);
        };
        let work = work(Arc::clone(&admin));
        let task = admin.lifecycle.runtime.tasks.all.spawn(async move {
            let _permit = permit;
            let result = work.await;
            audit(peer, action, &target, result.as_ref().map(drop));
            result
        });
        task.await.unwrap_or_else(|error| Err(ApiError::failed(&error)))
    }

    /// As [`Change::run`], for a change that removes `target`.
    ///
    /// # Errors
    /// As [`Change::run`].
    pub(crate) async fn remove<F>(
        self,
        action: &'static str,
        target: String,
        work: impl FnOnce(Arc<Admin>, String) -> F,
    ) -> Result<StatusCode, ApiError>
    where
        F: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        let id = target.clone();
        self.run(action, &target, |admin| work(admin, id)).await?;
        Ok(StatusCode::NO_CONTENT)
    }
}

impl Admin {
    /// Edits the list of clients. When this returns, the change is in effect.
    pub(crate) async fn edit<T: Send + 'static>(
        self: &Arc<Self>,
        edit: impl FnMut(&mut ClientsFile) -> Result<T, EditError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let outcome = self.lifecycle.agents.client_store.edit(edit).await?;
        self.lifecycle.agents.recheck_all();
        Ok(outcome)
    }
}

fn audit(peer: SocketAddr, action: &'static str, on: &str, outcome: Result<(), &ApiError>) {
    // A caller's text is a field of its own, which the log quotes.
    match outcome {
        Ok(()) => tracing::info!(target: AUDIT_LOG, %peer, action, on, outcome = "done", "admin"),
        Err(refused) => {
            let (status, outcome) = (refused.status().as_u16(), refused.code());
            tracing::info!(target: AUDIT_LOG, %peer, action, on, outcome, status, "admin");
        }
    }
}

/// Logs that a request for a change was refused because of its token. The limit of wrong tokens bounds the number of lines.
pub(crate) fn audit_refusal(from: IpAddr, method: &Method, path: &str, refused: &ApiError) {
    let on: String = path.chars().take(MAX_TARGET).collect();
    let (action, on, outcome) = (method.as_str(), on.as_str(), refused.code());
    tracing::warn!(target: AUDIT_LOG, peer = %from, action, on, outcome, status = refused.status().as_u16(), "admin");
}
