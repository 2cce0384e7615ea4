//! The endpoint that reloads the clients file immediately.

use std::sync::Arc;

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::change::Change;
use super::error::{ApiError, ErrorView};
use super::refusals::Refusals;

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
pub(crate) async fn reload_clients(change: Change) -> Result<Json<ReloadedView>, ApiError> {
    let work = async |admin: Arc<Admin>| {
        let (agents, clients) = (&admin.lifecycle.agents, &admin.lifecycle.directory.clients);
        agents.client_store.reload().await;
        agents.recheck_all();
        if let Some(errors) = agents.client_store.problems() {
            return Err(ApiError::unusable_file(errors));
        }
        let file = admin.lifecycle.settings().config.clients.display().to_string();
        Ok(ReloadedView { file, clients: clients.len(), invites: clients.invites().len() })
    };
    change.run("clients.reload", "", work).await.map(Json)
}
