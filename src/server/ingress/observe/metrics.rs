//! Counts exchanges in the metrics, for each service and in all.

use std::sync::Arc;

use http::{Method, StatusCode};

use crate::server::ingress::error_page::Failure;
use crate::server::ingress::observe::Observer;
use crate::server::ingress::observe::record::{ExchangeRecord, Outcome, RequestSummary};
use crate::server::metrics::{Meter, Metrics, Outcome as Counted};

/// Counts each exchange once, when it ends.
#[derive(Debug)]
pub(crate) struct ExchangeMetrics(Arc<Metrics>);

impl ExchangeMetrics {
    /// Counts in `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self(metrics)
    }

    /// Counts an exchange that failed before it was forwarded.
    fn refused(&self, record: &ExchangeRecord, failure: &Failure) {
        match &record.service {
            Some(service) => {
                service.refused(failure.status(), failure.number());
                service.sent(usize::try_from(record.end.sent).unwrap_or(usize::MAX));
            }
            None => self.0.totals.failed(failure.number()),
        }
    }
}

impl Observer for ExchangeMetrics {
    fn ended(&self, record: &mut ExchangeRecord) {
        let end = &record.end;
        if let Outcome::Failed(failure) = &end.outcome {
            // A limit can only be hit before the response begins.
            if let Some(limit) = failure.limit().filter(|_| end.waited.is_none()) {
                self.0.limited(limit);
            }
            if !end.was_forwarded {
                return self.refused(record, failure);
            }
        }
        // A page of the server's own and an abandoned request are not counted.
        if let Some(service) = record.service.as_deref().filter(|_| end.was_forwarded) {
            forwarded(record, service);
        }
    }
}

/// Counts an exchange that was forwarded.
fn forwarded(record: &ExchangeRecord, service: &Meter) {
    let end = &record.end;
    let outcome = match &end.outcome {
        Outcome::Complete | Outcome::OwnPage => Counted::Whole,
        Outcome::Cut | Outcome::Abandoned => Counted::Cut,
        Outcome::Failed(failure) => Counted::Failed(failure.number()),
    };
    match &record.summary {
        Some(RequestSummary::Request(method, _)) => {
            let status = StatusCode::from_u16(end.status).ok();
            let is_connection = method == Method::CONNECT || status == Some(StatusCode::SWITCHING_PROTOCOLS);
            service.request_ended(status, (!is_connection).then(|| record.elapsed()), outcome);
        }
        _ => service.connection_ended(outcome),
    }
}
