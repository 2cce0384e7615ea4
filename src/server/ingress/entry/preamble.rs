//! What comes before a visitor's first request: a proxy's word for who it is, TLS, and which HTTP it speaks. All of it
//! together has the time of one head.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::server::StartHandshake;

use crate::transport::plain_http::{is_plain_http, refuse_plain_http};
use crate::transport::proxy_protocol;

/// How an HTTP/2 connection begins (RFC 9113, section 3.4). No request of HTTP/1.1 does.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read at once: nearly every first request, or first message of TLS, comes whole.
const FIRST_READ: usize = 2048;

/// The most that is read to find the name in a TLS handshake. Visitors send less than 2 KiB.
const MOST_OF_A_HELLO: usize = 16 * 1024;

/// A connection of which some was read, to see what it is.
#[derive(Debug)]
pub(crate) struct Preamble {
    socket: TcpStream,
    ahead: BytesMut,
}

/// The first words of a TLS visitor.
pub(crate) struct TlsHello {
    /// The name it asks for.
    pub(crate) name: Option<String>,
    /// From here TLS goes on, if this server ends it.
    pub(crate) handshake: StartHandshake<TcpStream>,
    /// What was read so far, if somebody else does.
    pub(crate) ahead: Bytes,
}

impl Preamble {
    /// Of a fresh connection.
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, ahead: BytesMut::with_capacity(FIRST_READ) }
    }

    /// Reads some more. The end of the connection is an error: something was still to come.
    async fn read(&mut self) -> io::Result<()> {
        match self.socket.read_buf(&mut self.ahead).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Takes a PROXY protocol header off the front: who the visitor is, and what it has connected to. `None` if the
    /// proxy speaks for itself.
    ///
    /// # Errors
    /// There is no such header, or the connection broke.
    pub(crate) async fn proxied(&mut self) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        loop {
            let parsed = match self.ahead.is_empty() {
                true => Ok(None),
                false => proxy_protocol::parse(&self.ahead),
            };
            if let Some(header) = parsed.map_err(io::Error::other)? {
                let _ = self.ahead.split_to(header.length);
                return Ok(header.addresses);
            }
            self.read().await?;
        }
    }

    /// Whether HTTP/2 comes, and what was read to see that.
    ///
    /// # Errors
    /// The connection broke, or ended before that was clear.
    pub(crate) async fn http_version(mut self) -> io::Result<(bool, Bytes, TcpStream)> {
        while self.ahead.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&self.ahead) {
            self.read().await?;
        }
        Ok((self.ahead.starts_with(HTTP2_PREFACE), self.ahead.freeze(), self.socket))
    }

    /// Reads the first message of TLS (RFC 8446, section 4.1.2).
    ///
    /// # Errors
    /// The visitor speaks something else; it was told so, in plain HTTP if it speaks that, otherwise in TLS. Or the connection broke.
    pub(crate) async fn tls_hello(mut self) -> io::Result<TlsHello> {
        let mut acceptor = Acceptor::default();
        let mut fed = 0;
        loop {
            while fed < self.ahead.len() {
                fed += acceptor.read_tls(&mut &self.ahead[fed..])?;
                match acceptor.accept() {
                    Ok(Some(accepted)) => {
                        let name = accepted.client_hello().server_name().map(str::to_owned);
                        let ahead = self.ahead.freeze();
                        return Ok(TlsHello {
                            name,
                            handshake: StartHandshake::from_parts(accepted, self.socket),
                            ahead,
                        });
                    }
                    Ok(None) => {}
                    Err((error, _)) if is_plain_http(&self.ahead) => {
                        refuse_plain_http(self.socket, "use https:// in the address").await?;
                        return Err(io::Error::other(error));
                    }
                    Err((error, mut alert)) => {
                        let mut text = Vec::new();
                        alert.write_all(&mut text)?;
                        // One try: whoever does not speak TLS does not read it either.
                        let _ = self.socket.try_write(&text);
                        return Err(io::Error::other(error));
                    }
                }
            }
            if self.ahead.len() > MOST_OF_A_HELLO {
                return Err(io::Error::other("the first message of TLS is too long"));
            }
            self.read().await?;
        }
    }
}
