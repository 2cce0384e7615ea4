//! The link between agent and server: a session with streams over a byte pipe, and what crosses a stream. Only this module
//! knows yamux.
//!
//! - [`handshake`]: the login messages before the multiplexer, and the control messages
//! - [`mux`]: a [`Session`](mux::Session) with streams, and the [`Driver`](mux::Driver) that moves its bytes
//! - [`write`]: the send queue of a lane between yamux and TLS
//! - [`framed`], [`body`]: the frames of a stream, and HTTP bodies made of them; [`copy`]: raw bytes in both directions
//! - [`pulse`], [`silence`]: when bytes last moved, and when a lane counts as lost
//!
//! A further carrier (WebSocket, gRPC, QUIC) would be one more source of a session here.

pub mod body;
pub mod copy;
pub mod framed;
pub mod handshake;
pub mod mux;
pub mod pulse;
pub mod silence;
#[cfg(test)]
mod testing;
pub mod write;
