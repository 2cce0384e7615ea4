//! The endpoint that reloads the clients file immediately.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::change::Change;
use super::client_editor::ClientEditor;
use super::error::{ApiError, ErrorView};
use super::refusals::Refusals;
use crate::server::settings::Settings;
use crate::tenants::clients::Clients;

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
    change: Change,
    State(editor): State<ClientEditor>,
    State(clients): State<Arc<Clients>>,
    State(settings): State<Arc<Settings>>,
) -> Result<Json<ReloadedView>, ApiError> {
    let work = async move {
        editor.reload().await?;
        let file = settings.config.clients.display().to_string();
        Ok(ReloadedView { file, clients: clients.len(), invites: clients.invites().len() })
    };
    change.run("clients.reload", "", work).await.map(Json)
}
