//! Tunnels: which agents are connected.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{ApiError, found};
use super::extract::{InPath, InQuery};
use super::page::{ClientPageQuery, Page};
use super::refusals::{Misread, NotFound, Refusals};
use super::{Admin, Peer};
use crate::server::directory::tunnel::{RetireReason, Tunnel};
use crate::server::lifecycle::Lifecycle;
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

fn view(lifecycle: &Lifecycle, tunnel: &Tunnel) -> TunnelView {
    let services: Vec<String> =
        lifecycle.directory.registry.held(tunnel).iter().map(|service| service.name().to_string()).collect();
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

fn find(lifecycle: &Lifecycle, id: &str) -> Result<Arc<Tunnel>, ApiError> {
    found("tunnel", lifecycle.directory.registry.all().into_iter().find(|tunnel| tunnel.id().to_string() == id))
}

/// The tunnels of a client, or all.
pub(crate) fn of(lifecycle: &Lifecycle, client: Option<ClientId>) -> Vec<Arc<Tunnel>> {
    client.map_or_else(|| lifecycle.directory.registry.all(), |client| lifecycle.directory.registry.tunnels_of(&client))
}

/// Lists the connected agents
#[utoipa::path(
    get, path = "/api/v1/tunnels", tag = "tunnels", operation_id = "list_tunnels", params(ClientPageQuery),
    responses((status = 200, body = Page<TunnelView>), Refusals, Misread),
)]
pub(crate) async fn list(
    State(admin): State<Arc<Admin>>,
    InQuery(query): InQuery<ClientPageQuery>,
) -> Result<Json<Page<TunnelView>>, ApiError> {
    let (page, client) = query.split()?;
    let all = of(&admin.lifecycle, client).into_iter().map(|tunnel| (tunnel.id().to_string(), tunnel)).collect();
    page.cut(all, |tunnel| Some(view(&admin.lifecycle, &tunnel))).map(Json)
}

/// Shows a connected agent
#[utoipa::path(
    get, path = "/api/v1/tunnels/{id}", tag = "tunnels", operation_id = "get_tunnel",
    params(("id" = String, Path, description = "The tunnel's id")),
    responses((status = 200, body = TunnelView), Refusals, Misread, NotFound),
)]
pub(crate) async fn get(
    State(admin): State<Arc<Admin>>,
    InPath(id): InPath<String>,
) -> Result<Json<TunnelView>, ApiError> {
    find(&admin.lifecycle, &id).map(|tunnel| Json(view(&admin.lifecycle, &tunnel)))
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
    State(admin): State<Arc<Admin>>,
    Extension(Peer(peer)): Extension<Peer>,
    InPath(on): InPath<String>,
) -> Result<StatusCode, ApiError> {
    let (id, lifecycle) = (on.clone(), Arc::clone(&admin.lifecycle));
    let work = async move {
        let tunnel = find(&lifecycle, &id)?;
        // First it serves no more: then nothing gives it a name back.
        tunnel.retire(RetireReason::Disconnected);
        lifecycle.directory.registry.withdraw(&tunnel);
        // One that was retired before only drains, until now.
        if !tunnel.retired().borrow().as_ref().is_some_and(RetireReason::is_immediate) {
            tunnel.lanes().iter().for_each(|lane| lane.session().close());
        }
        Ok(())
    };
    admin.change(peer, "tunnel.disconnect", &on, work).await?;
    Ok(StatusCode::NO_CONTENT)
}
