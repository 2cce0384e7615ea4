//! What crosses the wire between agent and server, as pure values and bytes: no sockets, no clocks, no tasks.
//!
//! 1. [`login`]: one JSON question and one answer, each behind a length ([`json`]), right after TLS.
//!    [`access`] is the part of it that says which visitors get in.
//! 2. [`control`]: JSON messages on the first stream of each lane.
//! 3. [`preface`] and [`exchange`], cut into [`frame`]s: what a service stream carries. [`decode`] reads it back.
//! 4. [`fields`]: which header fields belong to the proxy, in any spelling; [`destination`] reads one that names a
//!    resource.
//! 5. [`media_type`]: types of media that decide how a message is carried; [`length`]: how long it says it is.
//!
//! Everything here is bounded, accepts its input in pieces of any size and never panics on it.

pub mod access;
pub mod control;
pub mod decode;
pub mod destination;
pub mod exchange;
pub mod fields;
pub mod frame;
pub mod json;
pub mod later;
pub mod length;
pub mod login;
pub mod media_type;
pub mod preface;
pub mod references;
pub mod requirements;
pub mod standby;
#[cfg(test)]
mod tests;
mod wire;

pub use wire::WireError;

/// The protocol this build speaks; also in the ALPN name, so that strangers part before the login.
pub const VERSION: u32 = 1;

/// The TLS ALPN name (RFC 7301) of the tunnel.
pub const ALPN: &[u8] = b"adit/1";
