//! When an agent tries its servers again.

mod backoff;
mod refusals;

pub use backoff::Backoff;
pub(in crate::agent) use refusals::RetrySchedule;
