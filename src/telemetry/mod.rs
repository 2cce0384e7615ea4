//! What the operator sees: logs, and what metrics are made of.

mod histogram;
mod logs;
mod process;

pub use histogram::{Histogram, Observed};
pub use logs::{ACCESS_LOG, AUDIT_LOG, LogError, LogLevel, Logs, start_logs};
pub use process::{ProcessFigures, unix_time};
