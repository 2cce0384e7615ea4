//! A visitor's connection as HTTP, and how long it is kept.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::server::http_connection::request_target::Marked;
use crate::server::http_connection::socket::HttpSocket;
use crate::server::ingress::Ingress;
use crate::server::ingress::connection::ConnectionContext;
use crate::server::ingress::entry::detach_head;
use crate::server::ingress::headers;
use crate::server::ingress::pipeline;
use crate::server::runtime::{Runtime, boxed_until_cut};
use crate::transport::streams::{self, CloseOnDrop};

/// Requests that an HTTP/2 connection may have open at once. Browsers and gRPC clients wait, or open another one.
const HTTP2_STREAMS: u32 = 256;

/// Fields of a request over HTTP/1.1. More would cost each request memory, and attackers little.
const MAX_FIELDS: usize = 160;

/// Bytes of a request's body that may be on their way unasked, for each request and for a connection: what a visitor
/// can send in a round trip.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
pub(crate) const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes of an answer that are taken from the tunnel before the connection has sent them.
pub(crate) const HTTP2_SEND_BUFFER: usize = 64 * 1024;

/// Runs the tasks of an HTTP/2 connection, one for each request, where they are counted and can be cut.
#[derive(Debug, Clone)]
struct ConnectionTasks(Arc<Ingress>);

impl<F> Executor<F> for ConnectionTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let Runtime { tasks, shutdown, .. } = &*self.0.runtime;
        tasks.visitors.spawn(boxed_until_cut(shutdown.cut.clone(), streams::run(task, streams::announced())));
    }
}

/// Serves HTTP/1.1 and 1.0, with heads of up to `head_size` bytes.
pub(crate) async fn serve_http1(context: Arc<ConnectionContext>, mut socket: HttpSocket, head_size: usize) {
    let ingress = Arc::clone(&context.ingress);
    socket.answer_unreadable(Arc::clone(&context) as _);
    let requests = socket.watch_http1();
    let service = service_fn(move |mut request| {
        let is_bad_target = requests.next_is_refused();
        // Now: before the future runs, hyper wants its buffer back to listen for the visitor's leaving.
        detach_head::detach(&mut request);
        pipeline::serve(Arc::clone(&context), request, is_bad_target)
    });
    let connection = http1::Builder::new()
        // The socket watches over both: the head, and the time before it.
        .header_read_timeout(None)
        .max_buf_size(head_size)
        .max_header_size(head_size)
        .max_headers(MAX_FIELDS)
        // The application's own date, or none: a proxy adds nothing that it can leave out.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ingress.runtime.shutdown.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "a visitor's connection ended early");
    }
}

/// Polls an HTTP/2 connection once. Notifies its requests when everything that they queued was written.
fn poll_connection<T>(
    context: &ConnectionContext,
    connection: Pin<&mut impl Future<Output = T>>,
    cx: &mut Context<'_>,
) -> Poll<T> {
    let asked = context.passes.begin(cx);
    let polled = connection.poll(cx);
    if !context.signals.close.is_full() {
        context.passes.end(asked);
    }
    polled
}

/// Serves HTTP/2, with heads of up to `head_size` bytes, to a visitor that takes something of its answers within
/// `patience`.
pub(crate) async fn serve_http2(
    context: Arc<ConnectionContext>,
    mut socket: HttpSocket,
    head_size: usize,
    patience: Duration,
) {
    let ingress = Arc::clone(&context.ingress);
    let idle = socket.announce_idle();
    let watched = Arc::clone(&context);
    let (marks, interims) = (socket.watch_http2(head_size), socket.interims());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let Marked { is_bad_target, stream } = marks.apply(&mut request);
        if let Some(stream) = stream.filter(|_| headers::expects_continue(request.headers())) {
            request.extensions_mut().insert(interims.open(stream));
        }
        pipeline::serve(Arc::clone(&context), request, is_bad_target)
    });
    let connection = http2::Builder::new(ConnectionTasks(Arc::clone(&ingress)))
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(head_size).unwrap_or(u32::MAX))
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket), service);
    let serve = async {
        let _closed = CloseOnDrop(&watched.passes);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = poll_fn(|cx| poll_connection(&watched, connection.as_mut(), cx)) => result,
            () = async { tokio::select! { () = ingress.runtime.shutdown.stop.cancelled() => {} () = idle.cancelled() => {} } } => {
                // The visitor is told which of its requests were taken, and sends others elsewhere.
                connection.as_mut().graceful_shutdown();
                poll_fn(|cx| poll_connection(&watched, connection.as_mut(), cx)).await
            }
        };
        if let Err(error) = result {
            tracing::trace!(%error, "a visitor's connection ended early");
        }
    };
    let stalled = async {
        match &watched.http2 {
            Some(http2) => http2.stall.stalled(&watched.signals.in_flight, patience).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serve => {}
        () = stalled => tracing::debug!(peer = %watched.peer, "a visitor takes nothing of what it has asked for"),
    }
}
