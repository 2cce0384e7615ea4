//! What carries a session from agent to server. Each carrier has a file.
//!
//! - [`mux`]: yamux over one byte pipe: TLS over TCP today; WebSocket and gRPC are such pipes too
//! - `in_process`: no bytes at all, for tests
//!
//! A carrier with native streams (QUIC) is a further file here, and a variant of each enumeration in
//! [`session`](super::session).

#[cfg(test)]
pub(super) mod in_process;
pub mod mux;
