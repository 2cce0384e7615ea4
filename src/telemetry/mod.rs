//! What the operator sees: logs.

mod logs;

pub use logs::{ACCESS_LOG, AUDIT_LOG, start_logs};
