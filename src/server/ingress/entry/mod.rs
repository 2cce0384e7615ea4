//! Entry points for visitors: what a new connection speaks, and how HTTP and raw connections are served.

pub(crate) mod detach_head;
pub(crate) mod ending;
pub(crate) mod h2_stall;
pub(crate) mod http;
pub(crate) mod lingering_close;
pub(crate) mod preamble;
pub(crate) mod raw;
pub(crate) mod request_target;
pub(crate) mod visitor_socket;
pub(crate) mod wire;
