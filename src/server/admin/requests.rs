//! The endpoints for in-flight requests.

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
use crate::server::ingress::observe::live_requests::{LiveRequest, LiveRequests};
use crate::values::RequestId;

/// A request, or a connection, that is being served.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Request)]
pub(crate) struct RequestView {
    /// What the application got as `X-Request-ID`, unless the visitor brought one along.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    id: String,
    client: String,
    /// The name of the service.
    name: String,
    /// The method of a request; `tcp` or `tls` for a connection.
    method: String,
    /// Without the query. Empty for a connection.
    path: String,
    visitor: String,
    #[schema(format = DateTime)]
    started: String,
    /// Of the answer, once it is known.
    status: Option<u16>,
    /// Bytes of bodies that came from the visitor.
    received: u64,
    /// Bytes of bodies that went to the visitor.
    sent: u64,
}

impl From<LiveRequest> for RequestView {
    fn from(request: LiveRequest) -> Self {
        Self {
            id: request.id.to_string(),
            client: request.client.to_string(),
            name: request.name.to_string(),
            method: request.method,
            path: request.path,
            visitor: request.visitor.to_string(),
            started: request.started.to_string(),
            status: request.status.map(|status| status.as_u16()),
            received: request.received,
            sent: request.sent,
        }
    }
}

/// Lists what visitors have open
///
/// Upgraded connections (WebSocket) and connections to `tcp` and `tls` services are among them.
#[utoipa::path(
    get, path = "/api/v1/requests", tag = "requests", operation_id = "list_requests", params(ClientPageQuery),
    responses((status = 200, body = Page<RequestView>), Refusals, Misread),
)]
pub(crate) async fn list(
    State(live): State<Arc<LiveRequests>>,
    InQuery(query): InQuery<ClientPageQuery>,
) -> Result<Json<Page<RequestView>>, ApiError> {
    let (page, client) = query.split()?;
    let ids = live.ids(|whose| client.as_ref().is_none_or(|client| client == whose));
    page.page(ids, RequestId::to_string, |id| live.get(id).map(RequestView::from))
}

/// Cuts a request
///
/// The application sees it reset, the visitor an answer that breaks off, or a failure if none had begun.
#[utoipa::path(
    delete, path = "/api/v1/requests/{id}", tag = "requests", operation_id = "cut_request",
    params(("id" = String, Path, description = "The request's id")),
    responses((status = 204), Refusals, Misread, NotFound),
)]
pub(crate) async fn cut(
    change: Change,
    State(live): State<Arc<LiveRequests>>,
    InPath(id): InPath<String>,
) -> Result<StatusCode, ApiError> {
    let target = id.clone();
    let work = async move {
        let cut = id.parse::<RequestId>().is_ok_and(|id| live.cut(id));
        found("request", cut.then_some(()))
    };
    change.remove("request.cut", &target, work).await
}
