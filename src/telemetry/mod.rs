//! What the operator sees: logs, what metrics are made of, and traces.

mod histogram;
mod logs;
mod plain;
mod process;
#[cfg_attr(not(feature = "otlp"), path = "no_traces.rs")]
mod traces;

pub use histogram::{Histogram, Observed};
pub use logs::{
    ACCESS_LOG, AUDIT_LOG, LOCAL_LOG, LogError, LogLevel, Logs, REQUEST_LOG, STATUS_LOG, start_agent_logs, start_logs,
};
pub use process::{ProcessFigures, unix_time};
pub use traces::{Facts, RequestSpan, Traces};
