//! The link between agent and server: a session with streams over a byte pipe, and what crosses a stream. Only this module
//! knows yamux.
//!
//! - [`handshake`]: the login messages before the multiplexer, and the control messages
//! - [`session`]: a session with streams, and the driver that moves its bytes, whatever carries them; [`mux`]: over yamux
//! - [`write`]: the send queue of a lane between yamux and TLS
//! - [`framed`], [`body`]: the frames of a stream, and HTTP bodies made of them; [`copy`]: raw bytes in both directions
//! - [`pulse`], [`silence`]: when bytes last moved, and when a lane counts as lost
//!
//! A carrier that is a byte pipe (WebSocket, gRPC) needs a [`Pipe`](crate::transport::Pipe) alone; one with native streams (QUIC)
//! is another variant of [`session`].

pub mod body;
pub mod copy;
pub mod framed;
pub mod handshake;
#[cfg(test)]
mod in_process;
pub mod mux;
pub mod pulse;
pub mod session;
pub mod silence;
#[cfg(test)]
mod testing;
pub mod write;
