//! The endpoints for tunnels: the connected agents.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::change::Change;
use super::error::{ApiError, found};
use super::extract::{InPath, InQuery};
use super::page::{ClientPageQuery, Page};
use super::refusals::{Misread, NotFound, Refusals};
use crate::server::directory::registry::Registry;
use crate::server::directory::tunnel::{RetireReason, Tunnel};
use crate::values::ClientId;

/// A connected agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tunnel)]
pub(crate) struct TunnelView {
    #[schema(pattern = "^[0-9a-f]{32}$")]
    id: String,
    client: String,
    /// What program the agent says it is.
    agent: String,
    /// From where its first lane came.
    peer: String,
    /// When it logged in.
    #[schema(format = DateTime)]
    since: String,
    state: TunnelState,
    /// The names of its services that lead to it.
    services: Vec<String>,
    /// Connections that carry it.
    lanes: usize,
    /// Requests that are open on it.
    streams: usize,
}

/// What a tunnel is doing. Only one that is `serving` gets new visitors.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TunnelState {
    /// It has logged in and waits for its first lane.
    Waiting,
    Serving,
    /// Whether other agents of the client, which were started later, have all of its names.
    Standby,
    /// A newer login has taken over its last name; what is open ends.
    Replaced,
    /// Its agent has come back on another tunnel.
    CameBack,
    /// Its agent is leaving; what is open ends.
    Leaving,
    /// The server is shutting down; what is open ends.
    Draining,
    /// Its client may not be connected any more.
    Revoked,
    /// The operator has ended it.
    Disconnected,
}

impl TunnelState {
    fn of(tunnel: &Tunnel, has_names: bool) -> Self {
        match &*tunnel.retired().borrow() {
            None if tunnel.is_serving() && !has_names => Self::Standby,
            None if tunnel.is_serving() => Self::Serving,
            None => Self::Waiting,
            Some(RetireReason::Replaced { .. }) => Self::Replaced,
            Some(RetireReason::Reconnected) => Self::CameBack,
            Some(RetireReason::Leaving) => Self::Leaving,
            Some(RetireReason::Draining) => Self::Draining,
            Some(RetireReason::Revoked) => Self::Revoked,
            Some(RetireReason::Disconnected) => Self::Disconnected,
        }
    }
}

fn view(registry: &Registry, tunnel: &Tunnel) -> TunnelView {
    let services: Vec<String> = registry.held(tunnel).iter().map(|service| service.name().to_string()).collect();
    TunnelView {
        id: tunnel.id().to_string(),
        client: tunnel.client().to_string(),
        agent: tunnel.agent().to_owned(),
        peer: tunnel.peer().to_string(),
        since: tunnel.since().to_string(),
        state: TunnelState::of(tunnel, !services.is_empty()),
        services,
        lanes: tunnel.lanes().len(),
        streams: tunnel.streams(),
    }
}

fn find(registry: &Registry, id: &str) -> Result<Arc<Tunnel>, ApiError> {
    found("tunnel", registry.all().into_iter().find(|tunnel| tunnel.id().to_string() == id))
}

/// Returns the tunnels of a client, or all.
pub(crate) fn of(registry: &Registry, client: Option<ClientId>) -> Vec<Arc<Tunnel>> {
    client.map_or_else(|| registry.all(), |client| registry.tunnels_of(&client))
}

/// Lists the connected agents
#[utoipa::path(
    get, path = "/api/v1/tunnels", tag = "tunnels", operation_id = "list_tunnels", params(ClientPageQuery),
    responses((status = 200, body = Page<TunnelView>), Refusals, Misread),
)]
pub(crate) async fn list(
    State(registry): State<Arc<Registry>>,
    InQuery(query): InQuery<ClientPageQuery>,
) -> Result<Json<Page<TunnelView>>, ApiError> {
    let (page, client) = query.split()?;
    page.page(of(&registry, client), |tunnel| tunnel.id().to_string(), |tunnel| Some(view(&registry, &tunnel)))
}

/// Shows a connected agent
#[utoipa::path(
    get, path = "/api/v1/tunnels/{id}", tag = "tunnels", operation_id = "get_tunnel",
    params(("id" = String, Path, description = "The tunnel's id")),
    responses((status = 200, body = TunnelView), Refusals, Misread, NotFound),
)]
pub(crate) async fn get(
    State(registry): State<Arc<Registry>>,
    InPath(id): InPath<String>,
) -> Result<Json<TunnelView>, ApiError> {
    find(&registry, &id).map(|tunnel| Json(view(&registry, &tunnel)))
}

/// Disconnects an agent
///
/// What is open on its tunnel is cut. The agent may come back, and does so by itself: to keep it away, remove its client.
#[utoipa::path(
    delete, path = "/api/v1/tunnels/{id}", tag = "tunnels", operation_id = "disconnect_tunnel",
    params(("id" = String, Path, description = "The tunnel's id")),
    responses((status = 204), Refusals, Misread, NotFound),
)]
pub(crate) async fn disconnect(
    change: Change,
    State(registry): State<Arc<Registry>>,
    InPath(id): InPath<String>,
) -> Result<StatusCode, ApiError> {
    let target = id.clone();
    let work = async move {
        let tunnel = find(&registry, &id)?;
        // Retired first, so that no change gives it a name back.
        tunnel.retire(RetireReason::Disconnected);
        registry.withdraw(&tunnel);
        // A tunnel that was retired before only drains until now.
        if !tunnel.retired().borrow().as_ref().is_some_and(RetireReason::is_immediate) {
            tunnel.lanes().iter().for_each(|lane| lane.session().close());
        }
        Ok(())
    };
    change.remove("tunnel.disconnect", &target, work).await
}
