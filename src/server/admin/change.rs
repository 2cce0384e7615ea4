//! Changes: each in a task of its own, so that whoever asked may leave without leaving half of one behind; and each with
//! a line in the log that says who has done what.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::Method;

use super::Admin;
use super::answer::ApiError;
use crate::telemetry::AUDIT_LOG;
use crate::tenants::edit::EditError;

/// Characters of what somebody else wrote that a line repeats.
const MOST_OF_A_NAME: usize = 80;

impl Admin {
    /// Makes a change called `action` to `on`, and says in the log whether it was made.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        peer: SocketAddr,
        action: &'static str,
        on: &str,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let on: String = on.chars().take(MOST_OF_A_NAME).collect();
        let Some(permit) = self.changes.try_acquire() else {
            let refused = ApiError::busy();
            audit(peer, action, &on, Err(&refused));
            return Err(refused);
        };
        let task = self.lifecycle.runtime.tasks.all.spawn(async move {
            let _permit = permit;
            let result = work.await;
            audit(peer, action, &on, result.as_ref().map(drop));
            result
        });
        task.await.unwrap_or_else(|error| Err(ApiError::failed(&error)))
    }

    /// Edits the clients file and takes it over, so that what is answered afterwards is true.
    pub(crate) async fn edit<T: Send + 'static>(
        self: &Arc<Self>,
        edit: impl FnOnce(&std::path::Path) -> Result<T, EditError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let path = self.lifecycle.settings().config.clients.clone();
        let edited = tokio::task::spawn_blocking(move || edit(&path)).await;
        let outcome = edited.map_err(|error| ApiError::failed(&error))??;
        self.lifecycle.agents.clients_file.reload_by_command().await;
        self.lifecycle.agents.look_at_tunnels();
        Ok(outcome)
    }
}

fn audit(peer: SocketAddr, action: &'static str, on: &str, outcome: Result<(), &ApiError>) {
    // Text from outside goes in as a field of its own, which the log quotes.
    match outcome {
        Ok(()) => tracing::info!(target: AUDIT_LOG, %peer, action, on, outcome = "done", "admin"),
        Err(refused) => {
            let (status, outcome) = (refused.status().as_u16(), refused.code());
            tracing::info!(target: AUDIT_LOG, %peer, action, on, outcome, status, "admin");
        }
    }
}

/// A request that was to change something was refused before anybody looked at what. There are no more of these lines than
/// wrong tokens are allowed.
pub(crate) fn audit_refusal(from: IpAddr, method: &Method, path: &str, refused: &ApiError) {
    let on: String = path.chars().take(MOST_OF_A_NAME).collect();
    let (action, on, outcome) = (method.as_str(), on.as_str(), refused.code());
    tracing::warn!(target: AUDIT_LOG, peer = %from, action, on, outcome, status = refused.status().as_u16(), "admin");
}
