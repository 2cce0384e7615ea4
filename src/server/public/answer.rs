//! What a visitor gets from the server itself: one place that turns a failure into a status, a stable code, and a page
//! or a line of JSON. Never an internal detail.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::headers::REQUEST_ID;
use crate::limits::RetryAfter;
use crate::protocol::frame::{Reset, Status};
use crate::server::metrics::Limit;
use crate::server::tunnel::OpenFailure;
use crate::values::{Name, RequestId};

/// The header with the stable code of a failure.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-adit-error");

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

const GRPC_UNKNOWN: u16 = 2;
const GRPC_PERMISSION_DENIED: u16 = 7;
const GRPC_UNIMPLEMENTED: u16 = 12;
const GRPC_INTERNAL: u16 = 13;
const GRPC_UNAVAILABLE: u16 = 14;
const GRPC_UNAUTHENTICATED: u16 = 16;

/// The codes of all failures, each in its place: what is counted of them is kept by number.
pub(in crate::server) const CODES: [&str; 26] = [
    "other",
    "unknown_name",
    "not_found",
    "method_not_allowed",
    "wrong_kind",
    "tunnel_offline",
    "tunnel_busy",
    "tunnel_stalled",
    "tunnel_lost",
    "service_gone",
    "local_unreachable",
    "local_timeout",
    "local_broken",
    "response_timeout",
    "request_timeout",
    "bad_request",
    "head_too_large",
    "rate_limited",
    "site_rate_limited",
    "forbidden",
    "unauthorized",
    "bad_signature",
    "body_too_large",
    "access_busy",
    "cut_by_operator",
    "address_busy",
];

/// The place of a failure's code. Only failures look for it.
pub(super) fn code_number(code: &str) -> usize {
    CODES.iter().position(|known| *known == code).unwrap_or(0)
}

/// Seconds in which an agent that was cut off is mostly back.
const AGENTS_COME_BACK: u64 = 5;

/// Why a visitor does not get what it asked for. `docs/errors.md` lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No client has this name.
    UnknownName,
    /// The server has no such page of its own.
    NotFound,
    /// The server's own pages can only be read.
    MethodNotAllowed,
    /// The name is served, but not over HTTP.
    WrongKind,
    /// The name is listed, but no agent serves it now.
    TunnelOffline,
    /// As many streams as allowed are open.
    TunnelBusy,
    /// The agent answers nothing any more, though it is connected.
    TunnelStalled,
    /// The tunnel broke off before the answer began.
    TunnelLost,
    /// The agent does not offer the service.
    ServiceGone,
    /// The local application refuses connections.
    LocalUnreachable,
    /// The local application takes no connection in time.
    LocalTimeout,
    /// The local application broke off before its answer began, or speaks no HTTP.
    LocalBroken,
    /// The local application's answer did not begin in time.
    ResponseTimeout,
    /// The visitor stopped sending its request.
    RequestTimeout,
    /// The request cannot be understood, or could be understood in two ways.
    BadRequest,
    /// The head of the request is larger than the limit.
    HeadTooLarge,
    /// Too many requests from this address.
    RateLimited(RetryAfter),
    /// All visitors of this client together ask faster than they may.
    SiteRateLimited(RetryAfter),
    /// As many requests of this address as may be are open.
    AddressBusy,
    /// The service does not let this visitor in: not from this address, or not without its shared secret.
    Forbidden,
    /// The service of this name asks for a name and a password, and these are not the right ones.
    Unauthorized(Name),
    /// The body does not bear the signature that the service of this name asks for.
    BadSignature(Name),
    /// The body is larger than what is held to look at its signature.
    BodyTooLarge,
    /// Too many passwords or signatures are being looked at.
    AccessBusy,
    /// The operator has ended the request.
    CutByOperator,
}

impl Failure {
    /// What an agent's refusal of a stream means to the visitor.
    pub(super) fn of_status(status: Status) -> Self {
        match status {
            Status::UnknownService => Self::ServiceGone,
            Status::TooManyStreams => Self::TunnelBusy,
            Status::Draining => Self::TunnelOffline,
            Status::Accepted | Status::Malformed => Self::TunnelLost,
        }
    }

    /// What an agent's reset means to the visitor.
    pub(super) fn of_reset(reset: Reset) -> Self {
        match reset {
            Reset::LocalUnreachable => Self::LocalUnreachable,
            Reset::LocalTimeout => Self::LocalTimeout,
            Reset::LocalBroken | Reset::TooLarge => Self::LocalBroken,
            Reset::Idle => Self::ResponseTimeout,
            Reset::RequestBroken => Self::BadRequest,
            Reset::Cancelled | Reset::Protocol => Self::TunnelLost,
        }
    }

    /// Whether the application cannot have seen anything of a request that ended so.
    pub(super) fn is_before_the_application(&self) -> bool {
        matches!(
            self,
            Self::ServiceGone
                | Self::TunnelBusy
                | Self::TunnelOffline
                | Self::TunnelStalled
                | Self::LocalUnreachable
                | Self::LocalTimeout
        )
    }

    /// The HTTP status, the stable code, and what a person reads.
    fn facts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::UnknownName => (StatusCode::NOT_FOUND, "unknown_name", "There is nothing at this address."),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "There is no such page here."),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This page can only be read.")
            }
            Self::WrongKind => (StatusCode::MISDIRECTED_REQUEST, "wrong_kind", "This name is not served over HTTP."),
            Self::TunnelOffline => (
                StatusCode::SERVICE_UNAVAILABLE,
                "tunnel_offline",
                "This site is not connected at the moment. Try again soon.",
            ),
            Self::TunnelBusy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "tunnel_busy",
                "This site is very busy at the moment. Try again in a second.",
            ),
            Self::TunnelStalled => (
                StatusCode::SERVICE_UNAVAILABLE,
                "tunnel_stalled",
                "The connection to this site has stalled. Try again soon.",
            ),
            Self::TunnelLost => (
                StatusCode::BAD_GATEWAY,
                "tunnel_lost",
                "The connection to this site broke before it answered. Try again.",
            ),
            Self::ServiceGone => (StatusCode::BAD_GATEWAY, "service_gone", "This site is not offered any more."),
            Self::LocalUnreachable => (
                StatusCode::BAD_GATEWAY,
                "local_unreachable",
                "The way to this site is open, but its application is not running.",
            ),
            Self::LocalTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "local_timeout",
                "The application behind this site does not take connections in time.",
            ),
            Self::LocalBroken => (
                StatusCode::BAD_GATEWAY,
                "local_broken",
                "The application behind this site broke off before it answered.",
            ),
            Self::ResponseTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "response_timeout",
                "The application behind this site did not answer in time.",
            ),
            Self::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "request_timeout", "The request did not arrive in time.")
            }
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request", "The request cannot be understood."),
            Self::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "The head of the request is too large.")
            }
            Self::RateLimited(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests from your address. Wait a moment.")
            }
            Self::SiteRateLimited(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "site_rate_limited",
                "This site gets more requests than it may. Wait a moment.",
            ),
            Self::AddressBusy => (
                StatusCode::TOO_MANY_REQUESTS,
                "address_busy",
                "Too many requests from your address are open at the moment. Try again in a second.",
            ),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "This site does not let you in."),
            Self::Unauthorized(_) => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "This site asks for a name and a password.")
            }
            Self::BadSignature(_) => (
                StatusCode::UNAUTHORIZED,
                "bad_signature",
                "The signature of the request is missing, wrong, too old, or was used before.",
            ),
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body of the request is too large.")
            }
            Self::AccessBusy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "access_busy",
                "Too many visitors are being let in at the moment. Try again in a second.",
            ),
            Self::CutByOperator => (
                StatusCode::SERVICE_UNAVAILABLE,
                "cut_by_operator",
                "The operator of this server has ended the request.",
            ),
        }
    }

    /// The limit that the visitor has come up against, if it is one.
    pub(super) fn limit(&self) -> Option<Limit> {
        match self {
            Self::RateLimited(_) => Some(Limit::RatePerIp),
            Self::SiteRateLimited(_) => Some(Limit::RatePerClient),
            Self::TunnelBusy => Some(Limit::Streams),
            Self::AccessBusy => Some(Limit::Access),
            Self::AddressBusy => Some(Limit::StreamsPerIp),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.facts().0
    }

    pub(super) fn code(&self) -> &'static str {
        self.facts().1
    }

    /// The same for a gRPC client: status and message, as trailers. Which status stands for which of HTTP is what gRPC
    /// itself says ("HTTP to gRPC Status Code Mapping").
    pub(super) fn grpc_trailers(&self) -> HeaderMap {
        let (status, _, message) = self.facts();
        let number = match status {
            StatusCode::BAD_REQUEST | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => GRPC_INTERNAL,
            StatusCode::UNAUTHORIZED => GRPC_UNAUTHENTICATED,
            StatusCode::FORBIDDEN => GRPC_PERMISSION_DENIED,
            StatusCode::NOT_FOUND => GRPC_UNIMPLEMENTED,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => GRPC_UNAVAILABLE,
            _ => GRPC_UNKNOWN,
        };
        let message = HeaderValue::from_static(message);
        HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(number)), (GRPC_MESSAGE, message)])
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TunnelOffline | Self::TunnelStalled => Some(AGENTS_COME_BACK),
            Self::TunnelBusy | Self::AccessBusy | Self::AddressBusy => Some(1),
            Self::CutByOperator => Some(60),
            Self::RateLimited(wait) | Self::SiteRateLimited(wait) => Some(wait.seconds()),
            _ => None,
        }
    }

    /// Whose limit was reached, and how far. In the words of `RateLimit` (draft-ietf-httpapi-ratelimit-headers), and in
    /// those that came before them and that more programs read.
    fn rate_limit(&self, headers: &mut HeaderMap) {
        let (policy, wait) = match self {
            Self::RateLimited(wait) => ("address", wait),
            Self::SiteRateLimited(wait) => ("site", wait),
            _ => return,
        };
        let (seconds, quota) = (wait.seconds(), wait.quota());
        let texts = [
            (RATE_LIMIT, format!("\"{policy}\";r=0;t={seconds}")),
            (RATE_LIMIT_POLICY, format!("\"{policy}\";q={quota};w={}", wait.window())),
        ];
        headers.extend(texts.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?))));
        headers.insert(RATE_LIMIT_LIMIT, HeaderValue::from(quota));
        headers.insert(RATE_LIMIT_REMAINING, HeaderValue::from(0));
        headers.insert(RATE_LIMIT_RESET, HeaderValue::from(seconds));
    }

    /// With what a visitor could get in (RFC 9110, section 11.6.1).
    fn challenge(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::Unauthorized(name) => format!("Basic realm=\"{name}\", charset=\"UTF-8\""),
            // No scheme that anybody has registered: there is nothing to type in.
            Self::BadSignature(name) => format!("HMAC-SHA256 realm=\"{name}\""),
            _ => return None,
        };
        HeaderValue::try_from(text).ok()
    }

    /// The whole answer, in the form that the visitor understands best.
    pub(super) fn answer(&self, request_id: RequestId, form: Form) -> Response<Full<Bytes>> {
        let (status, code, message) = self.facts();
        let (kind, body) = match form {
            Form::Page => ("text/html; charset=utf-8", page(status, code, message, request_id)),
            Form::Line => {
                let facts =
                    serde_json::json!({ "error": code, "message": message, "request_id": request_id.to_string() });
                ("application/json", format!("{facts}\n"))
            }
            Form::Grpc => ("application/grpc", String::new()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if form == Form::Grpc {
            // The whole answer is its trailers, sent as the head.
            headers.extend(self.grpc_trailers());
            *response.status_mut() = StatusCode::OK;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        // What is missing now may be there at the next request.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ERROR_CODE, HeaderValue::from_static(code));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        self.rate_limit(headers);
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if *self == Self::MethodNotAllowed {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        sign(response, request_id)
    }
}

impl From<OpenFailure> for Failure {
    fn from(failure: OpenFailure) -> Self {
        match failure {
            OpenFailure::Busy | OpenFailure::ClientBusy => Self::TunnelBusy,
            OpenFailure::Gone => Self::TunnelOffline,
            OpenFailure::Stalled => Self::TunnelStalled,
        }
    }
}

/// What a visitor understands of an answer that the server itself gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A person in a browser.
    Page,
    /// A program: a line of JSON.
    Line,
    /// A gRPC client, for which the HTTP status is always 200.
    Grpc,
}

impl Form {
    /// What the head of a request asks for.
    pub(super) fn of(asked: &HeaderMap) -> Self {
        if is_grpc(asked) {
            return Self::Grpc;
        }
        let is_page = |accept: &HeaderValue| accept.to_str().is_ok_and(|accept| accept.contains("text/html"));
        if asked.get_all(ACCEPT).iter().any(is_page) { Self::Page } else { Self::Line }
    }
}

/// Whether a message is gRPC, plain or with a named encoding (`application/grpc+proto`). gRPC-Web is not: its failures
/// are those of HTTP.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

fn page(status: StatusCode, code: &str, message: &str, request_id: RequestId) -> String {
    let (number, reason) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex\"><title>{number} {reason}</title><style>{STYLE}</style></head>\n\
         <body><main><p class=\"number\">{number}</p><h1>{reason}</h1><p>{message}</p>\
         <p class=\"small\">{code} &middot; request {request_id}</p></main></body></html>\n"
    )
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-items:center;font:1rem/1.5 system-ui,sans-serif;\
background:Canvas;color:CanvasText}\
main{max-width:30rem;padding:2rem}\
.number{margin:0;font-size:4rem;font-weight:700;line-height:1;opacity:.25}\
h1{margin:.25rem 0 1rem;font-size:1.5rem}\
.small{margin-top:2rem;font-size:.8rem;opacity:.6;font-family:ui-monospace,monospace}";

/// `GET /health` on the bare domain or address.
pub(super) fn health(connected: bool, request_id: RequestId) -> Response<Full<Bytes>> {
    let text = if connected { "Tunnel: Connected\n" } else { "Tunnel: Disconnected\n" };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    if !connected {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(AGENTS_COME_BACK));
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    sign(response, request_id)
}

/// Sends the visitor to `location`, with the same method and body.
pub(super) fn redirect(location: HeaderValue, request_id: RequestId) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    sign(response, request_id)
}

fn sign(mut response: Response<Full<Bytes>>, request_id: RequestId) -> Response<Full<Bytes>> {
    for (name, value) in [(DATE, httpdate::fmt_http_date(SystemTime::now())), (REQUEST_ID, request_id.to_string())] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_of_the_documents_is_counted_by_its_name() {
        let text = include_str!("../../../docs/errors.md").split("A gRPC client").next().unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let listed: Vec<&str> = rows.map(|(code, _)| code).collect();
        assert!(listed.len() > 20, "{listed:?}");
        for code in &listed {
            assert_ne!(code_number(code), 0, "{code} is not in CODES");
        }
        for code in &CODES[1..] {
            assert!(listed.contains(code), "{code} is not in docs/errors.md");
        }
        assert_eq!(code_number("of a later version"), 0);
    }
}
