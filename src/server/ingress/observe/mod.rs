//! The single exit of every exchange: each request and each raw connection is one record, and when it ends, however it
//! ends, [`Observers::ended`] shows the record to each observer once.
//!
//! | file | what it does |
//! | --- | --- |
//! | `record` | the record that the observers see |
//! | `exchange` | opens a record when a request or connection arrives, and ends it when it was not forwarded |
//! | `forwarded` | an exchange that a tunnel carries: its figures, permits and stream |
//! | `metrics`, `access_log`, `span`, `live_requests` | the observers |
//!
//! To add an observer, implement [`Observer`] in a file of its own and call it in [`Observers`].

pub(crate) mod access_log;
pub(crate) mod exchange;
pub(crate) mod forwarded;
pub(crate) mod live_requests;
pub(crate) mod metrics;
pub(crate) mod proxy_hint;
pub(crate) mod record;
pub(crate) mod span;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::server::ingress::observe::access_log::AccessLog;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::observe::live_requests::LiveRequests;
use crate::server::ingress::observe::metrics::ExchangeMetrics;
use crate::server::ingress::observe::record::ExchangeRecord;
use crate::server::ingress::observe::span::SpanEnd;
use crate::server::metrics::Metrics;

/// Is told of exchanges.
pub(crate) trait Observer {
    /// The exchange is being forwarded from now on.
    fn forwarded(&self, _exchange: &Arc<ForwardedExchange>) {}

    /// The exchange has ended. Called exactly once for each exchange.
    fn ended(&self, record: &mut ExchangeRecord);
}

/// All observers of a server's exchanges.
#[derive(Debug)]
pub(crate) struct Observers {
    pub(crate) live: Arc<LiveRequests>,
    metrics: ExchangeMetrics,
    #[cfg(test)]
    pub(crate) recorder: tests::Recorder,
}

impl Observers {
    /// Creates the observers of a server that counts in `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            live: Arc::default(),
            metrics: ExchangeMetrics::new(metrics),
            #[cfg(test)]
            recorder: tests::Recorder::default(),
        }
    }
}

impl Observer for Observers {
    fn forwarded(&self, exchange: &Arc<ForwardedExchange>) {
        self.live.forwarded(exchange);
    }

    fn ended(&self, record: &mut ExchangeRecord) {
        self.live.ended(record);
        self.metrics.ended(record);
        SpanEnd.ended(record);
        AccessLog.ended(record);
        #[cfg(test)]
        self.recorder.ended(record);
    }
}
