//! Writes one line of the access log for each exchange.

use std::time::Duration;

use crate::server::ingress::observe::Observer;
use crate::server::ingress::observe::record::{ExchangeRecord, Outcome, RequestSummary};
use crate::telemetry::ACCESS_LOG;

/// The access log.
#[derive(Debug)]
pub(crate) struct AccessLog;

/// Returns whether the access log is on.
pub(crate) fn is_enabled() -> bool {
    tracing::enabled!(target: ACCESS_LOG, tracing::Level::INFO)
}

impl Observer for AccessLog {
    fn ended(&self, record: &mut ExchangeRecord) {
        if record.end.outcome == Outcome::Abandoned {
            return;
        }
        if let Some(summary) = record.summary.as_ref().filter(|_| is_enabled()) {
            write(record, summary);
        }
    }
}

fn write(record: &ExchangeRecord, summary: &RequestSummary) {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (service, end) = (record.service.as_deref(), &record.end);
    tracing::info!(
        target: ACCESS_LOG,
        request = %record.request_id,
        visitor = %record.visitor,
        client = service.map_or("", |service| service.client().as_str()),
        name = service.map_or("", |service| service.name().as_str()),
        host = record.host.as_deref(),
        method = summary.method_and_path().0,
        path = summary.logged_path(),
        status = end.status,
        bytes = end.sent,
        received = end.received,
        wait_ms = end.waited.map(millis),
        local_ms = end.local.map(millis),
        ms = millis(record.elapsed()),
        outcome = end.outcome.as_str(),
        "request"
    );
}
