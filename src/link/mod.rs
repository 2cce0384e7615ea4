//! The link between agent and server: a session with streams over a byte pipe, and what crosses a stream. Only this module
//! knows yamux.
//!
//! - [`handshake`]: the login messages before the multiplexer, and the control messages
//! - [`session`]: a session with streams, and the driver that moves its bytes, whatever carries them
//! - [`carriers`]: what carries them: yamux over a byte pipe
//! - [`write`]: the send queue of a lane between yamux and TLS
//! - [`framed`], [`body`]: the frames of a stream, and HTTP bodies made of them; [`copy`]: raw bytes in both directions
//! - [`pulse`], [`silence`]: when bytes last moved, and when a lane counts as lost

pub mod body;
pub mod carriers;
pub mod copy;
pub mod framed;
pub mod handshake;
pub mod pulse;
pub mod session;
pub mod silence;
#[cfg(test)]
mod testing;
pub mod write;
