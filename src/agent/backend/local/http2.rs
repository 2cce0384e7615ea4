//! HTTP/2 to a local application: few connections, many requests on each.

mod connection;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::dial::{Dialler, OnBehalfOf};
use crate::agent::backend::body::RequestBody;
use crate::agent::backend::error::{BackendError, Hint};
use crate::agent::backend::local::dedicated_stream::DedicatedStream;
use crate::agent::backend::local::idle_check::IdleCheckedSocket;
use crate::agent::backend::local::replay::{ReplayableBody, connection_has_ended, is_idempotent, was_not_processed};
use crate::limits::{Permit, Permits};
use connection::{PeerSettings, SharedConnection, TrackedExecutor, drive};

/// Requests on one connection, unless the application allows fewer. With more, they wait for each other too long.
const STREAMS: usize = 100;

/// Bytes of an answer that may be on their way unread, for each request and for a connection.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// Bytes of a request's body that are taken from the tunnel before the connection has sent them.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes of a head, with 32 more for each field (RFC 9113, section 6.5.2). What is left of it without those has a limit of its
/// own, [`MAX_RESPONSE_HEAD`](crate::protocol::frame::MAX_RESPONSE_HEAD).
const HEADER_LIST: u32 = 512 * 1024;

/// How often a request is sent that the application refuses unseen. Each time others get through: it may take few
/// requests on a connection.
const ATTEMPTS: usize = 16;

/// How long the application may take to greet, and to say what it can do. It does so first of all (RFC 9113, section 3.4).
const SETTINGS: Duration = Duration::from_secs(5);

/// The connection of a stream that becomes one itself.
#[derive(Clone)]
pub(in crate::agent) struct Dedicated {
    pub(in crate::agent) stream: Arc<DedicatedStream>,
    /// Ends when nobody can send on it.
    _connection: Arc<SharedConnection>,
}

/// What keeps a request's place on its connection, until its answer has been read.
pub(in crate::agent) type StreamSlot = Permit;

/// Why a request was not answered.
pub(in crate::agent) enum SendError {
    /// The application does not speak HTTP/2. Nothing was sent.
    NotSpoken(Box<Request<RequestBody>>),
    /// It was not answered.
    Local(BackendError),
}

impl<E: Into<BackendError>> From<E> for SendError {
    fn from(error: E) -> Self {
        Self::Local(error.into())
    }
}

/// The connections of one service.
pub(super) struct Http2 {
    dialler: Dialler,
    tls: Option<Arc<ClientConfig>>,
    open: Mutex<Vec<Arc<SharedConnection>>>,
    /// Those who find no connection take turns, and use what the first of them has opened.
    dialling: tokio::sync::Mutex<()>,
    /// The application has chosen HTTP/1.1.
    not_spoken: AtomicBool,
    tasks: TaskTracker,
}

impl Http2 {
    /// Without `tls`, by prior knowledge (RFC 9113, section 3.3). Connections' tasks run on `tasks`.
    pub(super) fn new(dialler: Dialler, tls: Option<Arc<ClientConfig>>, tasks: TaskTracker) -> Self {
        let (open, dialling) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { dialler, tls, open, dialling, not_spoken: AtomicBool::new(false), tasks }
    }

    /// Sends a request, written for HTTP/1.1, and waits for the head of its answer. `body_wanted` is told when the application
    /// asks for the body.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        on_behalf_of: OnBehalfOf,
        body_wanted: Option<&Arc<Notify>>,
    ) -> Result<(Response<Incoming>, StreamSlot), SendError> {
        let mut request = match self.not_spoken.load(Ordering::Relaxed) {
            true => return Err(SendError::NotSpoken(Box::new(request))),
            false => request,
        };
        let mut retries = Retries::default();
        while retries.attempts < ATTEMPTS {
            // What becomes a connection has one of its own.
            let dedicated = request.extensions().get::<Protocol>().is_some().then(Arc::<DedicatedStream>::default);
            let Some((connection, slot)) = self.connection(on_behalf_of, dedicated.as_ref()).await? else {
                self.not_spoken.store(true, Ordering::Relaxed);
                return Err(SendError::NotSpoken(Box::new(request)));
            };
            if dedicated.is_some() && !connection.takes_extended_connect().await {
                let text = "the local application does not take WebSockets over HTTP/2 (RFC 8441)";
                return Err(SendError::Local(BackendError::broken(text)));
            }
            let (head, body) = rewrite(request, self.tls.is_some())?.into_parts();
            let (body, recall) = ReplayableBody::new(body);
            let mut sent = Request::from_parts(head.clone(), body);
            if let Some(body_wanted) = body_wanted {
                tell_when_asked(&mut sent, Arc::clone(body_wanted));
            }
            match connection.sender.clone().try_send_request(sent).await {
                Ok(mut response) => {
                    connection.has_answered.store(true, Ordering::Relaxed);
                    if let Some(dedicated) = dedicated {
                        response.extensions_mut().insert(Dedicated { stream: dedicated, _connection: connection });
                        return Ok((response, slot));
                    }
                    // By now it has said how many it takes.
                    connection.ask.notify_one();
                    return Ok((response, slot));
                }
                Err(error) => {
                    let may_send_again = retries.allow(&error, &connection, &head.method);
                    match recall.take().filter(|_| may_send_again) {
                        Some(body) => request = Request::from_parts(head, body),
                        None if connection.settings.ended_silently.load(Ordering::Acquire) => {
                            return Err(no_http2().into());
                        }
                        None => return Err(error.into_error().into()),
                    }
                }
            }
        }
        Err(SendError::Local(BackendError::broken("it refuses every request")))
    }

    /// A connection with room on it; `None` if the application speaks HTTP/1.1.
    async fn connection(
        &self,
        on_behalf_of: OnBehalfOf,
        dedicated: Option<&Arc<DedicatedStream>>,
    ) -> Result<Option<(Arc<SharedConnection>, StreamSlot)>, BackendError> {
        if self.dialler.tells_the_visitor() {
            return self.connect(Some(on_behalf_of), dedicated).await;
        }
        if dedicated.is_some() {
            return self.connect(None, dedicated).await;
        }
        if let Some(found) = self.find() {
            return Ok(Some(found));
        }
        let _turn = self.dialling.lock().await;
        if let Some(found) = self.find() {
            return Ok(Some(found));
        }
        let connected = self.connect(None, None).await?;
        if let Some((connection, _)) = &connected {
            self.open.lock().push(Arc::clone(connection));
        }
        Ok(connected)
    }

    fn find(&self) -> Option<(Arc<SharedConnection>, StreamSlot)> {
        let mut open = self.open.lock();
        open.retain(|connection| connection.is_usable());
        let found = open.iter().find_map(|connection| Some((Arc::clone(connection), connection.slot()?)));
        // Of those that nobody uses, one is enough.
        let mut idle = 0;
        open.retain(|connection| {
            idle += usize::from(connection.permits.in_use() == 0);
            connection.permits.in_use() > 0 || idle <= 1
        });
        found
    }

    async fn connect(
        &self,
        on_behalf_of: Option<OnBehalfOf>,
        dedicated: Option<&Arc<DedicatedStream>>,
    ) -> Result<Option<(Arc<SharedConnection>, StreamSlot)>, BackendError> {
        let dialled = match &self.tls {
            Some(tls) => self.dialler.dial_tls(on_behalf_of, tls).await,
            None => self.dialler.dial(on_behalf_of).await,
        };
        let stream = dialled.map_err(|error| BackendError::dial(&error))?;
        if self.tls.is_some() && !stream.speaks_http2() {
            return Ok(None);
        }
        let handshake =
            http2::Builder::new(TrackedExecutor { tasks: self.tasks.clone(), dedicated: dedicated.cloned() })
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(HEADER_LIST)
                // Nothing is sent before the application has said how much it takes: it would refuse what is too much.
                .initial_max_send_streams(0)
                .handshake(TokioIo::new(IdleCheckedSocket::new(stream, dedicated.cloned())));
        let handshake = timeout(SETTINGS, handshake).await;
        let (sender, connection) = handshake.map_err(|_| no_http2())??;
        let (settings, ask) = (Arc::new(PeerSettings::default()), Arc::new(Notify::new()));
        self.tasks.spawn(drive(connection, Arc::clone(&settings), Arc::clone(&ask)));
        let connection = SharedConnection {
            sender,
            permits: Permits::new(STREAMS),
            settings,
            ask,
            is_ending: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            expiry: self.dialler.expiry(),
        };
        let slot = connection.slot().ok_or_else(|| BackendError::broken("it takes no requests"))?;
        Ok(Some((Arc::new(connection), slot)))
    }
}

/// The attempts to send one request.
#[derive(Default)]
struct Retries {
    attempts: usize,
    /// A connection that had answered before has ended while it carried the request.
    was_lost: bool,
}

impl Retries {
    /// Returns whether a request that failed on `connection` may be sent once more, on another one.
    fn allow(
        &mut self,
        error: &TrySendError<Request<ReplayableBody>>,
        connection: &SharedConnection,
        method: &Method,
    ) -> bool {
        self.attempts += 1;
        // Nothing of it was sent, or nothing was done with it.
        let was_not_processed = error.message().is_some() || was_not_processed(error.error());
        // The application may have closed the connection while the request was on its way.
        let was_lost = !self.was_lost
            && connection.has_answered.load(Ordering::Relaxed)
            && is_idempotent(method)
            && connection_has_ended(error.error());
        self.was_lost |= was_lost;
        connection.is_ending.fetch_or(was_not_processed || was_lost, Ordering::Relaxed);
        (was_not_processed && self.attempts < ATTEMPTS) || was_lost
    }
}

fn no_http2() -> BackendError {
    BackendError::broken("it does not speak HTTP/2").with(Hint::SpeaksNoHttp2)
}

fn tell_when_asked(request: &mut Request<ReplayableBody>, body_wanted: Arc<Notify>) {
    hyper::ext::on_informational(request, move |interim| {
        if interim.status() == StatusCode::CONTINUE {
            body_wanted.notify_one();
        }
    });
}

/// The same request in the words of HTTP/2: what it is for stands in the target (RFC 9113, section 8.3.1), and there are no
/// fields of the connection.
fn rewrite(mut request: Request<RequestBody>, over_tls: bool) -> Result<Request<RequestBody>, BackendError> {
    let headers = request.headers_mut();
    let host = headers.remove(HOST);
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = host {
        let authority = Authority::try_from(host.as_bytes());
        uri.authority = Some(authority.map_err(|_| BackendError::broken("the host is none for HTTP/2"))?);
    }
    uri.scheme = Some(if over_tls { Scheme::HTTPS } else { Scheme::HTTP });
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| BackendError::broken("the target is none for HTTP/2"))?;
    *request.version_mut() = Version::HTTP_2;
    Ok(request)
}
