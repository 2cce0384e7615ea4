//! An exchange, as the server sees it: a request goes into a fresh stream, its answer comes back.
//!
//! Here is its course and what comes back. `head` makes what goes first, `upload` sends the body after it, and `upgraded`
//! is what an exchange goes on as that has become a connection.

mod head;
pub(crate) mod response_body;
mod upgraded;
mod upload;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::ext::Protocol;
use tokio::sync::oneshot;

use super::Visit;
use super::headers;
use crate::link::body::FrameBody;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::exchange::{ResponseHead, Scheme};
use crate::protocol::frame::Status;
use crate::routing::RoutingMode;
use crate::server::directory::offered::Offered;
use crate::server::ingress::error_page::{Failure, is_grpc};
use crate::server::ingress::forward::response_body::{Delimited, ForwardedBody, Held};
use crate::server::ingress::observe::exchange::{About, Asked, Entry, Path};
use crate::server::ingress::pipeline::Reached;
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::server::ingress::upstream::failover::Course;
use crate::server::runtime::until_cut;
use crate::server::settings::Settings;
use crate::telemetry::RequestSpan;
use crate::values::{Name, RequestId};
use head::{opening, rewrite};
use upgraded::{End, Upgraded};

/// The largest head of an answer, in bytes as it crosses the stream.
const MAX_RESPONSE_HEAD: usize = 128 * 1024;

/// Where a request goes, and on whose behalf.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) offered: Arc<Offered>,
    pub(crate) mode: RoutingMode,
    pub(crate) authority: Option<Bytes>,
    pub(crate) visitor: std::net::IpAddr,
    pub(crate) scheme: Scheme,
    pub(crate) request_id: RequestId,
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
pub(crate) async fn forward(
    (visit, settings): (&Arc<Visit>, &Settings),
    target: Target,
    request: &mut Request<RequestBody>,
    (reached, span): (&mut Reached, &mut RequestSpan),
) -> Result<Response<ForwardedBody>, Failure> {
    let ingress = &visit.ingress;
    let address = visit.stream(settings)?;
    let server = ingress.directory.stream_for(target.offered.tunnel.usage()).ok_or(Failure::TunnelBusy)?;
    let turn = visit.turns.begin();
    let entry = Entry::open(
        About {
            request_id: target.request_id,
            visitor: target.visitor,
            meter: Arc::clone(target.offered.service.meter()),
            asked: Asked::Request(request.method().clone(), Path::of(request.uri(), settings.config.log.query)),
            span: std::mem::take(span),
        },
        (server, address, Some(turn), ingress.runtime.tasks.exchanges.token()),
        &ingress.live,
    );
    *reached = Reached::Ledger(None);
    let evicted = request.body().evicted();
    let answered = tokio::select! {
        biased;
        answered = exchange((visit, settings), &target, request, &entry) => answered,
        () = upload::evicted(evicted) => Err(Failure::AccessBusy),
    };
    if let Err(failure) = &answered {
        entry.fail(failure.clone());
        entry.status(failure.status());
        *reached = Reached::Ledger(Some(entry));
    }
    answered
}

async fn exchange(
    (visit, settings): (&Arc<Visit>, &Settings),
    target: &Target,
    request: &mut Request<RequestBody>,
    entry: &Arc<Entry>,
) -> Result<Response<ForwardedBody>, Failure> {
    let ingress = &visit.ingress;
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
        let body = request.body_mut().take();
        let (sent, asked) = upload::begin((visit, entry), body, waits, writer, upload_idle);
        (sending, asks) = (Some(sent), asked);
        None
    } else {
        if upgrade.is_none() {
            stream.0.write_ended();
        }
        upgrade.is_some().then_some(writer)
    };
    // All of such a request is in `first`. Of any other one nothing can be sent again.
    let is_short = !has_body && upgrade.is_none();
    let first = if is_short { first } else { BytesMut::new() };
    let head = loop {
        match answered(response_head(&mut reader, asks.take()), sending.take(), timeouts.response_head).await {
            Ok(head) => break head,
            Err(failure) if is_short && !entry.is_cut() && course.may_go_on(ingress, &failure, &asked.0) => {
                (stream, reader) = begin(visit, &mut course, &first, entry).await?;
                stream.0.write_ended();
            }
            Err(failure) => return Err(entry.failure().unwrap_or(failure)),
        }
    };
    entry.answered(head.status, head.local);
    let (mut head, agreed) = strip(head);
    if let Some(name) = target.prefix() {
        headers::add_prefix(&mut head.headers, name, target.authority.as_deref());
    }
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS || (protocol.is_some() && head.status.is_success());
    match (switches, writer) {
        (true, Some(writer)) => {
            let Some(visitor) = upgrade else { return Err(Failure::LocalBroken) };
            upgraded::agree(&mut head, agreed, protocol.is_some())?;
            let (entry, quiet, idle) = (Arc::clone(entry), timeouts.quiet_stream, timeouts.idle);
            let end = End::of(visit);
            let exchange = Upgraded { reader, writer, stream, entry, quiet, idle, end };
            ingress
                .runtime
                .tasks
                .visitors
                .spawn(until_cut(ingress.runtime.shutdown.cut.clone(), exchange.run(visitor, Arc::clone(visit))));
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
    let body = (body, delimited);
    let body = ForwardedBody::new(body, Arc::clone(entry), Arc::clone(visit), stream, timeouts.idle);
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
    let (stream, permit) = course.open(&visit.ingress, first).await?;
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
