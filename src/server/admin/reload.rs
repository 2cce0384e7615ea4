//! The clients file, read again at once.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{ApiError, ErrorView};
use super::refusals::Refusals;
use super::{Admin, Peer};

/// The clients file that counts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientsReloaded)]
pub(super) struct ReloadedView {
    /// The file, as the server finds it.
    file: String,
    /// Clients that are listed.
    clients: usize,
    /// Invitations that are listed.
    invites: usize,
}

/// Reads the clients file again
///
/// `adit token` asks for it after each change. The answer comes when the file counts: what it no longer allows is closed at
/// once, unless an earlier change by hand has been given time.
#[utoipa::path(
    post, path = "/api/v1/clients-file/reload", tag = "clients", operation_id = "reload_clients",
    responses(
        (status = 200, body = ReloadedView),
        (status = 409, body = ErrorView, description = "The clients file cannot be used as it is"),
        Refusals,
    ),
)]
pub(super) async fn reload_clients(
    State(admin): State<Arc<Admin>>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Result<Json<ReloadedView>, ApiError> {
    let changing = Arc::clone(&admin);
    let work = async move {
        let shared = &changing.shared;
        shared.clients_file.reload_by_command().await;
        shared.look_at_tunnels();
        if let Some(errors) = shared.clients_file.problems().borrow().clone() {
            return Err(ApiError::unusable_file(errors));
        }
        let (clients, invites) = (shared.clients.len(), shared.clients.invites().len());
        Ok(ReloadedView { file: shared.settings().config.clients.display().to_string(), clients, invites })
    };
    admin.change(peer, "clients.reload", "", work).await.map(Json)
}
