//! What is counted of requests.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::failure_code::FailureCode;
use super::{Count, Counts};
use crate::telemetry::Histogram;
use crate::values::{ClientId, Name};

/// How many codes of failures there are.
const CODES: usize = FailureCode::TEXTS.len();

/// Of all services together.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// From the head of a request to the end of its answer. Without those that became connections.
    pub(crate) time: Histogram,
    /// From the head of a request to the head of the application's answer.
    pub(crate) waiting: Histogram,
    /// The part of it between the agent's having the request and its having that head, as agents tell.
    pub(crate) local: Histogram,
    /// By [`FailureCode`].
    pub(crate) failures: Counts<CODES>,
    /// Answers that broke off, or that the visitor did not wait for.
    pub(crate) cut: Count,
}

impl Totals {
    /// A request or connection has failed.
    pub(crate) fn failed(&self, code: usize) {
        self.failures.at(code).one();
    }
}

/// By the first digit of the status; those without an answer are the first.
pub(crate) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// One service of one client, over all its agents and their comings and goings.
#[derive(Debug)]
pub(crate) struct Meter {
    client: ClientId,
    name: Name,
    totals: Arc<Totals>,
    pub(crate) requests: Counts<{ CLASSES.len() }>,
    pub(crate) connections: Count,
    pub(crate) received: Count,
    pub(crate) sent: Count,
    /// Of all requests together.
    pub(crate) micros: Count,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Whole,
    Cut,
    /// The place of the failure's code.
    Failed(usize),
}

impl Meter {
    /// Nothing is counted yet.
    pub(crate) fn new(client: ClientId, name: Name, totals: Arc<Totals>) -> Self {
        Self {
            client,
            name,
            totals,
            requests: Counts::default(),
            connections: Count::default(),
            received: Count::default(),
            sent: Count::default(),
            micros: Count::default(),
        }
    }

    /// Of a service that never was.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Arc<Self> {
        Arc::new(Self::new("test".parse().unwrap(), "test".parse().unwrap(), Arc::default()))
    }

    /// Whose service it is.
    pub(crate) fn client(&self) -> &ClientId {
        &self.client
    }

    /// The service.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// So many bytes came from visitors.
    pub(crate) fn received(&self, bytes: usize) {
        self.received.add(bytes as u64);
    }

    /// So many bytes went to visitors.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.add(bytes as u64);
    }

    /// The application has begun to answer, so long after it was asked. So much of that was its own time, if its agent
    /// tells.
    pub(crate) fn answered(&self, after: Duration, local: Option<Duration>) {
        self.totals.waiting.observe(after);
        if let Some(local) = local {
            self.totals.local.observe(local);
        }
    }

    /// A request was refused before its agent heard of it. Not timed: it took no time.
    pub(crate) fn refused(&self, status: StatusCode, code: usize) {
        self.requests.at(usize::from(status.as_u16() / 100)).one();
        self.totals.failed(code);
    }

    /// A request has ended; `status` is what the visitor got. One that has become a connection takes as long as somebody
    /// stays, and no time is given for it.
    pub(crate) fn request_ended(&self, status: Option<StatusCode>, took: Option<Duration>, outcome: Outcome) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
        self.requests.at(class).one();
        if let Some(took) = took {
            self.totals.time.observe(took);
            self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        self.ended(outcome);
    }

    /// A connection has ended.
    pub(crate) fn connection_ended(&self, outcome: Outcome) {
        self.connections.one();
        self.ended(outcome);
    }

    fn ended(&self, outcome: Outcome) {
        match outcome {
            Outcome::Whole => {}
            Outcome::Cut => self.totals.cut.one(),
            Outcome::Failed(code) => self.totals.failed(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_counted_once_in_its_class() {
        let meter = Meter::for_tests();
        let took = Some(Duration::from_millis(3));
        for (status, outcome) in [
            (Some(StatusCode::OK), Outcome::Whole),
            (Some(StatusCode::OK), Outcome::Cut),
            (Some(StatusCode::BAD_GATEWAY), Outcome::Failed(3)),
            (None, Outcome::Cut),
        ] {
            meter.request_ended(status, took, outcome);
        }
        meter.request_ended(Some(StatusCode::SWITCHING_PROTOCOLS), None, Outcome::Whole);
        meter.connection_ended(Outcome::Failed(CODES + 7));
        assert_eq!(meter.requests.iter().collect::<Vec<_>>(), [1, 1, 2, 0, 0, 1]);
        let totals = &meter.totals;
        assert_eq!((totals.time.observed().count, totals.cut.get(), meter.connections.get()), (4, 2, 1));
        assert_eq!((totals.failures.at(3).get(), totals.failures.at(CODES - 1).get()), (1, 1));
        assert_eq!(meter.micros.get(), 12_000);
    }
}
