//! Serving an HTTP connection: the socket with its deadlines, how the connection closes, and checks of request targets.
//!
//! Visitors' connections ([`crate::server::ingress`]) and those of the admin API use it.

pub(crate) mod close;
mod head_deadline;
pub(crate) mod in_flight;
pub(crate) mod interim;
pub(crate) mod lingering_close;
pub(crate) mod maybe_tls;
pub(crate) mod request_target;
pub(crate) mod socket;
pub(crate) mod unreadable;
