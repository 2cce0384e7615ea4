//! The server's own life: settings and their reload, checks before the start, certificates, budgets, and the drain at
//! the end.

pub mod certificate;
pub(crate) mod check;
pub(crate) mod drain;
pub(crate) mod fd_budget;
pub mod memory_bound;
pub mod reload;
pub(crate) mod settings;
