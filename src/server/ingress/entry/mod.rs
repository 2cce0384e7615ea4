//! Entry: admits connections, detects their protocol, and serves HTTP/1, HTTP/2 and raw connections.

pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod detach_head;
pub(crate) mod h2_stall;
pub(crate) mod http;
pub(crate) mod preamble;
pub(crate) mod raw;
mod unreadable;
