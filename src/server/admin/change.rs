//! Changes by the operator. Each runs in a task of its own, so that a caller that disconnects does not leave half of one
//! behind, and each has a line in the audit log.

use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Method, StatusCode};
use tokio_util::task::TaskTracker;

use crate::limits::Permit;
use crate::server::admin::Peer;
use crate::server::admin::components::Components;
use crate::server::admin::error::ApiError;
use crate::telemetry::AUDIT_LOG;

/// Maximum number of characters of a caller's text that a line repeats.
const MAX_TARGET: usize = 80;

/// A request that changes something. Handlers get it as an argument.
pub(crate) struct Change {
    /// One of the permits for concurrent changes; `None` if too many are running.
    permit: Option<Permit>,
    tasks: TaskTracker,
    peer: SocketAddr,
}

impl FromRequestParts<Components> for Change {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, Components(admin): &Components) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<Peer>().copied();
        let Peer(peer) = peer.ok_or_else(|| ApiError::failed(&"the peer of a request is unknown"))?;
        let tasks = admin.lifecycle.runtime.tasks.all.clone();
        Ok(Self { permit: admin.changes.try_acquire(), tasks, peer })
    }
}

impl Change {
    /// Runs the change `action` of `target`, and logs its outcome.
    ///
    /// # Errors
    /// The change fails, or too many others are running.
    pub(crate) async fn run<T>(
        self,
        action: &'static str,
        target: &str,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
    {
        let Self { permit, tasks, peer } = self;
        let target: String = target.chars().take(MAX_TARGET).collect();
        let Some(permit) = permit else {
            let refused = ApiError::busy();
            audit(peer, action, &target, Err(&refused));
            return Err(refused);
        };
        let task = tasks.spawn(async move {
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
    pub(crate) async fn remove(
        self,
        action: &'static str,
        target: &str,
        work: impl Future<Output = Result<(), ApiError>> + Send + 'static,
    ) -> Result<StatusCode, ApiError> {
        self.run(action, target, work).await?;
        Ok(StatusCode::NO_CONTENT)
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
