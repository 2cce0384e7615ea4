//! Connections to a local application: TCP or a Unix socket, a PROXY protocol header if asked for, TLS if it speaks that.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service as _;

use crate::agent::backend::local::idle_check;
use crate::agent::options::{LocalUrl, Place, ProxyProtocol};
use crate::transport::delivery::AllSent;
use crate::transport::proxy_protocol::{self, Version};

/// How long a connection to a host that is named may carry requests. Each connection resolves the name, so the agent follows
/// a name that moves (a container that is created anew, a dynamic address) while requests go on.
const MAX_AGE: Duration = Duration::from_secs(60);

/// For whom a connection is made: the visitor's address and the server's, as a PROXY protocol header has them.
pub(in crate::agent) type OnBehalfOf = (SocketAddr, SocketAddr);

/// Connects to one local application.
#[derive(Clone)]
pub(in crate::agent) struct Dialler {
    tcp: HttpConnector,
    place: Place,
    uri: Uri,
    connect_timeout: Duration,
    proxy_protocol: Option<ProxyProtocol>,
    /// The name for TLS, if it is not the host that is dialled.
    server_name: Option<ServerName<'static>>,
}

impl Dialler {
    /// For `local`; `None` if it names a host that no URI can.
    pub(in crate::agent) fn new(
        local: &LocalUrl,
        proxy_protocol: Option<ProxyProtocol>,
        connect_timeout: Duration,
    ) -> Option<Self> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        tcp.enforce_http(false);
        let (host, port) = match &local.place {
            Place::Tcp { host, port } if host.contains(':') => (format!("[{host}]"), *port),
            Place::Tcp { host, port } => (host.clone(), *port),
            Place::Unix(_) => ("localhost".to_owned(), 80),
            Place::InProcess => return None,
        };
        let uri = Uri::builder().scheme("http").authority(format!("{host}:{port}")).path_and_query("/").build().ok()?;
        Some(Self { tcp, place: local.place.clone(), uri, connect_timeout, proxy_protocol, server_name: None })
    }

    /// Asks for `server_name` in TLS handshakes, and checks certificates for it.
    pub(in crate::agent) fn with_server_name(self, server_name: Option<ServerName<'static>>) -> Self {
        Self { server_name, ..self }
    }

    /// Returns the address as it is shown to the owner.
    pub(super) fn shown(&self) -> String {
        match &self.place {
            Place::Unix(path) => format!("unix:{}", path.display()),
            Place::Tcp { .. } | Place::InProcess => self.uri.authority().map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// Returns until when a connection that is made now may carry requests; `None` if its address never changes.
    pub(super) fn expiry(&self) -> Option<Instant> {
        let is_name = matches!(&self.place, Place::Tcp { host, .. } if host.parse::<IpAddr>().is_err());
        is_name.then(|| Instant::now() + MAX_AGE)
    }

    /// Whether each connection is for one visitor alone.
    pub(super) fn tells_the_visitor(&self) -> bool {
        self.proxy_protocol.is_some()
    }

    /// Connects, over TCP to all addresses that the host has now (RFC 8305).
    ///
    /// # Errors
    /// Nobody listens, or nobody answers in time ([`io::ErrorKind::TimedOut`]).
    pub(in crate::agent) async fn dial(&self, on_behalf_of: Option<OnBehalfOf>) -> io::Result<Stream> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let mut stream = match &self.place {
            Place::Tcp { .. } => {
                let dialled = timeout(self.connect_timeout * 2, self.tcp.clone().call(self.uri.clone()));
                let dialled = dialled.await.map_err(late)?.map_err(|error| io_error_of(&error))?;
                Stream::Tcp(dialled.into_inner())
            }
            Place::Unix(path) => {
                let dialled = timeout(self.connect_timeout, UnixStream::connect(path)).await;
                Stream::Unix(dialled.map_err(late)??)
            }
            Place::InProcess => return Err(io::ErrorKind::Unsupported.into()),
        };
        if let (Some(version), Some((visitor, server))) = (self.proxy_protocol, on_behalf_of) {
            let version = match version {
                ProxyProtocol::V1 => Version::V1,
                ProxyProtocol::V2 => Version::V2,
            };
            let header = proxy_protocol::header(version, visitor, server);
            timeout(self.connect_timeout, stream.write_all(&header)).await.map_err(late)??;
        }
        Ok(stream)
    }

    /// Connects, and lays TLS over the connection.
    ///
    /// # Errors
    /// As [`Dialler::dial`]; or the application is not who it should be.
    pub(super) async fn dial_tls(
        &self,
        on_behalf_of: Option<OnBehalfOf>,
        tls: &Arc<ClientConfig>,
    ) -> io::Result<Stream> {
        let host = match &self.place {
            Place::Tcp { host, .. } => host.clone(),
            Place::Unix(_) | Place::InProcess => "localhost".to_owned(),
        };
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host).map_err(|_| io::ErrorKind::InvalidInput)?,
        };
        let stream = self.dial(on_behalf_of).await?;
        let greeting = Box::pin(TlsConnector::from(Arc::clone(tls)).connect(name, stream));
        let stream = timeout(self.connect_timeout, greeting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// What the system said, somewhere below what the dialler says.
pub(in crate::agent) fn io_error_of(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(io.kind(), io.to_string()),
            };
        }
        cause = error.source();
    }
    io::Error::other(error.to_string())
}

/// A connection to a local application.
#[derive(Debug)]
pub(in crate::agent) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<Stream>>),
}

impl Stream {
    /// Makes the connection end with a reset when it is dropped, so that the application sees that it is incomplete. Waits up
    /// to `limit` for written data to be sent. A Unix socket cannot be reset.
    pub(in crate::agent) async fn reset(&self, limit: Duration) {
        if let Some(sent) = self.all_sent() {
            sent.within(limit).await;
        }
        self.set_reset();
    }

    /// Returns a handle that tells when the kernel has sent all written data.
    pub(super) fn all_sent(&self) -> Option<AllSent> {
        AllSent::of(self.tcp()?).ok()
    }

    /// Ends the connection with a reset when it is dropped.
    pub(super) fn set_reset(&self) {
        if let Some(socket) = self.tcp() {
            // If the system refuses, the application sees an ordinary end: there is nothing else to try.
            drop(SockRef::from(socket).set_linger(Some(Duration::ZERO)));
        }
    }

    /// The socket at the bottom, if it is one of TCP.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Unix(_) => None,
            Self::Tls(tls) => tls.get_ref().0.tcp(),
        }
    }

    /// Returns whether an idle connection has neither received bytes nor been closed.
    pub(super) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Tcp(socket) => idle_check::is_silent(socket),
            Self::Unix(socket) => idle_check::is_silent(socket),
            Self::Tls(tls) => {
                let (socket, session) = tls.get_mut();
                idle_check::is_silent_below_tls(socket, session)
            }
        }
    }

    /// Whether the application has chosen HTTP/2 in the handshake.
    pub(super) fn speaks_http2(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(crate::transport::tls::HTTP2))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
            Self::Tls(tls) => tls.get_ref().0.as_fd(),
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $do,
            Stream::Unix($stream) => $do,
            Stream::Tls($stream) => $do,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
