//! One request: who asks, for what, and who answers.

pub(crate) mod access;
pub(crate) mod min_rate;
pub(crate) mod request_body;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::ext::Protocol;

use super::forward::{self, Target};
use super::headers;
use crate::limits::{AddressKey, HeldHead, Holder, head_memory, target_length};
use crate::protocol::destination::destination_of;
use crate::protocol::exchange::{MAX_FIELDS, Scheme};
use crate::protocol::login::ServiceKind;
use crate::routing::{self, Asked, Route, RoutingMode, TUNNEL_HEADER};
use crate::server::directory::public_urls::with_port;
use crate::server::ingress::Ingress;
use crate::server::ingress::Visit;
use crate::server::ingress::entry::request_target;
use crate::server::ingress::error_page;
use crate::server::ingress::error_page::{Failure, Form, Health};
use crate::server::ingress::forward::response_body::ForwardedBody;
use crate::server::ingress::observe::exchange;
use crate::server::ingress::observe::exchange::{Asked as AskedFor, Entry, Path, Whose};
use crate::server::ingress::observe::span;
use crate::server::ingress::observe::span::End;
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::server::ingress::upstream::lookup;
use crate::server::metrics::Meter;
use crate::server::settings::Settings;
use crate::telemetry::RequestSpan;
use crate::transport::delivery::Piece;
use crate::transport::whole::WholeBody;
use crate::values::{Name, RequestId};

/// The server's own page.
const HEALTH: &str = "/health";

/// There is always an answer.
pub(crate) type Served = Result<Response<AnswerBody>, Infallible>;

/// The body of an answer: the server's own, or what comes through the tunnel.
pub(crate) type AnswerBody = Either<Full<Piece>, ForwardedBody>;

/// Answers one request, whatever happens; `has_fragment` says that its target had a part that the HTTP library does not
/// show. No asynchronous function: that would hold the request several times.
pub(crate) fn serve(visit: Arc<Visit>, request: Request<Incoming>, has_fragment: bool) -> impl Future<Output = Served> {
    let turn = visit.turns.begin();
    let request_id = RequestId::next();
    let (form, is_head) = (Form::of(request.headers()), request.method() == Method::HEAD);
    let is_http2 = visit.is_http2();
    if !is_http2 {
        visit.unread.begin(request_id, !request.body().is_end_stream());
    }
    let whole = if is_http2 { WholeBody::http2 } else { WholeBody::http1 };
    let mut request = request.map(|body| RequestBody::Coming(whole(body)));
    // What counts now counts for all of this request.
    let settings = visit.ingress.settings();
    let visitor = {
        let is_trusted = |ip| super::is_trusted(&settings, ip);
        headers::visitor_of(request.headers(), visit.peer.ip(), is_trusted)
    };
    let mut noted = Noted::new((&visit, &settings), &request, (request_id, visitor));
    // Now: an HTTP/2 connection brings hundreds before the first of them runs.
    let held = hold_head((&visit.ingress, &settings), &request, visitor);
    if held.is_err() {
        *request.headers_mut() = HeaderMap::new();
    }
    async move {
        let _turn = turn;
        let mut reached = Reached::Nobody;
        let who = (request_id, visitor);
        let decided =
            decide((&visit, &settings), (&mut request, has_fragment), who, held, (&mut reached, &mut noted.span)).await;
        // Over HTTP/1.1 the socket does it, when the connection ends.
        if visit.is_http2() && !request.body().is_end_stream() {
            visit.throw_away(request.body_mut().take());
        }
        Ok(match decided {
            Ok(mut response) => {
                let sent = send_page(&mut response, is_head);
                noted.write((request_id, visitor), &reached, &request, (response.status().as_u16(), "own"), sent);
                response
            }
            Err(failure) => {
                tracing::debug!(request = %request_id, visitor = %visit.peer, code = failure.code(), "a request failed");
                let mut response = failure.answer(request_id, form).map(Either::Left);
                let sent = send_page(&mut response, is_head);
                count(&visit.ingress, &failure, &reached, sent);
                if has_fragment && !visit.is_http2() {
                    // What comes behind such a request is not looked at.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                let how = (failure.status().as_u16(), failure.code());
                noted.write((request_id, visitor), &reached, &request, how, sent);
                response
            }
        })
    }
}

/// Returns whether the target or the `Destination` of a request is invalid or ambiguous.
fn is_malformed<B>(request: &Request<B>) -> bool {
    let method = request.method();
    request_target::is_malformed(method, request.uri(), request.version())
        || destination_of(method, request.headers()).is_err()
}

/// Makes an answer ready to be sent, and says how many bytes of it are a page of the server's own. `HEAD` gets its length
/// alone (RFC 9110, section 9.3.2): over HTTP/2 the HTTP library would send the page all the same.
fn send_page(response: &mut Response<AnswerBody>, is_head: bool) -> usize {
    let Either::Left(page) = response.body() else { return 0 };
    let length = page.size_hint().exact().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    if is_head && length > 0 {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Either::Left(Full::default());
        return 0;
    }
    length
}

/// How far a request has come.
#[derive(Debug)]
pub(crate) enum Reached {
    /// Nothing is known of whom it is for.
    Nobody,
    /// A service, which has not heard of it.
    Service(Arc<Meter>),
    /// The ledger, which counts it from then on, and writes its line. The entry is here once the request has failed: the
    /// page that the visitor gets instead belongs to it.
    Ledger(Option<Arc<Entry>>),
}

/// Counts a request or connection that has failed, unless the ledger does, and the bytes of the page that its visitor
/// gets.
pub(crate) fn count(ingress: &Ingress, failure: &Failure, reached: &Reached, sent: usize) {
    if let Some(limit) = failure.limit() {
        ingress.runtime.metrics.limited(limit);
    }
    match reached {
        Reached::Nobody => ingress.runtime.metrics.totals.failed(error_page::code_number(failure.code())),
        Reached::Service(meter) => {
            meter.refused(failure.status(), error_page::code_number(failure.code()));
            meter.sent(sent);
        }
        Reached::Ledger(Some(entry)) => entry.sent_page(sent),
        Reached::Ledger(None) => {}
    }
}

/// What is needed to tell of a request that goes no further.
struct Noted {
    /// For the access log. Nothing, if nobody reads it.
    asked: Option<(AskedFor, Instant)>,
    /// The ledger takes it, if the request gets that far.
    span: RequestSpan,
}

impl Noted {
    fn new<B>((visit, settings): (&Visit, &Settings), request: &Request<B>, who: (RequestId, IpAddr)) -> Self {
        let asked = || AskedFor::Request(request.method().clone(), Path::of(request.uri(), settings.config.log.query));
        let asked = exchange::is_read().then(|| (asked(), Instant::now()));
        Self { asked, span: span::begin(visit, request, who) }
    }

    fn write<B>(
        self,
        who: (RequestId, IpAddr),
        reached: &Reached,
        request: &Request<B>,
        (status, outcome): (u16, &'static str),
        sent: usize,
    ) {
        let meter = match reached {
            Reached::Ledger(_) => return,
            Reached::Service(meter) => Some(&**meter),
            Reached::Nobody => None,
        };
        self.span.end(|facts| End { meter, status, outcome, answered: None, local: None }.tell(facts));
        if let Some((asked, began)) = &self.asked {
            // Nobody has touched the head of a request that came to no service.
            let host = meter.is_none().then(|| exchange::harmless_host(request)).flatten();
            let whose = meter.map_or(Whose::Nobody(host.as_deref()), Whose::Service);
            exchange::note(who, whose, asked, (status, outcome, began.elapsed()), sent);
        }
    }
}

async fn decide(
    (visit, settings): (&Arc<Visit>, &Settings),
    (request, has_fragment): (&mut Request<RequestBody>, bool),
    (request_id, visitor): (RequestId, IpAddr),
    held: Result<Option<Box<HeldHead>>, Failure>,
    (reached, span): (&mut Reached, &mut RequestSpan),
) -> Result<Response<AnswerBody>, Failure> {
    let ingress = &visit.ingress;
    ingress.limits.requests.check(visitor).map_err(Failure::RateLimited)?;
    let mut held = held?;
    // A client of a proxy that wants a tunnel through us: we are not that kind of proxy. With a protocol it is how
    // HTTP/2 asks for an upgrade (RFC 8441). A coding beside `chunked`: the application would take the coded body for
    // the plain one.
    let is_proxied = request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none();
    if is_proxied || has_fragment || is_malformed(request) || headers::has_other_coding(request.headers()) {
        return Err(Failure::BadRequest);
    }
    let authority = headers::authority_of(request).map_err(|_| Failure::BadRequest)?;
    let route = {
        let mut named = request.headers().get_all(TUNNEL_HEADER).iter();
        let header = named.next().and_then(|value| value.to_str().ok()).filter(|_| named.next().is_none());
        let authority = match &authority {
            Some(authority) => Some(std::str::from_utf8(authority).map_err(|_| Failure::BadRequest)?),
            None => None,
        };
        settings.router.route(Asked { authority, path: request.uri().path(), header })
    };
    if !is_health_of_an_address(&route, request.uri().path(), authority.as_ref())
        && let Some(location) = https_location((visit, settings), request, authority.as_ref())
    {
        return Ok(error_page::redirect(location, request_id).map(Either::Left));
    }
    match route {
        Route::Service { .. } | Route::Domain(_) => {
            let offered = lookup::offered(ingress, &route)?;
            *reached = Reached::Service(Arc::clone(offered.service.meter()));
            if let Some(held) = &mut held {
                held.charge(Holder::Client(offered.tunnel.client().clone())).map_err(|_| Failure::HeadsBusy)?;
            }
            if offered.service.kind() != ServiceKind::Http {
                return Err(Failure::WrongKind);
            }
            access::check((visit, settings), &offered, request, visitor).await?;
            offered.tunnel.usage().check().map_err(Failure::SiteRateLimited)?;
            let mode = if let Route::Service { mode, .. } = route { mode } else { RoutingMode::Subdomain };
            if mode == RoutingMode::Header {
                request.headers_mut().remove(TUNNEL_HEADER);
            }
            let target = Target { offered, mode, authority, visitor, scheme: visit.scheme, request_id };
            forward::forward((visit, settings), target, request, (reached, span))
                .await
                .map(|response| response.map(Either::Right))
        }
        Route::AddSlash => add_slash(request, request_id).map(|response| response.map(Either::Left)),
        Route::Own => own_page(visit, request, request_id).map(|response| response.map(Either::Left)),
        Route::Unknown => Err(Failure::UnknownName),
    }
}

/// Charges a large request head for as long as the request waits for its response.
fn hold_head<B>(
    (ingress, settings): (&Ingress, &Settings),
    request: &Request<B>,
    visitor: IpAddr,
) -> Result<Option<Box<HeldHead>>, Failure> {
    let memory = head_memory(request.headers(), target_length(request.uri()));
    let prefix = settings.config.limits.per_ip.ipv6_prefix;
    let held = ingress.limits.held_heads.hold(memory, || Holder::Address(AddressKey::new(visitor, prefix)));
    // One that could not be passed on anyway hears so.
    let has_too_many = request.headers().len() > MAX_FIELDS;
    held.map_err(|_| if has_too_many { Failure::HeadTooLarge } else { Failure::HeadsBusy })
}

/// Whether a monitor asks how the server is by its address: no certificate is for that, so HTTPS would not answer it.
fn is_health_of_an_address(route: &Route, path: &str, authority: Option<&Bytes>) -> bool {
    let host = || authority.and_then(|text| std::str::from_utf8(text).ok()).map(routing::host_of);
    *route == Route::Own && path == HEALTH && host().is_some_and(|host| host.parse::<IpAddr>().is_ok())
}

/// Where a request over plain HTTP is sent that the operator wants over HTTPS.
fn https_location(
    (visit, settings): (&Visit, &Settings),
    request: &Request<RequestBody>,
    authority: Option<&Bytes>,
) -> Option<HeaderValue> {
    let public = &settings.config.public;
    let https_port = visit.ingress.directory.listeners.https?;
    if visit.scheme == Scheme::Https || public.redirect_to_https.is_empty() {
        return None;
    }
    let host = routing::host_of(std::str::from_utf8(authority?).ok()?);
    let is_meant = public.redirect_to_https.iter().any(|pattern| pattern.matches(host));
    // A proxy in front may have ended TLS already.
    if !is_meant || (visit.peer_is_trusted(settings) && headers::came_over_https(request.headers())) {
        return None;
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    // What stands in front, if anything does, is what visitors can reach.
    let port = match &public.url {
        Some(url) if url.starts_with("https://") => {
            let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
            authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(443)
        }
        _ => https_port,
    };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    HeaderValue::try_from(format!("https://{host}{}{target}", with_port(port, 443))).ok()
}

fn add_slash(request: &Request<RequestBody>, request_id: RequestId) -> Result<Response<Full<Piece>>, Failure> {
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("{}/{query}", uri.path())).map_err(|_| Failure::BadRequest)?;
    Ok(error_page::redirect(location, request_id))
}

fn own_page(
    visit: &Visit,
    request: &Request<RequestBody>,
    request_id: RequestId,
) -> Result<Response<Full<Piece>>, Failure> {
    match request.uri().path() {
        HEALTH => {}
        "/" => return Err(Failure::FrontPage),
        _ => return Err(Failure::NotFound),
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Failure::MethodNotAllowed);
    }
    let registry = &visit.ingress.directory.registry;
    let parameters = request.uri().query().unwrap_or_default().split('&');
    let health = match parameters.filter_map(|parameter| parameter.strip_prefix("tunnel=")).next().map(Name::new) {
        Some(Ok(name)) if registry.by_name(&name).is_some() => Health::Connected,
        Some(Ok(name)) if visit.ingress.directory.clients.owner_of_name(&name).is_some() => Health::Disconnected,
        // Who watches a name with a slip in it would wait for ever.
        Some(_) => Health::Unknown,
        None if registry.serves_any() => Health::Connected,
        None => Health::Disconnected,
    };
    Ok(error_page::health(health, request_id))
}
