//! The span of a request, in the words of OpenTelemetry's conventions for HTTP. Nothing in it comes from the query or from
//! a field of the request but `Host`: both may hold secrets.

use std::net::IpAddr;
use std::time::Duration;

use http::{Request, Version};

use crate::routing;
use crate::server::ingress::{Visit, headers};
use crate::server::metrics::Meter;
use crate::telemetry::{Facts, RequestSpan};
use crate::values::RequestId;

/// The methods that have a name of their own; visitors can make up others.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// Begins the span of a request of `visitor`.
pub(crate) fn begin<B>(visit: &Visit, request: &Request<B>, who: (RequestId, IpAddr)) -> RequestSpan {
    visit.ingress.traces.begin(request.headers(), |facts| describe(visit, request, who, facts))
}

fn describe<B>(visit: &Visit, request: &Request<B>, (id, visitor): (RequestId, IpAddr), facts: &mut Facts<'_>) {
    let method = request.method().as_str();
    let known = METHODS.iter().find(|known| **known == method).copied();
    facts.word("http.request.method", known.unwrap_or("_OTHER"));
    match known {
        Some(known) => facts.name(known),
        None => facts.text("http.request.method_original", method),
    }
    facts.text("url.path", request.uri().path());
    facts.word("url.scheme", visit.scheme.as_str());
    if let Ok(Some(authority)) = headers::authority_of(request)
        && let Ok(authority) = std::str::from_utf8(&authority)
    {
        facts.text("server.address", routing::host_of(authority));
        if let Some(port) = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()) {
            facts.number("server.port", port.into());
        }
    }
    facts.text("client.address", &visitor.to_string());
    let version = match request.version() {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    facts.word("network.protocol.version", version);
    facts.text("adit.request_id", &id.to_string());
}

/// How a request ended.
pub(crate) struct End<'a> {
    /// Whose service it was for, if that was known.
    pub(crate) meter: Option<&'a Meter>,
    /// 0: it got none.
    pub(crate) status: u16,
    /// As the access log has it.
    pub(crate) outcome: &'static str,
    /// How long ago the application began to answer, if it did.
    pub(crate) answered: Option<Duration>,
    /// How long it took for that itself, if its agent tells.
    pub(crate) local: Option<Duration>,
}

impl End<'_> {
    /// Tells the span.
    pub(crate) fn tell(&self, facts: &mut Facts<'_>) {
        let Self { meter, status, outcome, answered, local } = *self;
        if let Some(meter) = meter {
            facts.text("adit.client", meter.client().as_str());
            facts.text("adit.service", meter.name().as_str());
        }
        if status > 0 {
            facts.number("http.response.status_code", status.into());
        }
        facts.word("adit.outcome", outcome);
        if let Some(ago) = answered {
            facts.event("adit.answer_began", ago);
        }
        if let Some(local) = local {
            facts.number("adit.local_us", u64::try_from(local.as_micros()).unwrap_or(u64::MAX));
        }
        let is_failure = !matches!(outcome, "ok" | "own" | "cut");
        match is_failure {
            true => facts.word("error.type", outcome),
            false if status >= 500 => facts.text("error.type", &status.to_string()),
            false => {}
        }
        // What the visitor has done wrong is no error of a server.
        if status >= 500 || (is_failure && !(400..500).contains(&status)) {
            facts.failed();
        }
    }
}
