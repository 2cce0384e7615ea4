//! The record of one exchange: a request, or a raw connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HOST;
use http::{HeaderValue, Method, Request, Uri};

use crate::protocol::login::ServiceKind;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::observe::access_log;
use crate::server::metrics::Meter;
use crate::telemetry::RequestSpan;
use crate::values::RequestId;

/// What is known of an exchange.
#[derive(Debug)]
pub(crate) struct ExchangeRecord {
    pub(crate) request_id: RequestId,
    pub(crate) visitor: IpAddr,
    /// When the exchange arrived or, if it is forwarded, when forwarding began. `None` if no observer needs it.
    pub(crate) started: Option<Instant>,
    /// What the visitor asked for. `None` before forwarding if no observer needs it.
    pub(crate) summary: Option<RequestSummary>,
    /// The service, once it is known, with the counters of its client.
    pub(crate) service: Option<Arc<Meter>>,
    /// The host asked for, if there is no such service and the access log is on.
    pub(crate) host: Option<String>,
    /// The span. Raw connections have none.
    pub(crate) span: RequestSpan,
    pub(crate) end: ExchangeEnd,
}

/// How an exchange ended.
#[derive(Debug, Default)]
pub(crate) struct ExchangeEnd {
    pub(crate) outcome: Outcome,
    /// Whether a tunnel was to carry the exchange.
    pub(crate) was_forwarded: bool,
    /// The HTTP status that the visitor got; 0 if none.
    pub(crate) status: u16,
    /// Bytes of bodies sent to the visitor.
    pub(crate) sent: u64,
    /// Bytes of bodies received from the visitor.
    pub(crate) received: u64,
    /// How long after the start the application began to answer, if it did.
    pub(crate) waited: Option<Duration>,
    /// How much of that the application itself took, if the agent reports it.
    pub(crate) local: Option<Duration>,
}

/// The result of an exchange.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The visitor left before the server decided what to do with the request.
    #[default]
    Abandoned,
    /// The server answered with a page of its own.
    OwnPage,
    /// The response or the connection is complete.
    Complete,
    /// The visitor did not wait for the end.
    Cut,
    /// The exchange failed or was refused.
    Failed(Failure),
}

impl Outcome {
    /// Returns the word for this outcome in the access log and in spans.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Abandoned | Self::Cut => "cut",
            Self::OwnPage => "own",
            Self::Complete => "ok",
            Self::Failed(failure) => failure.code(),
        }
    }
}

impl ExchangeRecord {
    /// Returns the record of a request. Builds nothing for the access log if it is off.
    pub(crate) fn of_request<B>(
        request_id: RequestId,
        visitor: IpAddr,
        request: &Request<B>,
        span: RequestSpan,
        log_query: bool,
    ) -> Self {
        let is_logged = access_log::is_enabled();
        Self {
            request_id,
            visitor,
            started: is_logged.then(Instant::now),
            summary: is_logged.then(|| RequestSummary::of(request, log_query)),
            service: None,
            host: None,
            span,
            end: ExchangeEnd::default(),
        }
    }

    /// Returns the record of a raw connection to `service`.
    pub(crate) fn of_connection(
        request_id: RequestId,
        visitor: IpAddr,
        kind: ServiceKind,
        service: Arc<Meter>,
    ) -> Self {
        Self {
            request_id,
            visitor,
            started: Some(Instant::now()),
            summary: Some(RequestSummary::Connection(kind)),
            service: Some(service),
            host: None,
            span: RequestSpan::none(),
            end: ExchangeEnd::default(),
        }
    }

    /// Returns the record of a request whose head cannot be read.
    pub(crate) fn of_unreadable(request_id: RequestId, visitor: IpAddr) -> Self {
        Self {
            request_id,
            visitor,
            started: None,
            summary: Some(RequestSummary::Unreadable),
            service: None,
            host: None,
            span: RequestSpan::none(),
            end: ExchangeEnd::default(),
        }
    }

    /// Returns the method or the kind of connection, and the path without the query.
    pub(crate) fn method_and_path(&self) -> (&str, &str) {
        self.summary.as_ref().map_or(("", ""), RequestSummary::method_and_path)
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.map(|started| started.elapsed()).unwrap_or_default()
    }
}

/// What a visitor asked for.
#[derive(Debug)]
pub(crate) enum RequestSummary {
    /// A request.
    Request(Method, RequestPath),
    /// A raw connection.
    Connection(ServiceKind),
    /// A request whose head cannot be read.
    Unreadable,
}

impl RequestSummary {
    /// Summarizes a request. The query may contain secrets: it is left out unless the operator opts in.
    pub(crate) fn of<B>(request: &Request<B>, log_query: bool) -> Self {
        Self::Request(request.method().clone(), RequestPath::of(request.uri(), log_query))
    }

    /// Returns the method or the kind of connection, and the path without the query.
    pub(crate) fn method_and_path(&self) -> (&str, &str) {
        match self {
            Self::Request(method, path) => (method.as_str(), path.without_query()),
            Self::Connection(kind) => (kind.word(), ""),
            Self::Unreadable => ("", ""),
        }
    }

    /// Returns the path as the access log has it.
    pub(crate) fn logged_path(&self) -> &str {
        match self {
            Self::Request(_, path) => &path.logged,
            Self::Connection(_) | Self::Unreadable => "",
        }
    }
}

/// The path of a request, with its query if that is logged.
#[derive(Debug)]
pub(crate) struct RequestPath {
    logged: String,
    /// Where the query begins, if there is one.
    query_start: usize,
}

impl RequestPath {
    fn of(uri: &Uri, log_query: bool) -> Self {
        let path = uri.path();
        let logged = match uri.query() {
            Some(query) if log_query => format!("{path}?{query}"),
            _ => path.to_owned(),
        };
        Self { query_start: path.len(), logged }
    }

    fn without_query(&self) -> &str {
        &self.logged[..self.query_start]
    }
}

/// The longest host that is logged, in bytes: the longest name (RFC 1035, section 2.3.4) and a port.
pub(crate) const MAX_HOST: usize = 253 + 6;

/// Returns the host that a request names in a form that is safe to log: bounded, and with `?` in place of characters that
/// no host contains.
pub(crate) fn loggable_host<B>(request: &Request<B>) -> Option<String> {
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let host = target.or_else(|| request.headers().get(HOST).map(HeaderValue::as_bytes))?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]*%".contains(&byte);
    let plain = |byte: &u8| if is_plain(*byte) { char::from(*byte) } else { '?' };
    Some(host.iter().take(MAX_HOST).map(plain).collect())
}
