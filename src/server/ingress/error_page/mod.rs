//! What a visitor gets from the server itself: one place that turns a failure into a status, a stable code, and a page
//! or a line of JSON. Never an internal detail. `failure` lists what can fail; `page` is the page.

mod failure;
mod page;

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER, UPGRADE_INSECURE_REQUESTS,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use super::headers::REQUEST_ID;
use crate::protocol::media_type::is_grpc;
use crate::transport::delivery::Piece;
use crate::values::RequestId;
pub(crate) use failure::Failure;
use page::page;

/// The header with the stable code of a failure.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-adit-error");

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

const GRPC_UNKNOWN: u16 = 2;
const GRPC_PERMISSION_DENIED: u16 = 7;
const GRPC_UNIMPLEMENTED: u16 = 12;
const GRPC_INTERNAL: u16 = 13;
const GRPC_UNAVAILABLE: u16 = 14;
const GRPC_UNAUTHENTICATED: u16 = 16;

/// Seconds in which an agent that was cut off is mostly back.
const AGENTS_COME_BACK: u64 = 5;

impl Failure {
    /// The same for a gRPC client: status and message, as trailers. Which status stands for which of HTTP is what gRPC
    /// itself says ("HTTP to gRPC Status Code Mapping").
    pub(crate) fn grpc_trailers(&self) -> HeaderMap {
        let (status, message) = (self.status(), self.message());
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
            Self::TunnelBusy | Self::AccessBusy | Self::AddressBusy | Self::HeadsBusy => Some(1),
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

    /// The whole answer, in the form that the visitor understands best. `name` is what the visitor asked for, if the message
    /// should tell: it comes from the visitor.
    pub(crate) fn answer(&self, request_id: RequestId, form: Form, name: Option<&str>) -> Response<Full<Piece>> {
        let (status, code) = (self.status(), self.code());
        let message = match name {
            Some(name) => format!("There is nothing at {name}."),
            None => self.message().to_owned(),
        };
        let (kind, body) = match form {
            Form::Page { is_navigation } => {
                ("text/html; charset=utf-8", page(self, &message, is_navigation, request_id))
            }
            Form::Line => {
                let facts =
                    serde_json::json!({ "error": code, "message": message, "request_id": request_id.to_string() });
                ("application/json", format!("{facts}\n"))
            }
            Form::Grpc => ("application/grpc", String::new()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body).into()));
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

/// What a visitor understands of an answer that the server itself gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A person in a browser.
    Page {
        /// Whether the browser shows the page itself, by a `GET` that can be repeated.
        is_navigation: bool,
    },
    /// A program: a line of JSON.
    Line,
    /// A gRPC client, for which the HTTP status is always 200.
    Grpc,
}

impl Form {
    /// What the head of a request asks for.
    pub(crate) fn of(method: &Method, asked: &HeaderMap) -> Self {
        if is_grpc(asked) {
            return Self::Grpc;
        }
        let is_page = |accept: &HeaderValue| accept.to_str().is_ok_and(|accept| accept.contains("text/html"));
        if !asked.get_all(ACCEPT).iter().any(is_page) {
            return Self::Line;
        }
        // Over plain HTTP, browsers send no Fetch metadata (except to their own machine). There, only navigations ask for an
        // upgrade (Upgrade Insecure Requests, section 3.2.1).
        let is_shown = match asked.get(FETCH_MODE) {
            Some(mode) => mode == "navigate",
            None => asked.contains_key(UPGRADE_INSECURE_REQUESTS),
        };
        Self::Page { is_navigation: *method == Method::GET && is_shown }
    }
}

/// What `/health` was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// An agent is there.
    Connected,
    /// None is.
    Disconnected,
    /// No client may have that name.
    Unknown,
}

/// `GET /health` on the bare domain or address. It has two answers; of a name that no client may have, a field says so,
/// too.
pub(crate) fn health(health: Health, request_id: RequestId) -> Response<Full<Piece>> {
    let connected = health == Health::Connected;
    let text = if connected { "Tunnel: Connected\n" } else { "Tunnel: Disconnected\n" };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes()).into()));
    if !connected {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(AGENTS_COME_BACK));
    }
    if health == Health::Unknown {
        response.headers_mut().insert(ERROR_CODE, HeaderValue::from_static(Failure::UnknownName.code()));
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    sign(response, request_id)
}

/// Sends the visitor to `location`, with the same method and body.
pub(crate) fn redirect(location: HeaderValue, request_id: RequestId) -> Response<Full<Piece>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    sign(response, request_id)
}

fn sign(mut response: Response<Full<Piece>>, request_id: RequestId) -> Response<Full<Piece>> {
    for (name, value) in [(DATE, httpdate::fmt_http_date(SystemTime::now())), (REQUEST_ID, request_id.to_string())] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
