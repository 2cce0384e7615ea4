//! Byte pipes, and what is laid over them: from a TCP socket up to a stream that carries an exchange.
//!
//! [`listen`] accepts, [`tls`] encrypts, [`coalesce`] gathers small writes, [`mux`] splits one pipe into streams,
//! [`framed`] reads and writes the frames of a stream, and [`body`] turns them into HTTP bodies and back.
//! [`copy`] carries what is no exchange, [`pieces`] writes little ones as one, [`whole`] reads HTTP bodies that end only
//! when their message has ended, [`delivery`] knows when sent bytes have left, [`streams`] breaks streams of HTTP/2 off,
//! [`login`] carries the messages that come before the multiplexer, [`silence`] tells when a peer says nothing any more.

pub mod delivery;
pub mod inherited;
pub mod listen;
pub mod proxy_protocol;
pub mod streams;
pub mod tls;
pub mod whole;
pub mod write_vectored;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connected pair of byte directions, whatever it is made of.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Pipe for T {}
