//! An exchange, as the server sees it: a request goes into a fresh stream, its answer comes back.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::Visit;
use super::answer::{Failure, is_grpc};
use super::body::RequestBody;
use super::course::Course;
use super::forwarded::{Delimited, ForwardedBody, Held};
use super::headers::{self, Forwarding};
use super::ledger::{About, Asked, Entry, Path};
use super::request::Reached;
use crate::protocol::WireError;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::exchange::{RequestHead, ResponseHead, Scheme};
use crate::protocol::frame::{self, Reset, Status};
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use crate::routing::{self, RoutingMode};
use crate::server::service::Offered;
use crate::server::settings::Settings;
use crate::server::until_cut;
use crate::telemetry::RequestSpan;
use crate::transport::body::{FrameBody, SendError, send_body};
use crate::transport::copy::{Way, both_ways};
use crate::transport::framed::{FrameReader, FrameWriter};
use crate::transport::mux::MuxStream;
use crate::values::{Name, RequestId};

/// The largest head of an answer, in bytes as it crosses the stream.
const MAX_RESPONSE_HEAD: usize = 128 * 1024;

/// How long a request that waits to be asked for its body (`Expect: 100-continue`) is held back. The agent asks sooner;
/// an application may do without asking (RFC 9110, section 10.1.1).
const ASKED_FOR: Duration = Duration::from_secs(5);

/// How often an upload that does not come on looks whether anybody still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Where a request goes, and on whose behalf.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) offered: Arc<Offered>,
    pub(super) mode: RoutingMode,
    pub(super) authority: Option<Bytes>,
    pub(super) visitor: std::net::IpAddr,
    pub(super) scheme: Scheme,
    pub(super) request_id: RequestId,
}

impl Target {
    /// The name that was taken off the path, if it was.
    fn prefix(&self) -> Option<&Name> {
        (self.mode == RoutingMode::Path).then_some(self.name())
    }

    /// The name of the service.
    fn name(&self) -> &Name {
        self.offered.service.name()
    }
}

/// Takes a request to its agent and brings the answer back, its body still on the way.
pub(super) async fn forward(
    (visit, settings): (&Arc<Visit>, &Settings),
    target: Target,
    request: &mut Request<RequestBody>,
    (reached, span): (&mut Reached, &mut RequestSpan),
) -> Result<Response<ForwardedBody>, Failure> {
    let shared = &visit.shared;
    let address = visit.stream(settings)?;
    let server = shared.streams.try_acquire().ok_or(Failure::TunnelBusy)?;
    let turn = visit.turns.begin();
    let entry = Entry::open(
        About {
            request_id: target.request_id,
            visitor: target.visitor,
            meter: Arc::clone(target.offered.service.meter()),
            asked: Asked::Request(request.method().clone(), Path::of(request.uri(), settings.config.log.query)),
            span: std::mem::take(span),
        },
        (server, address, Some(turn), shared.exchanges.token()),
        &shared.live,
    );
    *reached = Reached::Ledger;
    exchange((visit, settings), &target, request, &entry).await.inspect_err(|failure| {
        entry.fail(failure.clone());
        entry.status(failure.status());
    })
}

async fn exchange(
    (visit, settings): (&Arc<Visit>, &Settings),
    target: &Target,
    request: &mut Request<RequestBody>,
    entry: &Arc<Entry>,
) -> Result<Response<ForwardedBody>, Failure> {
    let shared = &visit.shared;
    let timeouts = &settings.config.timeouts;
    let asked = (request.method().clone(), request.version());
    let has_body = !request.body().is_end_stream();
    // The caller of a gRPC stream may have nothing to say for long.
    let upload_idle = if is_grpc(request.headers()) { timeouts.quiet_stream } else { timeouts.idle };
    let waits = has_body && asked.1 == Version::HTTP_11 && headers::expects_continue(request.headers());
    let upgrade = rewrite((visit, settings), target, request, has_body);
    entry.about().span.pass_on(request.headers_mut());
    let protocol = request.extensions_mut().remove::<Protocol>();
    let first = opening(visit, target, request, has_body, (upgrade.is_some(), protocol.as_ref()))?;
    let mut course = Course::new(&target.offered, timeouts.head);
    let (mut stream, mut reader) = begin(visit, &mut course, &first, entry).await?;
    let writer = FrameWriter::new(stream.0.clone());
    let (mut sending, mut asks) = (None, None);
    let writer = if has_body {
        let (sender, sent) = oneshot::channel();
        sending = Some(sent);
        let asked_for = waits.then(|| {
            let (sender, receiver) = oneshot::channel();
            asks = Some(sender);
            receiver
        });
        let upload = upload(request.body_mut().take(), asked_for, writer, upload_idle, Arc::clone(entry), sender);
        let (unread, request_id) = (visit.unread.clone(), target.request_id);
        let upload = async move {
            if upload.await {
                unread.read(request_id);
            }
        };
        shared.visits.spawn(until_cut(shared.cut.clone(), upload));
        None
    } else {
        if upgrade.is_none() {
            stream.0.write_ended();
        }
        upgrade.is_some().then_some(writer)
    };
    // All of such a request is in `first`.
    let is_short = !has_body && upgrade.is_none();
    let head = loop {
        match answered(response_head(&mut reader, asks.take()), sending.take(), timeouts.response_head).await {
            Ok(head) => break head,
            Err(failure) if is_short && !entry.is_cut() && course.may_go_on(shared, &failure, &asked.0) => {
                (stream, reader) = begin(visit, &mut course, &first, entry).await?;
                stream.0.write_ended();
            }
            Err(failure) => return Err(entry.failure().unwrap_or(failure)),
        }
    };
    entry.answered(head.status);
    let (mut head, agreed) = strip(head);
    if let Some(name) = target.prefix() {
        headers::add_prefix(&mut head.headers, name, target.authority.as_deref());
    }
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS || (protocol.is_some() && head.status.is_success());
    match (switches, writer) {
        (true, Some(writer)) => {
            let Some(visitor) = upgrade else { return Err(Failure::LocalBroken) };
            match (head.status, agreed) {
                (StatusCode::SWITCHING_PROTOCOLS, Some(agreed)) if protocol.is_none() => {
                    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                    head.headers.insert(UPGRADE, agreed);
                }
                // HTTP/2 has no 101 (RFC 8441, section 5).
                (StatusCode::SWITCHING_PROTOCOLS, _) => return Err(Failure::LocalBroken),
                _ => {}
            }
            // Over HTTP/2 others share the connection.
            let cut = (asked.1 != Version::HTTP_2).then(|| Arc::clone(&visit.cut));
            let (entry, quiet) = (Arc::clone(entry), timeouts.quiet_stream);
            let exchange = Upgraded { reader, writer, stream, entry, quiet, cut };
            shared.visits.spawn(until_cut(shared.cut.clone(), exchange.run(visitor)));
            return Ok(response(head, ForwardedBody::empty()));
        }
        (true, None) => return Err(Failure::LocalBroken),
        // The application does not upgrade: then this was the whole request. An agent that has answered it whole does
        // not wait to hear so.
        (false, Some(mut writer)) => drop(writer.end().await),
        (false, None) => {}
    }
    let idle = if is_quiet(&head.headers) { timeouts.quiet_stream } else { timeouts.idle };
    let (body, delimited) = (FrameBody::new(reader, Some(idle)), delimited(&head, &asked));
    if delimited == Delimited::Close {
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let body = ForwardedBody::new(body, delimited, Arc::clone(entry), Arc::clone(visit), stream);
    Ok(response(head, body))
}

/// Opens a stream for a request whose beginning is `first`. Leaving early cuts the stream.
async fn begin(
    visit: &Visit,
    course: &mut Course,
    first: &[u8],
    entry: &Entry,
) -> Result<(Held, FrameReader), Failure> {
    entry.let_go();
    let (stream, permit) = course.open(&visit.shared, first).await?;
    entry.hold(&stream, permit);
    let stream = Held(stream);
    let reader = FrameReader::new(stream.0.clone(), Decoder::response(MAX_RESPONSE_HEAD));
    Ok((stream, reader))
}

/// Waits for the head of the answer. Its deadline counts from when the whole request is on its way.
async fn answered(
    head: impl Future<Output = Result<ResponseHead, Failure>>,
    sending: Option<oneshot::Receiver<Infallible>>,
    limit: Duration,
) -> Result<ResponseHead, Failure> {
    let deadline = async {
        if let Some(sent) = sending {
            // Nothing comes: this waits for the other end to be dropped.
            let _: Result<Infallible, _> = sent.await;
        }
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        answered = head => answered,
        () = deadline => Err(Failure::ResponseTimeout),
    }
}

/// How the visitor can tell the end of this answer (RFC 9112, section 6.3).
fn delimited(head: &ResponseHead, (method, version): &(Method, Version)) -> Delimited {
    let no_body = *method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match (no_body, length) {
        (true, _) => Delimited::Length(0),
        (false, Some(length)) => Delimited::Length(length),
        (false, None) if *version == Version::HTTP_10 => Delimited::Close,
        (false, None) if *version == Version::HTTP_2 && is_grpc(&head.headers) => Delimited::Grpc,
        (false, None) => Delimited::Chunks,
    }
}

fn response(head: ResponseHead, body: ForwardedBody) -> Response<ForwardedBody> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// Makes the visitor's head the one that the application gets. Gives back the visitor's half of an upgrade, or of an
/// extended CONNECT.
fn rewrite(
    (visit, settings): (&Visit, &Settings),
    target: &Target,
    request: &mut Request<RequestBody>,
    has_body: bool,
) -> Option<OnUpgrade> {
    let protocol = headers::strip_hop_by_hop(request.headers_mut());
    let upgrade = match protocol {
        _ if request.method() == Method::CONNECT => Some(hyper::upgrade::on(&mut *request)),
        // An upgrade of a request with a body (RFC 9110, section 7.8) may be ignored, and nobody sends one.
        Some(protocol) if !has_body && request.version() == Version::HTTP_11 => {
            request.headers_mut().insert(UPGRADE, protocol);
            Some(hyper::upgrade::on(&mut *request))
        }
        _ => None,
    };
    if request.version() == Version::HTTP_2 {
        headers::join_cookies(request.headers_mut());
    }
    let forwarding = Forwarding {
        visitor: target.visitor,
        peer: (visit.peer.ip(), &visit.peer_text),
        peer_is_trusted: visit.peer_is_trusted(settings),
        scheme: target.scheme,
        authority: target.authority.as_ref(),
        prefix: target.prefix(),
        request_id: target.request_id,
        forwarded: settings.config.public.forwarded,
    };
    headers::add_forwarding(request.headers_mut(), &forwarding);
    upgrade
}

/// Preface and head in one piece, so that they leave in one frame; with the end, if nothing follows. Takes the fields
/// and the target out of the request: nobody needs them afterwards.
fn opening(
    visit: &Visit,
    target: &Target,
    request: &mut Request<RequestBody>,
    has_body: bool,
    (upgrades, protocol): (bool, Option<&Protocol>),
) -> Result<BytesMut, Failure> {
    // All of it lies in the buffer that the head was read into, which the connection wants back.
    let (headers, uri) = (std::mem::take(request.headers_mut()), std::mem::take(request.uri_mut()));
    let path = uri.path_and_query().map_or("/", |target| target.as_str());
    let path = if target.prefix().is_some() { routing::strip_name(path) } else { path };
    let preface = Preface {
        service: target.name().clone(),
        visitor: (target.visitor, visit.peer.port()).into(),
        server: visit.local,
        kind: ServiceKind::Http,
        request_id: target.request_id,
    };
    let head = RequestHead {
        method: request.method().clone(),
        scheme: target.scheme,
        authority: target.authority.clone(),
        target: Bytes::copy_from_slice(path.as_bytes()),
        protocol: protocol.map(|protocol| Bytes::copy_from_slice(protocol.as_ref())),
        version: request.version(),
        headers,
        has_body,
    };
    let mut first = BytesMut::with_capacity(1024);
    let put = preface.put(&mut first).and_then(|()| head.put(&mut first));
    put.map_err(|error| match error {
        WireError::TooLarge(_) => Failure::HeadTooLarge,
        _ => Failure::BadRequest,
    })?;
    if !has_body && !upgrades {
        frame::put_end(&mut first);
    }
    Ok(first)
}

/// Waits for the final head. A 100 is told to `asks`, and the visitor gets it when its body is asked for; other interim
/// ones are passed over: hyper sends none.
async fn response_head(
    reader: &mut FrameReader,
    mut asks: Option<oneshot::Sender<()>>,
) -> Result<ResponseHead, Failure> {
    loop {
        match reader.event().await {
            Ok(Event::Status(Status::Accepted)) => {}
            Ok(Event::Informational(head)) => {
                if head.status == StatusCode::CONTINUE
                    && let Some(asks) = asks.take()
                {
                    // Nobody hears it if the upload has not waited any longer.
                    let _ = asks.send(());
                }
            }
            Ok(Event::Response(head)) => {
                if let Some(asks) = asks.filter(|_| wants_body(head.status)) {
                    let _ = asks.send(());
                }
                return Ok(head);
            }
            Ok(Event::Status(status)) => return Err(Failure::of_status(status)),
            Ok(Event::Reset(reason)) => return Err(Failure::of_reset(reason)),
            Ok(_) | Err(_) => return Err(Failure::TunnelLost),
        }
    }
}

/// Whether an application that answers before it has the body wants that all the same: one that refuses does not, others
/// answer while they read (RFC 9110, section 10.1.1).
fn wants_body(status: StatusCode) -> bool {
    !status.is_client_error() && !status.is_server_error()
}

/// Takes off what belongs to the connection between agent and application; gives the protocol of an upgrade back.
fn strip(mut head: ResponseHead) -> (ResponseHead, Option<HeaderValue>) {
    let agreed = head.headers.get(UPGRADE).cloned();
    headers::strip_hop_by_hop(&mut head.headers);
    (head, agreed)
}

/// Whether long silences belong to the answer: an event stream, or gRPC.
fn is_quiet(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.starts_with("text/event-stream") || is_grpc(headers)
}

/// Sends the body of a request after its head, and drops `sending` when it is through. Where there is an `asked_for`, it
/// is not sent before the application asks for it, and not at all if that refuses it. Says whether it was read to its
/// end.
async fn upload(
    body: RequestBody,
    asked_for: Option<oneshot::Receiver<()>>,
    mut writer: FrameWriter,
    idle: Duration,
    entry: Arc<Entry>,
    sending: oneshot::Sender<Infallible>,
) -> bool {
    let _sending = sending;
    if let Some(asked_for) = asked_for
        && let Ok(Err(_)) = tokio::time::timeout(ASKED_FOR, asked_for).await
    {
        return false;
    }
    let mut body = std::pin::pin!(body);
    let stream = writer.stream().clone();
    let sent = tokio::select! {
        biased;
        sent = send_body(body.as_mut(), &mut writer, Some(idle), |bytes| entry.moved(Way::In, bytes)) => sent,
        () = unwanted(&stream) => return false,
    };
    match sent {
        Ok(()) => return true,
        // The agent wants no more of it: the answer says why.
        Err(SendError::Stream(_)) => {}
        Err(SendError::Body(_) | SendError::Trailers) => {
            entry.fail(Failure::BadRequest);
            writer.reset(Reset::RequestBroken);
        }
        Err(SendError::Idle) => {
            entry.fail(Failure::RequestTimeout);
            writer.reset(Reset::Idle);
        }
    }
    body.is_end_stream()
}

/// Resolves when the agent has dropped the stream: the application wants no more of the request. Only who writes would
/// notice, and a visitor may pause.
async fn unwanted(stream: &MuxStream) {
    while !stream.is_closed() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// An exchange that has become a connection.
struct Upgraded {
    reader: FrameReader,
    writer: FrameWriter,
    stream: Held,
    entry: Arc<Entry>,
    quiet: Duration,
    /// Says that the visitor's connection must not end in order.
    cut: Option<Arc<AtomicBool>>,
}

/// Says so when it is dropped, whoever drops it.
struct CutUnlessWhole(Option<Arc<AtomicBool>>);

impl Drop for CutUnlessWhole {
    fn drop(&mut self) {
        if let Some(cut) = &self.0 {
            cut.store(true, Ordering::Release);
        }
    }
}

impl Upgraded {
    async fn run(self, visitor: OnUpgrade) {
        let Self { reader, writer, stream, entry, quiet, cut } = self;
        if let Ok(visitor) = visitor.await {
            let mut visitor = TokioIo::new(visitor);
            // Dropped before the connection is.
            let mut cut = CutUnlessWhole(cut);
            let carried = both_ways(&mut visitor, reader, writer, quiet, |way, bytes| entry.moved(way, bytes)).await;
            if carried.is_ok() {
                entry.complete();
                cut.0 = None;
            }
        }
        drop(stream);
    }
}
