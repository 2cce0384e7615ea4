//! What the operator sees: logs.

mod logs;

pub use logs::start_logs;
