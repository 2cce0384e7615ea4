//! One request: who sends it, which service it is for, and who answers.
//!
//! [`serve`] handles a request; [`decide`] applies, in this order, the rate limit, the memory for heads, the checks of the
//! head, routing, access rules ([`access`]), and the client's limits, before it forwards the request.

pub(crate) mod access;
pub(crate) mod context;
pub(crate) mod head_memory;
pub(crate) mod https_redirect;
pub(crate) mod min_rate;
pub(crate) mod own_pages;
pub(crate) mod request_body;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::ext::Protocol;

use crate::limits::{HeldHead, Holder};
use crate::protocol::destination::destination_of;
use crate::protocol::length::single_length;
use crate::protocol::login::ServiceKind;
use crate::routing::{self, Asked, Route, RoutingMode, TUNNEL_HEADER};
use crate::server::directory::offered::Offered;
use crate::server::http_connection::interim::{FinalAnswer, Interim};
use crate::server::http_connection::request_target;
use crate::server::ingress::connection::{ConnectionContext, is_trusted};
use crate::server::ingress::error_page::{self, Failure, Form};
use crate::server::ingress::forward::response_body::ForwardedBody;
use crate::server::ingress::forward::{self, Target};
use crate::server::ingress::headers;
use crate::server::ingress::observe::exchange::Exchange;
use crate::server::ingress::observe::record::ExchangeRecord;
use crate::server::ingress::observe::span;
use crate::server::ingress::patience::{NoAnswer, Patience};
use crate::server::ingress::pipeline::context::RequestContext;
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::server::ingress::upstream::lookup;
use crate::transport::delivery::Piece;
use crate::transport::whole::WholeBody;
use crate::values::RequestId;

/// There is a response, unless the visitor is to reconnect.
pub(crate) type Served = Result<Response<AnswerBody>, NoAnswer>;

/// The body of a response: the server's own page, or what comes through the tunnel.
pub(crate) type AnswerBody = Either<Full<Piece>, ForwardedBody>;

/// Answers one request. `is_bad_target` says that it is refused for its target, which the HTTP library may not show. Not an
/// asynchronous function: its future would hold the request several times.
pub(crate) fn serve(
    connection: Arc<ConnectionContext>,
    request: Request<Incoming>,
    is_bad_target: bool,
) -> impl Future<Output = Served> {
    let in_flight = connection.signals.in_flight.begin();
    let request_id = RequestId::next();
    let patience = Patience::of(&request);
    let (form, is_head) = (Form::of(request.method(), request.headers()), request.method() == Method::HEAD);
    let is_http2 = connection.is_http2();
    if !is_http2 {
        connection.signals.unread.begin(request_id, !request.body().is_end_stream());
    }
    let (mut request, final_answer) = with_body(request, is_http2);
    let settings = connection.ingress.settings();
    let visitor = {
        let is_trusted = |ip| is_trusted(&settings, ip);
        headers::visitor_of(request.headers(), connection.peer.ip(), is_trusted)
    };
    let span = span::begin(&connection, &request, request_id, visitor);
    let record = ExchangeRecord::of_request(request_id, visitor, &request, span, settings.config.log.query);
    // Before the future runs: an HTTP/2 connection creates hundreds before it runs the first.
    let held = head_memory::hold(&connection.ingress, &settings, &request, visitor);
    if held.is_err() {
        *request.headers_mut() = HeaderMap::new();
    }
    async move {
        let _in_flight = in_flight;
        let _final_answer = final_answer;
        let exchange = Exchange::open(&connection.ingress.observers, record);
        let mut context =
            RequestContext { connection: &connection, settings: &settings, request_id, visitor, patience, exchange };
        let decided = decide(&mut context, &mut request, is_bad_target, held).await;
        // Over HTTP/1.1 the socket does this when the connection ends.
        if is_http2 && !request.body().is_end_stream() {
            connection.discard_body(request.body_mut().take());
        }
        Ok(match decided {
            Ok(mut response) => {
                let sent = finish_page(&mut response, is_head);
                context.exchange.own_page(response.status().as_u16(), sent, &request);
                response
            }
            Err(failure) if patience.bears(&failure) => {
                report(&context, &failure);
                context.exchange.unanswered(failure, &request);
                return Err(NoAnswer);
            }
            Err(failure) => {
                let mut response = failure_page(&mut context, failure, form, is_head, &request);
                if is_bad_target && !is_http2 {
                    // Later requests on this connection are not inspected.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        })
    }
}

/// Returns a request with its body as the pipeline reads it. If the visitor waits to be asked for the body over HTTP/2, also
/// returns what is to be dropped before the final answer.
fn with_body(request: Request<Incoming>, is_http2: bool) -> (Request<RequestBody>, Option<FinalAnswer>) {
    let whole = if is_http2 { WholeBody::http2 } else { WholeBody::http1 };
    let mut request = request.map(|body| RequestBody::Coming(whole(body)));
    let interim = request.extensions_mut().remove::<Interim>();
    if let Some(interim) = &interim {
        request.body_mut().wait_to_be_asked(interim);
    }
    (request, interim.as_ref().map(Interim::until_final))
}

/// Writes to the log that a request has failed.
fn report(context: &RequestContext<'_>, failure: &Failure) {
    let RequestContext { connection, request_id, visitor, .. } = context;
    let (peer, code) = (connection.peer, failure.code());
    tracing::debug!(request = %request_id, visitor = %peer, code, "a request failed");
    if let Some(limit) = failure.limit() {
        connection.ingress.limits.refusals.refused(limit, *visitor, context.exchange.client());
    }
}

/// Returns the page of a request that has failed, and records the failure.
fn failure_page(
    context: &mut RequestContext<'_>,
    failure: Failure,
    form: Form,
    is_head: bool,
    request: &Request<RequestBody>,
) -> Response<AnswerBody> {
    report(context, &failure);
    let name = if failure == Failure::UnknownName { asked_name(context, request) } else { None };
    let mut response = failure.answer(context.request_id, form, name.as_deref()).map(Either::Left);
    let sent = finish_page(&mut response, is_head);
    context.exchange.failed(failure, sent, request);
    response
}

/// Prepares a response and returns how many bytes of it are a page of the server's own. `HEAD` gets only the length
/// (RFC 9110, section 9.3.2); over HTTP/2 the HTTP library would send the page.
fn finish_page(response: &mut Response<AnswerBody>, is_head: bool) -> usize {
    let Either::Left(page) = response.body() else { return 0 };
    let length = page.size_hint().exact().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    if is_head && length > 0 {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Either::Left(Full::default());
        return 0;
    }
    length
}

async fn decide(
    context: &mut RequestContext<'_>,
    request: &mut Request<RequestBody>,
    is_bad_target: bool,
    held: Result<Option<Box<HeldHead>>, Failure>,
) -> Result<Response<AnswerBody>, Failure> {
    let RequestContext { connection, request_id, visitor, .. } = *context;
    let ingress = &connection.ingress;
    ingress.limits.admit_visitor(visitor).await?;
    let mut held = held?;
    if is_bad_target || is_malformed(request) {
        return Err(Failure::BadRequest);
    }
    let authority = headers::authority_of(request).map_err(|_| Failure::BadRequest)?;
    let route = route(context, request, authority.as_ref())?;
    if let Some(location) = https_redirect::location(context, request, &route, authority.as_ref()) {
        return Ok(error_page::redirect(location, request_id).map(Either::Left));
    }
    match route {
        Route::Service { .. } | Route::Domain(_) => serve_service(context, request, &route, authority, &mut held).await,
        Route::Own => {
            own_pages::own_page(&ingress.directory, request, request_id).map(|response| response.map(Either::Left))
        }
        Route::Unknown => Err(Failure::UnknownName),
    }
}

/// Serves a request for the service at `route`.
async fn serve_service(
    context: &mut RequestContext<'_>,
    request: &mut Request<RequestBody>,
    route: &Route,
    authority: Option<Bytes>,
    held: &mut Option<Box<HeldHead>>,
) -> Result<Response<AnswerBody>, Failure> {
    let RequestContext { connection, request_id, visitor, .. } = *context;
    let ingress = &connection.ingress;
    let offered = match find_service(context, route, held) {
        // Boxed: hardly any request waits.
        Err(Failure::TunnelOffline) => Box::pin(wait_for_agent(context, route, held)).await?,
        found => found?,
    };
    if own_pages::needs_slash(route, &offered, request) {
        return own_pages::add_slash(request, request_id).map(|response| response.map(Either::Left));
    }
    ingress.limits.admit_to_service(&offered, visitor).await?;
    let mode = if let Route::Service { mode, .. } = *route { mode } else { RoutingMode::Subdomain };
    let is_proxied = mode == RoutingMode::Path && connection.peer_is_trusted(context.settings);
    let forwarded_host = is_proxied.then(|| headers::forwarded_host(request.headers())).flatten();
    let target = Target { offered, mode, authority, forwarded_host };
    let cookie = access::check(context, &target, request).await?;
    ingress.limits.admit_to_client(&target.offered).await?;
    if mode == RoutingMode::Header {
        request.headers_mut().remove(TUNNEL_HEADER);
    }
    let mut response = forward::forward(context, target, request).await?.map(Either::Right);
    if let Some(cookie) = cookie {
        access::set_cookie(response.headers_mut(), cookie);
    }
    Ok(response)
}

/// Returns whether a request is invalid or ambiguous: its target, its `Destination`, its length, or its transfer coding. A
/// coding other than `chunked` is refused, because the application would take the coded body for the plain one.
fn is_malformed<B>(request: &mut Request<B>) -> bool {
    // The library for HTTP/2 passes equal lengths on; that for HTTP/1.1 leaves no second one.
    if request.version() == Version::HTTP_2 && single_length(request.headers_mut()).is_err() {
        return true;
    }
    let method = request.method();
    // CONNECT asks for a forward proxy. With a protocol it is an upgrade over HTTP/2 (RFC 8441).
    let is_forward_proxy = method == Method::CONNECT && request.extensions().get::<Protocol>().is_none();
    is_forward_proxy
        || request_target::is_malformed(method, request.uri(), request.version())
        || destination_of(method, request.headers()).is_err()
        || headers::has_other_coding(request.headers())
}

/// Returns where the request goes.
fn route(
    context: &RequestContext<'_>,
    request: &Request<RequestBody>,
    authority: Option<&Bytes>,
) -> Result<Route, Failure> {
    let mut named = request.headers().get_all(TUNNEL_HEADER).iter();
    let header = named.next().and_then(|value| value.to_str().ok()).filter(|_| named.next().is_none());
    let authority = match authority {
        Some(authority) => Some(std::str::from_utf8(authority).map_err(|_| Failure::BadRequest)?),
        None => None,
    };
    Ok(context.settings.router.route(Asked { authority, path: request.uri().path(), header }))
}

/// Waits for an agent that offers the service at `route`, if the request may.
async fn wait_for_agent(
    context: &mut RequestContext<'_>,
    route: &Route,
    held: &mut Option<Box<HeldHead>>,
) -> Result<Arc<Offered>, Failure> {
    let ingress = &context.connection.ingress;
    let wait = ingress.agents_return.wait(context.visitor, context.patience.until());
    let (until, _wait) = wait.ok_or(Failure::TunnelOffline)?;
    let (mut changes, stop) = (ingress.directory.registry.changes(), ingress.runtime.shutdown.stop.clone());
    let back = async {
        loop {
            changes.borrow_and_update();
            match find_service(context, route, held) {
                Err(Failure::TunnelOffline) => changes.changed().await.map_err(|_| Failure::TunnelOffline)?,
                found => return found,
            }
        }
    };
    let back = stop.run_until_cancelled(tokio::time::timeout_at(until, back)).await;
    back.and_then(Result::ok).unwrap_or(Err(Failure::TunnelOffline))
}

/// Returns the name that the visitor asked for, as it reads in an address.
fn asked_name(context: &RequestContext<'_>, request: &Request<RequestBody>) -> Option<String> {
    let authority = headers::authority_of(request).ok().flatten();
    let host = authority.as_ref().and_then(|text| std::str::from_utf8(text).ok()).map(routing::host_of);
    Some(match (route(context, request, authority.as_ref()).ok()?, host) {
        (Route::Service { name, mode: RoutingMode::Header, .. }, _) => name.to_string(),
        (Route::Service { name, mode: RoutingMode::Path, .. }, host) => {
            format!("{}/{name}/", host.unwrap_or_default())
        }
        (_, host) => host?.to_owned(),
    })
}

/// Returns the service at `route`, and charges its client for a large head.
fn find_service(
    context: &mut RequestContext<'_>,
    route: &Route,
    held: &mut Option<Box<HeldHead>>,
) -> Result<Arc<Offered>, Failure> {
    let directory = &context.connection.ingress.directory;
    let offered = lookup::find(&*directory.registry, &directory.clients, route)?;
    context.exchange.set_service(offered.service.meter());
    if let Some(held) = held {
        held.charge(Holder::Client(offered.tunnel.client().clone())).map_err(|_| Failure::HeadsBusy)?;
    }
    if offered.service.kind() == ServiceKind::Http { Ok(offered) } else { Err(Failure::WrongKind) }
}
