//! The link between agent and server: a session with streams over a byte pipe, and what crosses a stream.

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
