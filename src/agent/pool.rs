//! Connections to the local application, kept and used again.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioTimer;
use tokio_util::task::TaskTracker;

use crate::protocol::frame::Reset;
use crate::transport::body::{BodyError, FrameBody};

/// Idle connections kept for each local address: as many as requests may run at once. With fewer, each wave of
/// visitors beyond that number pays for new connections (at 256 visitors a request then cost a third more).
const IDLE_CONNECTIONS: usize = 1024;

/// How long an idle connection is kept. Node.js, uvicorn and Apache close theirs after 5 s: a request that is sent at that
/// moment would be lost.
const IDLE_TIME: Duration = Duration::from_secs(4);

/// The body of a request on its way to the local application.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// The request has none.
    Empty,
    /// What comes over the stream.
    Framed(Box<FrameBody>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Framed(body) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Framed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Empty => http_body::SizeHint::with_exact(0),
            Self::Framed(body) => body.size_hint(),
        }
    }
}

/// Runs the connections' tasks where they can be counted and awaited.
#[derive(Debug, Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The pool. A request on a connection that turns out to be closed is sent again on another one, if nothing of it had
/// been sent.
#[derive(Debug)]
pub(super) struct Pool {
    client: Client<HttpConnector, RequestBody>,
}

impl Pool {
    /// A pool whose connections' tasks run on `tasks`, and that gives an application `connect_timeout` to accept.
    pub(super) fn new(tasks: TaskTracker, connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        let client = Client::builder(Tracked(tasks))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .set_host(false)
            .build(connector);
        Self { client }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn request(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, ClientError> {
        self.client.request(request).await
    }
}

/// What a failed request means to the visitor.
pub(super) fn reason(error: &ClientError) -> Reset {
    let mut timed_out = false;
    let mut cause = Some(error as &dyn Error);
    while let Some(error) = cause {
        if error.is::<BodyError>() {
            return Reset::Cancelled;
        }
        timed_out |= error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
        cause = error.source();
    }
    match (error.is_connect(), timed_out) {
        (true, true) => Reset::LocalTimeout,
        (true, false) => Reset::LocalUnreachable,
        (false, _) => Reset::LocalBroken,
    }
}
