//! Observation of exchanges: one record per exchange, from which metrics, access log, live requests and spans are fed.

pub(crate) mod exchange;
pub(crate) mod live_requests;
pub(crate) mod span;
