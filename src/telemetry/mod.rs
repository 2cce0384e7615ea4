//! What the operator sees: logs, what metrics are made of, and traces.

mod histogram;
mod log_file;
mod logs;
mod process;
#[cfg_attr(not(feature = "otlp"), path = "no_traces.rs")]
mod traces;

pub use histogram::{Histogram, Observed};
pub use log_file::check_log_file;
pub use logs::{ACCESS_LOG, AUDIT_LOG, LogError, LogLevel, Logs, start_logs};
pub use process::{ProcessFigures, unix_time};
pub use traces::{Facts, RequestSpan, Traces};
