//! What the operator sees: logs, what metrics are made of, and traces.

mod histogram;
mod lines;
mod log_file;
mod log_state;
mod logs;
pub mod options;
mod plain;
mod process;
mod rolling;
#[cfg_attr(not(feature = "otlp"), path = "no_traces.rs")]
mod traces;

pub use histogram::{Histogram, Observed};
pub use log_file::check_log_file;
pub use log_state::LogState;
pub use logs::{
    ACCESS_LOG, AUDIT_LOG, LOCAL_LOG, LastLines, LogError, LogLevel, Logs, RELOAD_LOG, REQUEST_LOG, STATUS_LOG,
    start_agent_logs, start_logs,
};
pub use process::{ProcessFigures, unix_time};
pub use traces::{Facts, RequestSpan, Traces};
