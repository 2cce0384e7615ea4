//! Pages for programs that watch: is the server well, and does it take visitors?

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use super::components::Started;
use super::error::{ApiError, ErrorView};
use super::refusals::Refusals;
use crate::server::admin::metrics_page;
use crate::server::lifecycle::Lifecycle;
use crate::server::runtime::Shutdown;
use crate::telemetry::LogState;

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub(crate) struct HealthView {
    /// `degraded`: it serves, but not all of it is as the operator wants it; `problems` says what.
    status: Health,
    /// Of the program.
    version: &'static str,
    /// Seconds since it started.
    uptime_s: u64,
    /// Connected agents; those that drain and those that are just coming are counted, too.
    tunnels: usize,
    /// Clients that are listed.
    clients: usize,
    /// What is not as it should be.
    problems: Vec<String>,
}

/// How the server is, in a word.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = HealthStatus)]
pub(crate) enum Health {
    Ok,
    Degraded,
}

/// Whether the server takes visitors and agents.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Ready)]
pub(crate) struct ReadyView {
    /// `draining`: it is shutting down.
    status: Readiness,
}

/// Whether the server takes visitors and agents, in a word.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Readiness)]
pub(crate) enum Readiness {
    Ready,
    Draining,
}

/// How the server is
///
/// Always 200 while it can answer. `degraded`: the clients file or the certificates on the disk cannot be used, and what
/// they said before counts; the latest reload was refused; lines of the log were lost within the last ten minutes; or its
/// file cannot make room for another one.
#[utoipa::path(
    get, path = "/healthz", tag = "watching", operation_id = "health", security((), ("bearer" = [])),
    params(("X-Adit-Nonce" = Option<String>, Header, description = "64 hexadecimal digits, chosen at random. \
        Whatever else it is asks for nothing.")),
    responses(
        (status = 200, body = HealthView, headers(("X-Adit-Proof" = String, description = "Only if there was a nonce: \
            HMAC-SHA256 with the admin token as its key, in hexadecimal digits, over `adit-admin-proof-1`, a zero byte, \
            the 32 bytes of the nonce and the address and port at which the connection arrived, such as \
            `127.0.0.1:9091`. Whoever asks learns by it whether this server knows the token before showing it. \
            Refusals have it, too."))),
        Refusals,
    ),
)]
pub(crate) async fn health(
    State(lifecycle): State<Arc<Lifecycle>>,
    State(Started(started)): State<Started>,
) -> Json<HealthView> {
    let problems = problems(&lifecycle);
    Json(HealthView {
        status: if problems.is_empty() { Health::Ok } else { Health::Degraded },
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: started.elapsed().as_secs(),
        tunnels: lifecycle.directory.registry.len(),
        clients: lifecycle.directory.clients.len(),
        problems,
    })
}

/// A line for each. What is wrong now comes before what a reload has found: that may have been mended since.
fn problems(lifecycle: &Lifecycle) -> Vec<String> {
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let clients = lifecycle.agents.client_store.problems().map(|problems| problems.to_string());
    let certificates = lifecycle.certificates.problems().into_iter().map(|problem| problem.to_string());
    let mut problems: Vec<String> = clients.into_iter().chain(certificates).flat_map(lines).collect();
    problems.extend(lifecycle.log.get().map(LogState::problems).unwrap_or_default());
    let refused = lifecycle.refused_reload.lock().as_ref().map(ToString::to_string);
    problems.extend(refused.into_iter().flat_map(lines).map(|line| format!("the latest reload was refused: {line}")));
    problems
}

/// Whether the server takes visitors and agents
///
/// 503 from the moment it is told to stop. It answers so on connections that are open then; the admin port takes no new ones,
/// so that a successor can have it.
#[utoipa::path(
    get, path = "/readyz", tag = "watching", operation_id = "ready", security((), ("bearer" = [])),
    responses((status = 200, body = ReadyView), (status = 503, body = ReadyView), Refusals),
)]
pub(crate) async fn ready(State(Shutdown { stop, .. }): State<Shutdown>) -> (StatusCode, Json<ReadyView>) {
    match stop.is_cancelled() {
        false => (StatusCode::OK, Json(ReadyView { status: Readiness::Ready })),
        true => (StatusCode::SERVICE_UNAVAILABLE, Json(ReadyView { status: Readiness::Draining })),
    }
}

/// What the server counts
///
/// For Prometheus, in its text format.
#[utoipa::path(
    get, path = "/metrics", tag = "watching", operation_id = "metrics", security((), ("bearer" = [])),
    responses(
        (status = 200, body = String, content_type = "text/plain; version=0.0.4; charset=utf-8"),
        (status = 500, body = ErrorView),
        Refusals,
    ),
)]
pub(crate) async fn metrics(State(lifecycle): State<Arc<Lifecycle>>) -> Result<Response, ApiError> {
    // It asks the system and walks all tunnels: visitors' requests do not wait for that.
    let page = tokio::task::spawn_blocking(move || metrics_page::page(&lifecycle)).await;
    let page = page.map_err(|error| ApiError::failed(&error))?;
    let (text, kind) = page.map_err(|error| ApiError::failed(&error))?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response())
}
