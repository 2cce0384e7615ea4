//! Sockets and what is layered directly on them.
//!
//! - [`listen`]: accepts connections; [`inherited`]: listeners that the service manager has opened
//! - [`tls`]: TLS for agents, visitors and local applications; [`proxy_protocol`]: the PROXY protocol header;
//!   [`plain_http`]: plain HTTP where TLS is expected
//! - [`write_vectored`]: writes several buffers with one call; [`unsent`]: bounds what the kernel holds unsent
//! - [`whole`], [`delivery`], [`streams`]: detect incomplete HTTP messages, deliver buffered data before an abort, and
//!   reset HTTP/2 streams

pub mod delivery;
pub mod inherited;
pub mod listen;
pub mod plain_http;
pub mod proxy_protocol;
pub mod streams;
pub mod tls;
pub mod unsent;
pub mod whole;
pub mod write_vectored;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connected pair of byte directions, whatever it is made of.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Pipe for T {}
