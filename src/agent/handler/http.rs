//! HTTP exchanges: a request to the backend, its response to the visitor.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::request_log::RequestLog;
use super::visitor::Visitor;
use super::{HEAD_DEADLINE, LAST_BYTES, StreamFailure, UPGRADED_IDLE, accept, failed};
use crate::agent::backend::address_map::PublicOrigin;
use crate::agent::backend::body::{RequestBody, ResponseBody};
use crate::agent::backend::error::BackendError;
use crate::agent::backend::head_rewriter::{self, UpgradeMode};
use crate::agent::backend::local::http1::Sending;
use crate::agent::backend::local::http2::StreamSlot;
use crate::agent::backend::upgrade::PendingUpgrade;
use crate::agent::backend::{Backend, BackendResponse};
use crate::agent::routes::Route;
use crate::limits::{HeldHeads, Holder, head_memory};
use crate::link::body::{SendError, send_body};
use crate::link::copy::both_ways;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::protocol::decode::Event;
use crate::protocol::exchange::{RequestHead, ResponseHead};
use crate::protocol::frame::{Reset, Status};
use crate::protocol::media_type::is_event_stream;
use crate::protocol::preface::Preface;

/// How long the status byte waits for the first bytes of the response, to leave together with them.
const STATUS_DELAY: Duration = Duration::from_millis(5);

/// How long a backend may take to ask for a deferred body before the body is sent anyway. Many never ask.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// What an exchange is served with.
pub(super) struct Exchange<'a> {
    pub(super) route: &'a Route,
    pub(super) heads: &'a HeldHeads,
    pub(super) preface: &'a Preface,
}

impl Exchange<'_> {
    /// Carries a request to its backend, and the response back.
    pub(super) async fn serve(
        &self,
        mut reader: FrameReader,
        writer: &mut FrameWriter,
        log: &mut RequestLog,
    ) -> Result<(), StreamFailure> {
        let preface = self.preface;
        let event = tokio::time::timeout(HEAD_DEADLINE, reader.event()).await;
        let (mut pending, held) = match event {
            Ok(Ok(Event::Request(head))) => {
                log.set_request(&head);
                let memory = head_memory(&head.headers, head.target.len());
                let held = self.heads.hold(memory, || Holder::Service(preface.service.clone()));
                let held = held.map_err(|_| StreamFailure::Status(Status::TooManyStreams))?;
                accept(writer);
                (PendingRequest::new(self.route, head, reader)?, held)
            }
            Ok(Err(_)) => return Err(StreamFailure::PeerGone),
            Ok(Ok(_)) | Err(_) => {
                accept(writer);
                return Err(StreamFailure::Reset(Reset::Protocol));
            }
        };
        // Values that an await does not need are dropped before it: each of ten thousand waiting requests would hold them.
        let mut outcome = {
            let response = tokio::select! {
                biased;
                response = pending.sending.send(preface, writer) => response?,
                () = pending.visitor.disconnected() => return Err(StreamFailure::PeerGone),
            };
            pending.sending.on_response(response, preface, writer, log)?
        };
        // The request's head is no longer in memory.
        drop(held);
        match outcome {
            Outcome::Upgraded(response, _slot) => {
                let waited = pending.sending.began.elapsed();
                let idle = self.route.quiet_timeout().unwrap_or(UPGRADED_IDLE);
                Box::pin(upgrade(response, waited, pending.visitor, writer, idle, log)).await
            }
            Outcome::Body(ref mut delivery) => delivery.run(&mut pending.visitor, preface, writer, log).await,
        }
    }
}

/// A request on its way to a backend, and the visitor that waits for the response.
struct PendingRequest<'a> {
    sending: BackendRequest<'a>,
    visitor: Visitor,
}

/// A request as the backend receives it.
struct BackendRequest<'a> {
    backend: &'a Backend,
    /// When the whole head of the request had arrived. The backend is responsible for the time after that.
    began: Instant,
    request: Request<RequestBody>,
    upgrade: UpgradeMode,
    /// How long a stream may be silent.
    quiet: Option<Duration>,
    /// What the visitor asked; `None` once there is a response.
    origin: Option<PublicOrigin>,
    /// Releases the body, if the visitor waits to be asked for it.
    release_body: Option<oneshot::Sender<()>>,
}

/// What follows the head of a response.
enum Outcome<'a> {
    /// The connection is upgraded. It keeps the place of its request.
    Upgraded(Response<ResponseBody>, Option<StreamSlot>),
    /// A body. The head waits in the writer for its first bytes.
    Body(Delivery<'a>),
}

/// The rest of a response, and of its request.
struct Delivery<'a> {
    backend: &'a Backend,
    body: ResponseBody,
    /// How long it may be silent, if it is a stream and the service says so.
    quiet: Option<Duration>,
    unsent: Option<Sending>,
    _slot: Option<StreamSlot>,
}

impl<'a> PendingRequest<'a> {
    fn new(route: &'a Route, mut head: Box<RequestHead>, reader: FrameReader) -> Result<Self, StreamFailure> {
        let began = Instant::now();
        let may_upgrade = head.headers.contains_key(UPGRADE) || head.protocol.is_some();
        let mut visitor = Visitor::Reading(reader);
        let mut release_body = None;
        let body = if head.has_body {
            let body = Box::new(visitor.lend_reader()?);
            if expects_continue(&head.headers) {
                let (release, released) = oneshot::channel();
                release_body = Some(release);
                RequestBody::Deferred(released, body)
            } else {
                RequestBody::Framed(body)
            }
        } else {
            visitor.read_end(may_upgrade)?;
            RequestBody::Empty
        };
        let backend = route.choose(&mut head);
        let quiet = route.quiet_timeout();
        let head_rewriter::BackendRequest { request, upgrade, origin } =
            backend.request(head, body).map_err(StreamFailure::Reset)?;
        let sending = BackendRequest { backend, began, request, upgrade, quiet, origin, release_body };
        Ok(Self { sending, visitor })
    }
}

impl<'a> BackendRequest<'a> {
    /// Sends the request and waits for the head of the response. The status byte does not wait for it, but may travel with
    /// a quick response. A deferred body is released when the backend asks for it, or after [`CONTINUE_TIMEOUT`].
    async fn send(&mut self, preface: &Preface, writer: &mut FrameWriter) -> Result<BackendResponse, StreamFailure> {
        let Self { backend, began, request, release_body, .. } = self;
        let body_wanted = release_body.is_some().then(|| Arc::new(Notify::new()));
        let mut response = pin!(backend.send(request, preface, body_wanted.as_ref()));
        let response = match tokio::time::timeout_at(*began + STATUS_DELAY, response.as_mut()).await {
            Ok(response) => response,
            Err(_) => {
                writer.flush().await.map_err(|_| StreamFailure::PeerGone)?;
                match &body_wanted {
                    None => response.await,
                    Some(body_wanted) => tokio::select! {
                        biased;
                        response = response.as_mut() => response,
                        // Whether the backend has asked or not.
                        _ = tokio::time::timeout(CONTINUE_TIMEOUT, body_wanted.notified()) => {
                            send_continue(writer).await?;
                            release(release_body);
                            response.await
                        }
                    },
                }
            }
        };
        check_response(backend, preface, response, release_body)
    }

    /// Puts the head of the response into the writer. It leaves with the first bytes of the body.
    fn on_response(
        &mut self,
        response: BackendResponse,
        preface: &Preface,
        writer: &mut FrameWriter,
        log: &RequestLog,
    ) -> Result<Outcome<'a>, StreamFailure> {
        let BackendResponse { mut response, unsent, slot } = response;
        let origin = self.origin.take();
        let upgraded = self.backend.rewrite_response(&mut response, &self.upgrade, origin.as_ref());
        let upgraded = upgraded.map_err(|error| failed(self.backend, preface, &error))?;
        log.set_status(response.status());
        if upgraded {
            return Ok(Outcome::Upgraded(response, slot));
        }
        let quiet = self.quiet.filter(|_| may_be_silent(response.headers()));
        let put = put_head(response, self.began.elapsed(), writer);
        let (status, body) = put.map_err(|error| failed(self.backend, preface, &error))?;
        tracing::trace!(request = %preface.request_id, %status, "the backend answered");
        Ok(Outcome::Body(Delivery { backend: self.backend, body, quiet, unsent, _slot: slot }))
    }
}

/// Tells the visitor to send its body (`100 Continue`).
async fn send_continue(writer: &mut FrameWriter) -> Result<(), StreamFailure> {
    let (status, version) = (StatusCode::CONTINUE, Version::HTTP_11);
    let head = ResponseHead { status, version, headers: HeaderMap::new(), local: None, reason: None };
    head.put(writer.gather()).map_err(|_| StreamFailure::Reset(Reset::TooLarge))?;
    writer.flush().await.map_err(|_| StreamFailure::PeerGone)
}

/// Releases a deferred body.
fn release(body: &mut Option<oneshot::Sender<()>>) {
    if let Some(release) = body.take() {
        // The body is gone if the exchange is over.
        let _ = release.send(());
    }
}

/// Records whether the backend has answered, and releases a deferred body unless the response is an error.
fn check_response(
    backend: &Backend,
    preface: &Preface,
    response: Result<BackendResponse, BackendError>,
    body: &mut Option<oneshot::Sender<()>>,
) -> Result<BackendResponse, StreamFailure> {
    match response {
        Ok(response) => {
            backend.report_success(&preface.service);
            let status = response.response.status();
            // A backend that refuses the request does not want its body; others answer while they read.
            if !status.is_client_error() && !status.is_server_error() {
                release(body);
            }
            Ok(response)
        }
        Err(error) => Err(failed(backend, preface, &error)),
    }
}

impl Delivery<'_> {
    /// Carries the body of the response to the visitor, and the rest of the request to the backend.
    async fn run(
        &mut self,
        visitor: &mut Visitor,
        preface: &Preface,
        writer: &mut FrameWriter,
        log: &RequestLog,
    ) -> Result<(), StreamFailure> {
        let sent = {
            let mut sent = pin!(send_body(Pin::new(&mut self.body), writer, self.quiet, |bytes| log.add_sent(bytes)));
            loop {
                tokio::select! {
                    biased;
                    sent = sent.as_mut() => break sent,
                    () = visitor.disconnected() => return Err(StreamFailure::PeerGone),
                    () = send_rest(&mut self.unsent), if self.unsent.is_some() => {}
                }
            }
        };
        if let Err(error) = sent {
            let failure = send_failure(self.backend, error, preface);
            if let StreamFailure::Reset(reason) = failure {
                // The reset follows the data before it, unless the visitor leaves first.
                tokio::select! {
                    biased;
                    () = writer.break_off(reason) => {}
                    () = visitor.disconnected() => {}
                }
            }
            return Err(failure);
        }
        if let Some(mut sending) = self.unsent.take() {
            // The visitor has its response; the backend reads the rest of the request, or closes.
            tokio::select! {
                biased;
                () = visitor.disconnected() => {}
                () = sending.finish() => {}
            }
        }
        Ok(())
    }
}

/// Sends the rest of a request. Cancel-safe.
async fn send_rest(unsent: &mut Option<Sending>) {
    if let Some(sending) = unsent {
        sending.go_on().await;
    }
    *unsent = None;
}

/// Returns how a stream ends whose response was not sent completely.
fn send_failure(backend: &Backend, error: SendError<BackendError>, preface: &Preface) -> StreamFailure {
    match error {
        SendError::Stream(_) => StreamFailure::PeerGone,
        SendError::Trailers => failed(backend, preface, &BackendError::too_large("trailers")),
        SendError::Idle => StreamFailure::Reset(Reset::LocalBroken),
        SendError::Body(error) => {
            tracing::debug!(request = %preface.request_id, "a response is incomplete: {}", error.text);
            StreamFailure::Reset(Reset::LocalBroken)
        }
    }
}

/// Returns whether a response may be a stream of events: it has no announced length, or says that it is one.
fn may_be_silent(headers: &HeaderMap) -> bool {
    !headers.contains_key(CONTENT_LENGTH) || is_event_stream(headers)
}

/// Returns whether a request's body waits until the backend asks for it (RFC 9110, section 10.1.1).
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Carries an upgraded connection, until nothing has moved for `idle`.
async fn upgrade(
    response: Response<ResponseBody>,
    waited: Duration,
    visitor: Visitor,
    writer: &mut FrameWriter,
    idle: Duration,
    log: &RequestLog,
) -> Result<(), StreamFailure> {
    let (response, pending) = PendingUpgrade::of(response);
    put_head(response, waited, writer).map_err(|error| StreamFailure::Reset(error.reason))?;
    writer.flush().await.map_err(|_| StreamFailure::PeerGone)?;
    let Visitor::Reading(reader) = visitor else { return Err(StreamFailure::Reset(Reset::Protocol)) };
    let mut connection = pending.connection().await.map_err(|error| StreamFailure::Reset(error.reason))?;
    let writer = FrameWriter::new(writer.stream().clone());
    // The other side has been told already how the connection ended.
    if both_ways(&mut connection, reader, writer, idle, log.meter()).await.is_err() {
        connection.reset(LAST_BYTES).await;
        return Err(StreamFailure::PeerGone);
    }
    connection.ended();
    Ok(())
}

/// Puts the head of a response, for which the backend took `waited`, into the writer.
fn put_head<B>(
    response: Response<B>,
    waited: Duration,
    writer: &mut FrameWriter,
) -> Result<(StatusCode, B), BackendError> {
    let (mut head, body) = response.into_parts();
    let status = head.status;
    let reason = head.extensions.remove::<ReasonPhrase>().map(Bytes::from);
    let head = ResponseHead { status, version: head.version, headers: head.headers, local: Some(waited), reason };
    head.put(writer.gather()).map_err(|_| BackendError::too_large("head"))?;
    Ok((status, body))
}
