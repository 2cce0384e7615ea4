//! Listening sockets and the loop that accepts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::limits::LogThrottle;

/// Connections the kernel holds for us until they are accepted.
pub const BACKLOG: i32 = 4096;

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
    // Strangers who take all descriptors must not fill the log, too.
    let said = LogThrottle::new(NonZeroU32::MIN);
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
                    // An IPv4 peer of an IPv6 listener is shown and counted as what it is.
                    handle(socket, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
                }
            }
            // The visitor was gone before we looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(others) = said.turn() {
                    tracing::warn!(%error, others, "cannot accept a connection; trying again shortly");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(EXHAUSTED_PAUSE) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn an_address_that_is_taken_or_foreign_is_explained() {
        let listener = bind(address("127.0.0.1:0"), "public.http").unwrap();
        let taken = listener.local_addr().unwrap();
        let message = bind(taken, "admin.listen").unwrap_err().to_string();
        assert!(message.starts_with(&format!("cannot listen on {taken} (admin.listen): another program")), "{message}");
        // Kept for documentation (RFC 5737): no machine has it.
        let error = bind(address("192.0.2.1:0"), "public.http").unwrap_err();
        assert!(error.to_string().ends_with("this machine has no such address"), "{error}");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(explain(&denied).contains("CAP_NET_BIND_SERVICE"));
        let other = io::Error::other("the system's own words");
        assert_eq!(explain(&other), "the system's own words");
    }

    #[tokio::test]
    async fn the_loop_hands_over_connections_until_it_is_stopped() {
        let listener = bind(address("[::]:0"), "public.http").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let (sender, mut accepted) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_loop(listener, stop.clone(), move |socket, peer| sender.send((socket, peer)).unwrap()));
        // Over IPv4, to the address that stands for both.
        for _ in 0..3 {
            let visitor = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            let (socket, peer) = accepted.recv().await.unwrap();
            assert_eq!(peer, visitor.local_addr().unwrap(), "as the IPv4 address that it is");
            assert!(socket.nodelay().unwrap());
        }
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
        assert!(accepted.recv().await.is_none());
        // Nobody listens any more: the port is free for the next.
        bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), "public.http").unwrap();
    }
}
