//! Listening sockets and the loop that accepts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 4096;

/// How long to let connections end when the process or the system is out of file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A socket could not be opened for listening.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({purpose}): {}", explain(.source))]
pub struct ListenError {
    /// What was to be listened on.
    pub address: SocketAddr,
    /// For what, in the words of the configuration.
    pub purpose: &'static str,
    /// What the system said.
    pub source: io::Error,
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program uses this port already; stop it (`ss -ltnp` shows it) or choose another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need the capability CAP_NET_BIND_SERVICE, or choose a higher port"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// Opens a listening socket. `[::]` takes IPv4 too; on a machine without IPv6 it means `0.0.0.0`.
///
/// # Errors
/// The address is taken, forbidden, or not this machine's.
pub fn bind(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ListenError> {
    open(address)
        .or_else(|error| match address.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() && !has_ipv6(&error) => {
                open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
            }
            _ => Err(error),
        })
        .map_err(|source| ListenError { address, purpose, source })
}

fn has_ipv6(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        && error.raw_os_error() != Some(97) // EAFNOSUPPORT
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop`; each connection goes to `handle` at once, which must not wait.
pub async fn accept_loop(
    listener: TcpListener,
    stop: CancellationToken,
    mut handle: impl FnMut(TcpStream, SocketAddr),
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                // Requests and answers are written whole: waiting for more to send only costs time.
                if socket.set_nodelay(true).is_ok() {
                    handle(socket, peer);
                }
            }
            // The visitor was gone before we looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again shortly");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(EXHAUSTED_PAUSE) => {}
                }
            }
        }
    }
}
