//! The admin port: health and metrics, the on-demand TLS check for reverse proxies, and the API for the operator's tools.
//!
//! | module | what |
//! | --- | --- |
//! | `guard` | authenticates requests |
//! | `api` | the list of endpoints and their description (OpenAPI) |
//! | `health`, `on_demand_tls` | the endpoints for monitoring and for reverse proxies |
//! | `clients`, `invites`, `tunnels`, `services`, `requests`, `reload`, `log` | the API |
//! | `components` | what handlers ask for: each receives only the components that it uses |
//! | `client_editor` | changes to the list of clients |
//! | `change` | the one way to change something: in a task of its own, with a line in the audit log |
//! | `page` | lists in pages |
//! | `extract`, `error`, `refusals` | reads requests; the one place for errors, and their description |
//! | `connections` | limits connections |

mod api;
mod change;
mod client_editor;
mod clients;
mod components;
mod connections;
mod error;
mod extract;
mod guard;
mod health;
mod invites;
mod log;
mod metrics_page;
mod on_demand_tls;
mod page;
mod refusals;
mod reload_clients;
mod requests;
mod services;
mod tunnels;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Request;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower_service::Service as _;

use crate::auth::{AdminToken, PROOF_FIELD};
use crate::limits::Permits;
use crate::server::http_connection::maybe_tls::MaybeTlsStream;
use crate::server::http_connection::socket::{ConnectionSignals, HttpSocket};
use crate::server::lifecycle::Lifecycle;
use crate::server::runtime::until_cut;
use crate::telemetry::LogLevel;
use crate::values::{Fingerprint, RequestId};
use connections::{Connection, Connections};
use error::ApiError;

/// Maximum number of concurrent changes. They wait for each other at the clients file.
const CHANGES: usize = 16;

/// Maximum size of a request's head and body in bytes.
const HEAD: usize = 32 * 1024;
const BODY: usize = 64 * 1024;

/// Maximum number of concurrent `port_busy` responses, and how long one may take.
const REFUSALS: usize = 16;
const REFUSAL: Duration = Duration::from_secs(1);

/// The timeout from the head of a request to its response.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// What all requests to the admin port share.
pub(crate) struct Admin {
    lifecycle: Arc<Lifecycle>,
    token: AdminToken,
    /// The fingerprint that invitations pin; `None` if the certificate is not issued by the local CA and may change.
    pin: Option<Fingerprint>,
    /// Changes what is logged, if that is possible.
    log: Option<LogLevel>,
    connections: Arc<Connections>,
    refusals: Permits,
    changes: Permits,
    started: Instant,
    /// The encoded description of the API.
    description: OnceLock<Bytes>,
}

/// The address that a request comes from.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

impl Admin {
    /// Creates the state of the admin port.
    pub(crate) fn new(
        lifecycle: &Arc<Lifecycle>,
        token: AdminToken,
        pin: Option<Fingerprint>,
        log: Option<LogLevel>,
    ) -> Arc<Self> {
        Arc::new(Self {
            lifecycle: Arc::clone(lifecycle),
            token,
            pin,
            log,
            connections: Connections::new(),
            refusals: Permits::new(REFUSALS),
            changes: Permits::new(CHANGES),
            started: Instant::now(),
            description: OnceLock::new(),
        })
    }

    /// Returns the handler for accepted connections. It does not wait.
    pub(crate) fn acceptor(self: &Arc<Self>) -> impl FnMut(TcpStream, SocketAddr) + use<> {
        let admin = Arc::clone(self);
        let router = api::router(&admin);
        move |socket, peer| {
            let (tasks, cut) =
                (admin.lifecycle.runtime.tasks.all.clone(), admin.lifecycle.runtime.shutdown.cut.clone());
            let Ok(connection) = admin.connections.admit(peer) else {
                if let Some(permit) = admin.refusals.try_acquire() {
                    tasks.spawn(until_cut(cut, async move {
                        let _permit = permit;
                        let _ = tokio::time::timeout(REFUSAL, refuse(socket)).await;
                    }));
                }
                return;
            };
            let (admin, router) = (Arc::clone(&admin), router.clone());
            tasks.spawn(until_cut(cut, admin.serve(router, socket, peer, connection)));
        }
    }

    /// Serves one connection, with the timeouts of a visitor's.
    async fn serve(self: Arc<Self>, router: axum::Router, socket: TcpStream, peer: SocketAddr, place: Connection) {
        let (local, place) = (socket.local_addr().ok(), Arc::new(place));
        let (lifecycle, signals) = (Arc::clone(&self.lifecycle), ConnectionSignals::default());
        let timeouts = lifecycle.settings().config.timeouts;
        let (turns, unread) = (signals.in_flight.clone(), signals.unread.clone());
        let socket = HttpSocket::new(MaybeTlsStream::Plain(Bytes::new(), socket), signals, &timeouts);
        let held = Arc::clone(&place);
        let service = service_fn(move |request: Request<Incoming>| {
            let in_flight = held.begin(self.shows_token(&request));
            let (admin, router, turn) = (Arc::clone(&self), router.clone(), turns.begin());
            let (unread, id) = (unread.clone(), RequestId::next());
            unread.begin(id, !request.body().is_end_stream());
            async move {
                let (_turn, _in_flight) = (turn, in_flight);
                let response = admin.respond(router, request, peer, local).await;
                // The body of a refused request may be unread.
                if response.status().is_success() {
                    unread.read(id);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.head + timeouts.keep_alive)
            .max_buf_size(HEAD)
            .max_header_size(HEAD)
            .serve_connection(TokioIo::new(socket), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = lifecycle.runtime.shutdown.drained.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = place.has_to_close() => {
                // A request that has just begun is answered.
                if !place.is_busy() {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::trace!(%error, %peer, "a connection to the admin listener ended early");
        }
    }

    /// Responds to a request; `local` is the address that the connection arrived at.
    async fn respond(
        &self,
        mut router: axum::Router,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Response {
        let proof = local.and_then(|local| self.proof(&request, local));
        let mut response = match self.admit(peer.ip(), &request) {
            Err(refused) => refused.into_response(),
            Ok(()) => {
                request.extensions_mut().insert(Peer(peer));
                match tokio::time::timeout(REQUEST_DEADLINE, router.call(request)).await {
                    Ok(Ok(response)) => response,
                    Err(_) => ApiError::timeout().into_response(),
                }
            }
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.extend(proof.map(|proof| (HeaderName::from_static(PROOF_FIELD), proof)));
        response
    }
}

/// Sends the `port_busy` response, and waits until the caller has read it.
async fn refuse(mut socket: TcpStream) -> io::Result<()> {
    let body = format!(
        "{{\"error\":\"port_busy\",\"message\":\"the admin port is busy: all of its {} connections are in use; try again in a \
         second\"}}",
        connections::CONNECTIONS
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\nRetry-After: 1\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await?;
    // Closing the socket with an unread request in it would send a reset and discard the response.
    let mut scratch = [0; 1024];
    while socket.read(&mut scratch).await? > 0 {}
    Ok(())
}
