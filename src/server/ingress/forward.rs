//! Forwards a request through a tunnel and streams its response back.
//!
//! `head` encodes the request head, `upload` sends the body, `response_body` streams the response, and `upgraded` carries a
//! request that has become a connection.

pub(crate) mod abort_on_drop;
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
use hyper::upgrade::OnUpgrade;
use tokio::sync::oneshot;

use crate::link::body::FrameBody;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::exchange::ResponseHead;
use crate::protocol::frame::Status;
use crate::protocol::login::PathPrefix;
use crate::routing::RoutingMode;
use crate::server::directory::offered::Offered;
use crate::server::directory::registry::Registry;
use crate::server::ingress::error_page::{Failure, is_grpc};
use crate::server::ingress::forward::abort_on_drop::AbortOnDrop;
use crate::server::ingress::forward::response_body::{Delimited, ForwardedBody};
use crate::server::ingress::headers;
use crate::server::ingress::observe::exchange::HeldPermits;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::observe::record::RequestSummary;
use crate::server::ingress::pipeline::context::RequestContext;
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::server::ingress::upstream::failover::Failover;
use crate::values::Name;
use head::{encode_request, rewrite};
use upgraded::Upgraded;

/// The largest head of an answer, in bytes as it crosses the stream.
const MAX_RESPONSE_HEAD: usize = 128 * 1024;

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) offered: Arc<Offered>,
    pub(crate) mode: RoutingMode,
    pub(crate) authority: Option<Bytes>,
    /// The host that a proxy in front was asked for, on path routes.
    pub(crate) forwarded_host: Option<Bytes>,
}

impl Target {
    /// Returns the name that is removed from the path, if the route has one.
    fn prefix(&self) -> Option<&Name> {
        let is_stripped = self.mode == RoutingMode::Path && self.offered.service.path_prefix() != PathPrefix::Keep;
        is_stripped.then_some(self.name())
    }

    /// Returns the name of the service.
    fn name(&self) -> &Name {
        self.offered.service.name()
    }
}

/// Forwards a request to its agent and returns the response, whose body still streams.
pub(crate) async fn forward(
    context: &mut RequestContext<'_>,
    target: Target,
    request: &mut Request<RequestBody>,
) -> Result<Response<ForwardedBody>, Failure> {
    let ingress = &context.connection.ingress;
    let permits = HeldPermits {
        address: context.connection.stream_permit(context.settings)?,
        server: ingress.directory.stream_for(target.offered.tunnel.usage()).ok_or(Failure::TunnelBusy)?,
        in_flight: Some(context.connection.signals.in_flight.begin()),
        open: ingress.runtime.tasks.exchanges.token(),
    };
    let log_query = context.settings.config.log.query;
    let exchange = context.exchange.forward(permits, || RequestSummary::of(request, log_query));
    let exchange = exchange.ok_or(Failure::TunnelLost)?;
    let evicted = request.body().evicted();
    let answered = tokio::select! {
        biased;
        answered = run(context, &target, request, &exchange) => answered,
        () = upload::evicted(evicted) => Err(Failure::AccessBusy),
    };
    if let Err(failure) = &answered {
        exchange.fail(failure.clone());
        exchange.set_status(failure.status());
        context.exchange.forwarding_failed(exchange);
    }
    answered
}

/// A request that is ready to be sent.
struct Prepared {
    /// The preface and the head, with the end if nothing follows.
    first: BytesMut,
    /// The visitor's half of an upgrade.
    upgrade: Option<OnUpgrade>,
    is_extended_connect: bool,
    has_body: bool,
    /// Whether the body waits for `100 Continue`.
    waits: bool,
    method: Method,
    version: Version,
    /// How long the upload may be idle.
    upload_idle: Duration,
}

fn prepare(
    context: &RequestContext<'_>,
    target: &Target,
    request: &mut Request<RequestBody>,
    exchange: &ForwardedExchange,
) -> Result<Prepared, Failure> {
    let timeouts = &context.settings.config.timeouts;
    let (method, version) = (request.method().clone(), request.version());
    let has_body = !request.body().is_end_stream();
    // A gRPC client may be silent for a long time.
    let upload_idle = if is_grpc(request.headers()) { timeouts.quiet_stream } else { timeouts.idle };
    let waits = has_body && version == Version::HTTP_11 && headers::expects_continue(request.headers());
    let upgrade = rewrite(context, target, request, has_body);
    exchange.propagate_trace(request.headers_mut());
    let protocol = request.extensions_mut().remove::<Protocol>();
    let first = encode_request(context, target, request, has_body, upgrade.is_some(), protocol.as_ref())?;
    let is_extended_connect = protocol.is_some();
    Ok(Prepared { first, upgrade, is_extended_connect, has_body, waits, method, version, upload_idle })
}

async fn run(
    context: &RequestContext<'_>,
    target: &Target,
    request: &mut Request<RequestBody>,
    exchange: &Arc<ForwardedExchange>,
) -> Result<Response<ForwardedBody>, Failure> {
    let (directory, timeouts) = (&*context.connection.ingress.directory.registry, &context.settings.config.timeouts);
    let Prepared { first, upgrade, is_extended_connect, has_body, waits, method, version, upload_idle } =
        prepare(context, target, request, exchange)?;
    let mut failover = Failover::new(&target.offered, timeouts.head);
    let (mut stream, mut reader) = open_stream(directory, &mut failover, &first, exchange).await?;
    let writer = FrameWriter::new(stream.0.clone());
    let (mut sending, mut ask) = (None, None);
    let writer = if has_body {
        let body = request.body_mut().take();
        let (sent, asked) = upload::begin(context.connection, exchange, body, waits, writer, upload_idle);
        (sending, ask) = (Some(sent), asked);
        None
    } else {
        if upgrade.is_none() {
            stream.0.write_ended();
        }
        upgrade.is_some().then_some(writer)
    };
    // `first` is all of a short request. Any other request cannot be sent again.
    let is_short = !has_body && upgrade.is_none();
    let first = if is_short { first } else { BytesMut::new() };
    let head = loop {
        match answered(response_head(&mut reader, ask.take()), sending.take(), timeouts.response_head).await {
            Ok(head) => break head,
            Err(failure) if is_short && !exchange.is_cut() && failover.retry(directory, &failure, &method) => {
                (stream, reader) = open_stream(directory, &mut failover, &first, exchange).await?;
                stream.0.write_ended();
            }
            Err(failure) => return Err(exchange.failure().unwrap_or(failure)),
        }
    };
    exchange.response_began(head.status, head.local);
    let (head, agreed) = strip(target, head);
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS || (is_extended_connect && head.status.is_success());
    match (switches, writer, upgrade) {
        (true, Some(writer), Some(visitor)) => {
            let upgraded = Upgraded {
                reader,
                writer,
                stream,
                exchange: Arc::clone(exchange),
                quiet: timeouts.quiet_stream,
                idle: timeouts.idle,
            };
            return upgraded.start(context.connection, visitor, head, agreed, is_extended_connect);
        }
        (true, ..) => return Err(Failure::LocalBroken),
        // The application does not upgrade: then this was the whole request. An agent that has sent the whole response does
        // not wait for the end.
        (false, Some(mut writer), _) => drop(writer.end().await),
        (false, None, _) => {}
    }
    Ok(streamed_response(context, head, &method, version, reader, stream, exchange))
}

/// Returns a response whose body streams from the tunnel.
fn streamed_response(
    context: &RequestContext<'_>,
    mut head: ResponseHead,
    method: &Method,
    version: Version,
    reader: FrameReader,
    stream: AbortOnDrop,
    exchange: &Arc<ForwardedExchange>,
) -> Response<ForwardedBody> {
    let timeouts = &context.settings.config.timeouts;
    let idle = if is_quiet(&head.headers) { timeouts.quiet_stream } else { timeouts.idle };
    let (body, delimited) = (FrameBody::new(reader, Some(idle)), delimited(&head, method, version));
    if delimited == Delimited::Close {
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let (exchange, connection) = (Arc::clone(exchange), Arc::clone(context.connection));
    response(head, ForwardedBody::new(body, delimited, exchange, connection, stream, timeouts.idle))
}

/// Opens a stream for a request that begins with `first`. Dropping the stream early resets it.
async fn open_stream(
    directory: &Registry,
    failover: &mut Failover<Offered>,
    first: &[u8],
    exchange: &ForwardedExchange,
) -> Result<(AbortOnDrop, FrameReader), Failure> {
    exchange.release();
    let (stream, permit) = failover.open(directory, first).await?;
    exchange.hold(&stream, permit);
    let stream = AbortOnDrop(stream);
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
fn delimited(head: &ResponseHead, method: &Method, version: Version) -> Delimited {
    let no_body = *method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match (no_body, length) {
        (true, _) => Delimited::Length(0),
        (false, Some(length)) => Delimited::Length(length),
        (false, None) if version == Version::HTTP_10 => Delimited::Close,
        (false, None) if version == Version::HTTP_2 && is_grpc(&head.headers) => Delimited::Grpc,
        (false, None) => Delimited::Chunks,
    }
}

pub(super) fn response(head: ResponseHead, body: ForwardedBody) -> Response<ForwardedBody> {
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
                    // The receiver is gone if the upload no longer waits.
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
fn strip(target: &Target, mut head: ResponseHead) -> (ResponseHead, Option<HeaderValue>) {
    let agreed = head.headers.get(UPGRADE).cloned();
    headers::strip_hop_by_hop(&mut head.headers);
    if let Some(name) = target.prefix().filter(|_| target.offered.service.path_prefix() == PathPrefix::Strip) {
        headers::add_prefix(&mut head.headers, name, [&target.authority, &target.forwarded_host]);
    }
    (head, agreed)
}

/// Whether long silences belong to the answer: an event stream, or gRPC.
fn is_quiet(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.starts_with("text/event-stream") || is_grpc(headers)
}
