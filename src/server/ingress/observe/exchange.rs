//! An exchange from its arrival: opened once, and ended once when it is dropped.

use std::sync::Arc;

use http::Request;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::limits::Permit;
use crate::server::http_connection::in_flight::InFlightGuard;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::observe::record::{ExchangeRecord, Outcome, RequestSummary, loggable_host};
use crate::server::ingress::observe::{Observer, Observers};
use crate::server::metrics::Meter;
use crate::values::ClientId;

/// A request or raw connection that is being handled. Dropping it ends the exchange, unless it is forwarded: then it
/// ends with its [`ForwardedExchange`].
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    observers: &'a Arc<Observers>,
    stage: RequestStage,
}

/// How far an exchange has come.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "each exchange begins with the large one, on the stack")]
enum RequestStage {
    /// It is being routed and checked.
    Received(ExchangeRecord),
    /// A tunnel carries it. Keeps an exchange whose forwarding failed until the failure page is counted.
    Forwarded(Option<Arc<ForwardedExchange>>),
}

/// What a forwarded exchange holds until it ends. Fields are released in this order.
#[derive(Debug)]
#[allow(dead_code, reason = "held until they are dropped")]
pub(crate) struct HeldPermits {
    /// Its share of `limits.streams`.
    pub(crate) server: Permit,
    /// Its share of what the visitor's address may have open.
    pub(crate) address: Option<Permit>,
    /// Marks its connection as busy.
    pub(crate) in_flight: Option<InFlightGuard>,
    /// Counts the exchange as open. Released last: when no exchange is open, nothing else is in use.
    pub(crate) open: TaskTrackerToken,
}

impl<'a> Exchange<'a> {
    /// Opens the exchange of `record`.
    pub(crate) fn open(observers: &'a Arc<Observers>, record: ExchangeRecord) -> Self {
        Self { observers, stage: RequestStage::Received(record) }
    }

    /// Records which service the exchange is for.
    pub(crate) fn set_service(&mut self, service: &Arc<Meter>) {
        if let RequestStage::Received(record) = &mut self.stage {
            record.service = Some(Arc::clone(service));
        }
    }

    /// Returns the client of the service, if that is known and the exchange was not forwarded.
    pub(crate) fn client(&self) -> Option<&ClientId> {
        match &self.stage {
            RequestStage::Received(record) => record.service.as_ref().map(|service| service.client()),
            RequestStage::Forwarded(_) => None,
        }
    }

    /// Moves the exchange on to forwarding. `summary` is called if the access log has not needed it yet. Returns `None` if
    /// the exchange was forwarded before.
    pub(crate) fn forward(
        &mut self,
        permits: HeldPermits,
        summary: impl FnOnce() -> RequestSummary,
    ) -> Option<Arc<ForwardedExchange>> {
        let RequestStage::Received(mut record) = std::mem::replace(&mut self.stage, RequestStage::Forwarded(None))
        else {
            return None;
        };
        record.summary.get_or_insert_with(summary);
        Some(ForwardedExchange::open(record, permits, self.observers))
    }

    /// Keeps a forwarded exchange that failed before a response began, so that its failure page is counted.
    pub(crate) fn forwarding_failed(&mut self, exchange: Arc<ForwardedExchange>) {
        self.stage = RequestStage::Forwarded(Some(exchange));
    }

    /// Records that the visitor gets a page of the server's own with `status` and `sent` bytes.
    pub(crate) fn own_page<B>(&mut self, status: u16, sent: usize, request: &Request<B>) {
        self.answered(Outcome::OwnPage, status, sent);
        self.log_host(request);
    }

    /// Records that the request failed, and that the visitor gets a failure page of `sent` bytes.
    pub(crate) fn failed<B>(&mut self, failure: Failure, sent: usize, request: &Request<B>) {
        let status = failure.status().as_u16();
        self.answered(Outcome::Failed(failure), status, sent);
        self.log_host(request);
    }

    /// Records that the request failed, and that the visitor gets no answer.
    pub(crate) fn unanswered<B>(&mut self, failure: Failure, request: &Request<B>) {
        self.answered(Outcome::Failed(failure), 0, 0);
        self.log_host(request);
    }

    /// Records that the raw connection failed.
    pub(crate) fn connection_failed(&mut self, failure: Failure) {
        self.answered(Outcome::Failed(failure), 0, 0);
    }

    fn answered(&mut self, outcome: Outcome, status: u16, sent: usize) {
        match &mut self.stage {
            RequestStage::Received(record) => {
                let end = &mut record.end;
                (end.outcome, end.status, end.sent) = (outcome, status, sent as u64);
            }
            RequestStage::Forwarded(Some(exchange)) => exchange.sent_page(sent),
            RequestStage::Forwarded(None) => {}
        }
    }

    /// Records the host of a request to no service. The head of such a request is unchanged.
    fn log_host<B>(&mut self, request: &Request<B>) {
        if let RequestStage::Received(record) = &mut self.stage
            && record.summary.is_some()
            && record.service.is_none()
        {
            record.host = loggable_host(request);
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if let RequestStage::Received(record) = &mut self.stage {
            self.observers.ended(record);
        }
    }
}
