//! Visitors: from the TCP socket to the end of each request.
//!
//! `request` decides where a request goes, `forward` takes it there and brings the answer (`forwarded`), `headers` rewrites what
//! a proxy must rewrite, `answer` is what a visitor gets when it cannot be had, and `ledger` is where every way out ends.

mod answer;
mod forward;
mod forwarded;
mod headers;
mod ledger;
mod request;
mod socket;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::Shared;
use crate::limits::{AddressPermit, Permit};
use socket::{Turns, VisitorSocket};

/// A visitor's connection, as its requests see it.
#[derive(Debug)]
struct Visit {
    shared: Arc<Shared>,
    peer: SocketAddr,
    local: SocketAddr,
    /// Set when an answer without a length of its own broke off: its end must not look like one.
    cut: Arc<AtomicBool>,
    /// Tells the socket when a request is under way.
    turns: Turns,
    /// Its share of all connections, and of its address's.
    _permits: (Permit, Option<AddressPermit>),
}

impl Visit {
    fn peer_is_trusted(&self) -> bool {
        is_trusted(&self.shared, self.peer.ip())
    }
}

fn is_trusted(shared: &Shared, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    shared.config.public.trusted_proxies.iter().any(|net| net.contains(&ip))
}

/// An IPv4 visitor of an IPv6 socket is an IPv4 visitor.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Takes a visitor in; does not wait.
pub(super) fn accept_visitor(shared: &Arc<Shared>, socket: TcpStream, peer: SocketAddr) {
    let Some(connection) = shared.connections.try_acquire() else {
        tracing::warn!(%peer, "closed a connection: there are as many as there may be (`limits.connections`)");
        return;
    };
    // A trusted proxy brings many visitors over one address.
    let permit = if is_trusted(shared, peer.ip()) {
        None
    } else {
        let Some(permit) = shared.visitor_connections.try_acquire(peer.ip()) else {
            tracing::debug!(%peer, "closed a connection: the address has as many as it may");
            return;
        };
        Some(permit)
    };
    let Ok(local) = socket.local_addr() else { return };
    if let Err(error) = socket::bound_unsent(&socket) {
        tracing::debug!(%peer, %error, "the kernel holds as much for this visitor as it likes");
    }
    let cut = Arc::new(AtomicBool::new(false));
    let turns = Turns::default();
    let socket = VisitorSocket::new(socket, Arc::clone(&cut), turns.clone(), &shared.config.timeouts);
    let visit = Visit {
        shared: Arc::clone(shared),
        peer: canonical(peer),
        local: canonical(local),
        cut,
        turns,
        _permits: (connection, permit),
    };
    let serve = serve(Arc::new(visit), socket);
    shared.visits.spawn(super::until_cut(shared.cut.clone(), serve));
}

async fn serve(visit: Arc<Visit>, socket: VisitorSocket) {
    let shared = Arc::clone(&visit.shared);
    let config = &shared.config;
    let service = service_fn(move |request| {
        let visit = Arc::clone(&visit);
        async move { Ok::<_, Infallible>(request::serve(visit, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The socket watches each of them more closely; together they are the most.
        .header_read_timeout(config.timeouts.head + config.timeouts.keep_alive)
        .max_buf_size(config.limits.head_size)
        .max_header_size(config.limits.head_size)
        // The application's own date, or none: a proxy adds nothing that it can leave out.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "a visitor's connection ended early");
    }
}
