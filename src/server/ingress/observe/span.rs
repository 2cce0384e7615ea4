//! The span of a request, following OpenTelemetry's semantic conventions for HTTP. It contains nothing from the query, and of
//! the header fields only `Host`: the others may contain secrets.

use std::net::IpAddr;

use http::{Request, Version};

use crate::protocol::exchange::Scheme;
use crate::routing;
use crate::server::ingress::connection::ConnectionContext;
use crate::server::ingress::headers;
use crate::server::ingress::observe::Observer;
use crate::server::ingress::observe::record::{ExchangeEnd, ExchangeRecord, Outcome};
use crate::telemetry::{Facts, RequestSpan};
use crate::values::RequestId;

/// The methods that OpenTelemetry knows.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// Begins the span of a request from `visitor`.
pub(crate) fn begin<B>(
    connection: &ConnectionContext,
    request: &Request<B>,
    request_id: RequestId,
    visitor: IpAddr,
) -> RequestSpan {
    connection.ingress.traces.begin(request.headers(), |facts| {
        describe(connection.scheme, request, facts);
        facts.text("client.address", &visitor.to_string());
        facts.text("adit.request_id", &request_id.to_string());
    })
}

fn describe<B>(scheme: Scheme, request: &Request<B>, facts: &mut Facts<'_>) {
    let method = request.method().as_str();
    let known = METHODS.iter().find(|known| **known == method).copied();
    facts.word("http.request.method", known.unwrap_or("_OTHER"));
    match known {
        Some(known) => facts.name(known),
        None => facts.text("http.request.method_original", method),
    }
    facts.text("url.path", request.uri().path());
    facts.word("url.scheme", scheme.as_str());
    if let Ok(Some(authority)) = headers::authority_of(request)
        && let Ok(authority) = std::str::from_utf8(&authority)
    {
        facts.text("server.address", routing::host_of(authority));
        if let Some(port) = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()) {
            facts.number("server.port", port.into());
        }
    }
    let version = match request.version() {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    facts.word("network.protocol.version", version);
}

/// Ends the spans of exchanges.
#[derive(Debug)]
pub(crate) struct SpanEnd;

impl Observer for SpanEnd {
    fn ended(&self, record: &mut ExchangeRecord) {
        let span = std::mem::take(&mut record.span);
        // Dropped without being described, the span of an abandoned request ends as it is.
        if record.end.outcome != Outcome::Abandoned {
            span.end(|facts| describe_end(record, facts));
        }
    }
}

fn describe_end(record: &ExchangeRecord, facts: &mut Facts<'_>) {
    let ExchangeEnd { outcome, status, waited, local, .. } = &record.end;
    let status = *status;
    if let Some(service) = &record.service {
        facts.text("adit.client", service.client().as_str());
        facts.text("adit.service", service.name().as_str());
    }
    if status > 0 {
        facts.number("http.response.status_code", status.into());
    }
    facts.word("adit.outcome", outcome.as_str());
    if let Some(waited) = waited {
        facts.event("adit.answer_began", record.elapsed().saturating_sub(*waited));
    }
    if let Some(local) = local {
        facts.number("adit.local_us", u64::try_from(local.as_micros()).unwrap_or(u64::MAX));
    }
    let is_failure = matches!(outcome, Outcome::Failed(_));
    if is_failure {
        facts.word("error.type", outcome.as_str());
    } else if status >= 500 {
        facts.text("error.type", &status.to_string());
    }
    // A visitor's mistake is no error of the server.
    if status >= 500 || (is_failure && !(400..500).contains(&status)) {
        facts.failed();
    }
}
