//! The counters of requests and connections.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::failure_code::FailureCode;
use super::{Count, Counts};
use crate::telemetry::Histogram;
use crate::values::{ClientId, Name};

/// The number of failure codes.
const CODES: usize = FailureCode::TEXTS.len();

/// The totals of all services.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// From a request's head to the end of its answer; without upgraded connections.
    pub(crate) time: Histogram,
    /// From a request's head to the head of the upstream's answer.
    pub(crate) waiting: Histogram,
    /// The part of it from the agent's receipt of the request to its receipt of that head, as agents report.
    pub(crate) local: Histogram,
    /// Failures by [`FailureCode`].
    pub(crate) failures: Counts<CODES>,
    /// Answers that were incomplete, or that the visitor aborted.
    pub(crate) cut: Count,
}

impl Totals {
    /// Counts a failed request or connection.
    pub(crate) fn failed(&self, code: usize) {
        self.failures.at(code).one();
    }
}

/// The classes of requests by the first digit of the status; the first class has no answer.
pub(crate) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The counters of one service of one client, across all its agents and reconnects.
#[derive(Debug)]
pub(crate) struct Meter {
    client: ClientId,
    name: Name,
    totals: Arc<Totals>,
    pub(crate) requests: Counts<{ CLASSES.len() }>,
    pub(crate) connections: Count,
    pub(crate) received: Count,
    pub(crate) sent: Count,
    /// The total time of all requests, in microseconds.
    pub(crate) micros: Count,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Whole,
    Cut,
    /// With this failure code.
    Failed(usize),
}

impl Meter {
    /// Returns a meter whose counters are zero.
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

    /// Returns the meter of a service for tests.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Arc<Self> {
        Arc::new(Self::new("test".parse().unwrap(), "test".parse().unwrap(), Arc::default()))
    }

    /// Returns the client that owns the service.
    pub(crate) fn client(&self) -> &ClientId {
        &self.client
    }

    /// Returns the name of the service.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Counts bytes from visitors.
    pub(crate) fn received(&self, bytes: usize) {
        self.received.add(bytes as u64);
    }

    /// Counts bytes to visitors.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.add(bytes as u64);
    }

    /// Records the time from a request's head to the answer's head; `local` is the application's part, if the agent
    /// reports it.
    pub(crate) fn answered(&self, after: Duration, local: Option<Duration>) {
        self.totals.waiting.observe(after);
        if let Some(local) = local {
            self.totals.local.observe(local);
        }
    }

    /// Counts a request that was refused before it was forwarded. It is not timed.
    pub(crate) fn refused(&self, status: StatusCode, code: usize) {
        self.requests.at(usize::from(status.as_u16() / 100)).one();
        self.totals.failed(code);
    }

    /// Counts a finished request; `status` is what the visitor got. `took` is `None` for an upgraded connection, whose
    /// duration says nothing about the service.
    pub(crate) fn request_ended(&self, status: Option<StatusCode>, took: Option<Duration>, outcome: Outcome) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
        self.requests.at(class).one();
        if let Some(took) = took {
            self.totals.time.observe(took);
            self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        self.ended(outcome);
    }

    /// Counts a closed connection.
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
