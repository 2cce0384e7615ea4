//! Tower services in this process that serve requests straight from a tunnel, without a local port.
//!
//! The task that serves a visitor's request calls the service, reads its response and writes that to the tunnel: the
//! service is polled only as fast as the visitor reads, and it is dropped when the visitor leaves. A panic ends one request.
//! Only a request for an upgrade goes through hyper, over a pipe in memory, because hyper alone makes upgraded connections.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::agent::backend::BackendContext;
use crate::agent::backend::body::{RequestBody, ResponseBody};
use crate::agent::backend::error::BackendError;
use crate::agent::backend::head_rewriter::HeadRewriter;
use crate::agent::backend::local::upstream_health::UpstreamHealth;
use crate::agent::options::Service;
use crate::protocol::exchange::MAX_FIELDS;
use crate::telemetry::LOCAL_LOG;
use crate::transport::whole::WholeBody;
use crate::values::Name;

/// Bytes in the pipe to an upgraded connection, in each direction.
const UPGRADE_PIPE: usize = 64 * 1024;

/// Any error of a service or of a body.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The services in this process, by the name of the tunnel's service that they serve.
pub(in crate::agent) type InProcessServices = HashMap<Name, InProcess>;

type BoxBody = UnsyncBoxBody<Bytes, BoxError>;
type BoxResponseFuture = Pin<Box<dyn Future<Output = Result<Response<BoxBody>, BoxError>> + Send>>;

/// The body of a visitor's request, as a service in this process reads it.
#[derive(Debug)]
pub struct Body(Source);

#[derive(Debug)]
enum Source {
    Tunnel {
        body: RequestBody,
        /// Notified with the first poll, if the visitor waits to be asked for the body.
        wanted: Option<Arc<Notify>>,
    },
    Upgrade(WholeBody),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Source::Tunnel { body, wanted } => {
                if let Some(wanted) = wanted.take() {
                    wanted.notify_one();
                }
                Pin::new(body).poll_frame(cx).map_err(BoxError::from)
            }
            Source::Upgrade(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Tunnel { body, .. } => body.is_end_stream(),
            Source::Upgrade(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Tunnel { body, .. } => body.size_hint(),
            Source::Upgrade(body) => body.size_hint(),
        }
    }
}

/// A tower service whose type is erased. Cloning it is cheap.
#[derive(Clone)]
pub struct InProcess(Arc<Call>);

/// Calls a service with a request.
type Call = dyn Fn(Request<Body>) -> BoxResponseFuture + Send + Sync;

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcess")
    }
}

impl InProcess {
    /// Wraps `service`, which is cloned for each request, as hyper and axum do.
    pub fn new<S, B>(service: S) -> Self
    where
        S: tower_service::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Arc::new(move |request| {
            let mut service = service.clone();
            Box::pin(async move {
                poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
                let response = service.call(request).await.map_err(Into::into)?;
                let bytes = |mut data: B::Data| data.copy_to_bytes(data.remaining());
                let body = |body: B| body.map_frame(move |frame| frame.map_data(bytes));
                Ok(response.map(|made| body(made).map_err(Into::into).boxed_unsync()))
            })
        }))
    }

    /// Calls the service and turns a panic into an error.
    async fn call(self, request: Request<Body>) -> Result<Response<BoxBody>, BoxError> {
        // The service makes its future when this is polled: a panic there counts, too.
        let response = async move { (self.0)(request).await };
        AssertUnwindSafe(response).catch_unwind().await.unwrap_or_else(|panic| Err(panicked(&*panic).into()))
    }
}

/// Returns what a panic said.
fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("without a message"))
}

/// The backend of a service in this process.
#[derive(Debug)]
pub(in crate::agent) struct InProcessBackend {
    service: InProcess,
    pub(in crate::agent) rewriter: HeadRewriter,
    /// Runs both ends of upgraded connections.
    tasks: TaskTracker,
    health: UpstreamHealth,
}

impl InProcessBackend {
    /// Returns `None` if no service is registered under the name of `service`.
    pub(in crate::agent) fn new(service: &Service, context: &BackendContext) -> Option<Self> {
        Some(Self {
            service: context.in_process.get(&service.name)?.clone(),
            rewriter: HeadRewriter::new(service, &service.local)?,
            tasks: context.tasks.clone(),
            health: UpstreamHealth::default(),
        })
    }

    /// Calls the service with a request. Notifies `body_wanted` when the service begins to read the body.
    pub(in crate::agent) async fn send(
        &self,
        request: Request<RequestBody>,
        body_wanted: Option<Arc<Notify>>,
    ) -> Result<Response<ResponseBody>, BackendError> {
        if request.headers().contains_key(UPGRADE) {
            return self.send_upgrade(request).await;
        }
        let method = request.method().clone();
        let request = request.map(|body| Body(Source::Tunnel { body, wanted: body_wanted }));
        let called = self.service.clone().call(request).await;
        frame(&method, called.map_err(|error| BackendError::exchange(&*error))?)
    }

    /// Takes the request through hyper, which makes the connection that the service may upgrade.
    async fn send_upgrade(&self, request: Request<RequestBody>) -> Result<Response<ResponseBody>, BackendError> {
        let (client, server) = tokio::io::duplex(UPGRADE_PIPE);
        let service = self.service.clone();
        let call = service_fn(move |request: Request<Incoming>| {
            service.clone().call(request.map(|body| Body(Source::Upgrade(WholeBody::http1(body)))))
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        let serving = builder.max_headers(MAX_FIELDS + 1).serve_connection(TokioIo::new(server), call);
        self.tasks.spawn(async move {
            if let Err(error) = serving.with_upgrades().await {
                tracing::debug!(%error, "a connection to a service in this process ended");
            }
        });
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await?;
        self.tasks.spawn(connection.with_upgrades());
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| ResponseBody::Hyper(WholeBody::http1(body))))
    }

    /// Records that the service has answered, and logs its recovery.
    pub(in crate::agent) fn report_success(&self, name: &Name) {
        if self.health.report_success() {
            tracing::info!(target: LOCAL_LOG, service = %name, "the service in this process answers again");
        }
    }

    /// Records that the service has failed, and logs that unless the log has it already.
    pub(in crate::agent) fn report_failure(&self, name: &Name, error: &BackendError) {
        if error.is_of_this_side() && self.health.report_failure(&error.text, Instant::now()) {
            tracing::warn!(target: LOCAL_LOG, service = %name, "the service in this process failed: {}", error.text);
        }
    }
}

/// Frames a response as an HTTP server does: HEAD and statuses without a body send none, and `Content-Length` is true.
fn frame(method: &Method, response: Response<BoxBody>) -> Result<Response<ResponseBody>, BackendError> {
    let (mut head, body) = response.into_parts();
    head.headers.remove(TRANSFER_ENCODING);
    let known = http_body::Body::size_hint(&body).exact();
    let said = match head.headers.get(CONTENT_LENGTH) {
        Some(said) => {
            let length = said.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            Some(length.ok_or_else(|| BackendError::broken("its Content-Length is no number"))?)
        }
        None => None,
    };
    let status = head.status;
    let has_none = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let (None, Some(length), false) = (said, known, has_none || (*method == Method::HEAD && known == Some(0))) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let body = if has_none || *method == Method::HEAD {
        InProcessBody { body: None, left: None }
    } else {
        InProcessBody { body: Some(body), left: said.or(known) }
    };
    Ok(Response::from_parts(head, ResponseBody::InProcess(Box::new(body))))
}

/// The body of a service's response. It ends only when it is as long as its head said.
#[derive(Debug)]
pub(in crate::agent) struct InProcessBody {
    /// `None` once it has ended.
    body: Option<BoxBody>,
    /// Bytes that are still to come, if the head said how many.
    left: Option<u64>,
}

impl InProcessBody {
    /// Drops the body: nothing follows an error.
    fn fail(&mut self, error: BackendError) -> Poll<Option<Result<Frame<Bytes>, BackendError>>> {
        self.body = None;
        Poll::Ready(Some(Err(error)))
    }
}

impl http_body::Body for InProcessBody {
    type Data = Bytes;
    type Error = BackendError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BackendError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = match catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx))) {
            Ok(polled) => ready!(polled),
            Err(panic) => return this.fail(BackendError::broken(&panicked(&*panic))),
        };
        match polled {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.map(|left| left.checked_sub(length)) {
                    Some(None) => this.fail(BackendError::broken("its body is longer than its Content-Length")),
                    Some(left) => {
                        this.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => Poll::Ready(Some(Ok(frame))),
                }
            }
            Some(Err(error)) => this.fail(BackendError::exchange(&*error)),
            None if this.left.is_some_and(|left| left > 0) => {
                this.fail(BackendError::broken("its body is shorter than its Content-Length"))
            }
            None => {
                this.body = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none_or(|left| left == 0) && self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (self.left, &self.body) {
            (Some(left), _) => SizeHint::with_exact(left),
            (None, Some(body)) => body.size_hint(),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}
