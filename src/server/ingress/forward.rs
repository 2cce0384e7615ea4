//! Forwards a request through a tunnel and streams its response back.
//!
//! `attempt` opens a stream and waits for the answer, `head` encodes the request head, `upload` sends the body, `response_body` streams the response, and `upgraded` carries a
//! request that has become a connection.

pub(crate) mod abort_on_drop;
mod attempt;
mod head;
pub(crate) mod response_body;
mod upgraded;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::ext::{Protocol, ReasonPhrase};
use hyper::upgrade::OnUpgrade;

use crate::link::body::FrameBody;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::protocol::exchange::ResponseHead;
use crate::protocol::length::single_length;
use crate::protocol::login::PathPrefix;
use crate::protocol::media_type::{is_event_stream, is_grpc};
use crate::routing::RoutingMode;
use crate::server::directory::offered::Offered;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::forward::abort_on_drop::AbortOnDrop;
use crate::server::ingress::forward::response_body::{Delimited, ForwardedBody};
use crate::server::ingress::headers;
use crate::server::ingress::observe::exchange::HeldPermits;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::observe::record::RequestSummary;
use crate::server::ingress::pipeline::context::RequestContext;
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::values::Name;
use attempt::{Attempt, Opened};
use head::{encode_request, rewrite};
use upgraded::Upgraded;

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
        if !context.patience.bears(failure) {
            exchange.set_status(failure.status());
        }
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
    let expects = version == Version::HTTP_11 && headers::expects_continue(request.headers());
    let waits = has_body && (expects || request.body().is_unasked());
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
    let timeouts = &context.settings.config.timeouts;
    let Prepared { first, upgrade, is_extended_connect, has_body, waits, method, version, upload_idle } =
        prepare(context, target, request, exchange)?;
    let is_short = !has_body && upgrade.is_none();
    let mut attempt = Attempt::begin(context, target, exchange, first, method.clone(), is_short).await?;
    let writer = FrameWriter::new(attempt.opened.stream.0.clone());
    let (mut sending, mut ask) = (None, None);
    let writer = if has_body {
        let body = request.body_mut().take();
        let (sent, asked) = upload::begin(context.connection, exchange, body, waits, writer, upload_idle);
        (sending, ask) = (Some(sent), asked);
        None
    } else {
        if upgrade.is_none() {
            attempt.opened.stream.0.write_ended();
        }
        upgrade.is_some().then_some(writer)
    };
    let mut head = attempt.head(ask, sending).await?;
    let Opened { stream, reader } = attempt.opened;
    exchange.response_began(head.status, head.local);
    let agreed = strip(target, &mut head.headers, upgrade.is_some());
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
    streamed_response(context, head, &method, version, reader, stream, exchange)
}

/// Returns a response whose body streams from the tunnel.
fn streamed_response(
    context: &RequestContext<'_>,
    mut head: Box<ResponseHead>,
    method: &Method,
    version: Version,
    reader: FrameReader,
    stream: AbortOnDrop,
    exchange: &Arc<ForwardedExchange>,
) -> Result<Response<ForwardedBody>, Failure> {
    let timeouts = &context.settings.config.timeouts;
    let delimited = delimited(&mut head, method, version)?;
    let idle = if may_be_silent(&head.headers, delimited) { timeouts.quiet_stream } else { timeouts.idle };
    let body = FrameBody::new(reader, Some(idle));
    if delimited == Delimited::Close {
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let (exchange, connection) = (Arc::clone(exchange), Arc::clone(context.connection));
    Ok(response(*head, ForwardedBody::new(body, delimited, exchange, connection, stream, timeouts.idle)))
}

/// How the visitor can tell the end of this answer (RFC 9112, section 6.3). Makes `Content-Length` one number: an HTTP/2
/// client takes no other, and the agent may not have seen to it.
fn delimited(head: &mut ResponseHead, method: &Method, version: Version) -> Result<Delimited, Failure> {
    let is_empty = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = match single_length(&mut head.headers) {
        Err(_) if is_empty => {
            // There is no body, whatever the field says.
            head.headers.remove(CONTENT_LENGTH);
            None
        }
        length => length.map_err(|_| Failure::LocalBroken)?,
    };
    Ok(match length {
        _ if is_empty || *method == Method::HEAD => Delimited::Length(0),
        Some(length) => Delimited::Length(length),
        None if version == Version::HTTP_10 => Delimited::Close,
        None if version == Version::HTTP_2 && is_grpc(&head.headers) => Delimited::Grpc,
        None => Delimited::Chunks,
    })
}

pub(super) fn response(head: ResponseHead, body: ForwardedBody) -> Response<ForwardedBody> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    // The HTTP library has a text of its own for a status without a registered phrase.
    let reason = head.reason.or_else(|| head.status.canonical_reason().is_none().then(Bytes::new));
    if let Some(reason) = reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
        response.extensions_mut().insert(reason);
    }
    response
}

/// Removes the fields that belong to the connection between agent and application. Returns the protocol of an upgrade, if
/// the request may upgrade.
fn strip(target: &Target, fields: &mut HeaderMap, may_upgrade: bool) -> Option<HeaderValue> {
    let agreed = if may_upgrade { fields.get(UPGRADE).cloned() } else { None };
    headers::strip_hop_by_hop(fields);
    if let Some(name) = target.prefix().filter(|_| target.offered.service.path_prefix() == PathPrefix::Strip) {
        headers::add_prefix(fields, name, [&target.authority, &target.forwarded_host]);
    }
    agreed
}

/// Whether long silences belong to the answer: one of no announced length may be a stream of events, of any type.
fn may_be_silent(headers: &HeaderMap, delimited: Delimited) -> bool {
    !matches!(delimited, Delimited::Length(_)) || is_event_stream(headers) || is_grpc(headers)
}
