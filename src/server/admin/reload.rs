//! The endpoint that reloads the clients file immediately.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{ApiError, ErrorView};
use super::refusals::Refusals;
use super::{Admin, Peer};

/// The clients file that the server uses.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientsReloaded)]
pub(crate) struct ReloadedView {
    /// The path of the file.
    file: String,
    /// How many clients it lists.
    clients: usize,
    /// How many invitations it lists.
    invites: usize,
}

/// Reloads the clients file
///
/// `adit token` calls this after each change. The server responds when it has applied the file. It closes immediately what
/// the file no longer allows, unless an earlier change by hand is still delayed.
#[utoipa::path(
    post, path = "/api/v1/clients-file/reload", tag = "clients", operation_id = "reload_clients",
    responses(
        (status = 200, body = ReloadedView),
        (status = 409, body = ErrorView, description = "The clients file is not valid"),
        Refusals,
    ),
)]
pub(crate) async fn reload_clients(
    State(admin): State<Arc<Admin>>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Result<Json<ReloadedView>, ApiError> {
    let changing = Arc::clone(&admin);
    let work = async move {
        let lifecycle = &changing.lifecycle;
        lifecycle.agents.clients_file.reload_by_command().await;
        lifecycle.agents.look_at_tunnels();
        if let Some(errors) = lifecycle.agents.clients_file.problems().borrow().clone() {
            return Err(ApiError::unusable_file(errors));
        }
        let (clients, invites) = (lifecycle.directory.clients.len(), lifecycle.directory.clients.invites().len());
        Ok(ReloadedView { file: lifecycle.settings().config.clients.display().to_string(), clients, invites })
    };
    admin.change(peer, "clients.reload", "", work).await.map(Json)
}
