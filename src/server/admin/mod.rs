//! The operator's door: health, what proxies ask before they get a certificate, and the API for the operator's tools.
//!
//! `guard` decides who may come in, `api` is the list of pages and their description (OpenAPI), `health` and `ask` are
//! the pages for programs that watch or stand in front, `clients`, `invites`, `tunnels`, `services` and `requests` are
//! the API, `reload` reads the clients file again, `log` is what is logged, `page` cuts lists into pieces, `extract` reads
//! what is asked, `answer` is the one place for refusals (`refusals` describes them), `connections` says who makes room when
//! all connections are taken, and `change` the one way to change something: in a task of its own,
//! with a line in the log.

mod answer;
mod api;
mod change;
mod clients;
mod connections;
mod extract;
mod guard;
mod health;
mod invites;
mod log;
mod metrics_page;
mod on_demand_tls;
mod page;
mod refusals;
mod reload;
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
use crate::server::ingress::entry::ending::Ending;
use crate::server::ingress::entry::lingering_close::Unread;
use crate::server::ingress::entry::visitor_socket::{Turns, VisitorSocket};
use crate::server::ingress::entry::wire::Wire;
use crate::server::lifecycle::Lifecycle;
use crate::server::runtime::until_cut;
use crate::telemetry::LogLevel;
use crate::values::{Fingerprint, RequestId};
use answer::ApiError;
use connections::{Connection, Connections};

/// Changes at once. They take turns at the clients file.
const CHANGES: usize = 16;

/// Bytes of a request's head, and of its body.
const HEAD: usize = 32 * 1024;
const BODY: usize = 64 * 1024;

/// How many callers are told at once that the port is busy, and how long that may take.
const REFUSALS: usize = 16;
const REFUSAL: Duration = Duration::from_secs(1);

/// From the head of a request to its answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// What all requests of the operator share.
pub(crate) struct Admin {
    lifecycle: Arc<Lifecycle>,
    token: AdminToken,
    /// By what key invitations pin this server; `None` if it is not of the server's own making and may change.
    pin: Option<Fingerprint>,
    /// What is logged, if that can be changed.
    log: Option<LogLevel>,
    connections: Arc<Connections>,
    refusals: Permits,
    changes: Permits,
    started: Instant,
    /// The description of the API, as it is sent.
    description: OnceLock<Bytes>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

impl Admin {
    /// Ready to serve.
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

    /// Takes connections in, each for `accept_loop` to hand over; does not wait.
    pub(crate) fn door(self: &Arc<Self>) -> impl FnMut(TcpStream, SocketAddr) + use<> {
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
            tasks.spawn(until_cut(cut, admin.serve(router, socket, (peer, Arc::new(connection)))));
        }
    }

    /// Serves one connection, with the deadlines of a visitor's.
    async fn serve(
        self: Arc<Self>,
        router: axum::Router,
        socket: TcpStream,
        (peer, place): (SocketAddr, Arc<Connection>),
    ) {
        let arrived = socket.local_addr().ok();
        let (lifecycle, turns, unread) = (Arc::clone(&self.lifecycle), Turns::default(), Unread::default());
        let timeouts = lifecycle.settings().config.timeouts;
        let signs = (Arc::new(Ending::default()), turns.clone(), unread.clone());
        let socket = VisitorSocket::new(Wire::Plain(Bytes::new(), socket), signs, &timeouts);
        let held = Arc::clone(&place);
        let service = service_fn(move |request: Request<Incoming>| {
            let under_way = held.begin(self.shows_token(&request));
            let (admin, router, turn) = (Arc::clone(&self), router.clone(), turns.begin());
            let (unread, id) = (unread.clone(), RequestId::next());
            unread.begin(id, !request.body().is_end_stream());
            async move {
                let (_turn, _under_way) = (turn, under_way);
                let response = admin.answer(router, request, (peer, arrived)).await;
                // Whoever is refused may not have been heard out.
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
            () = place.has_to_leave() => {
                // What has begun just now is answered.
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

    async fn answer(
        &self,
        mut router: axum::Router,
        mut request: Request<Incoming>,
        (peer, arrived): (SocketAddr, Option<SocketAddr>),
    ) -> Response {
        let proof = arrived.and_then(|arrived| self.proof(&request, arrived));
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
