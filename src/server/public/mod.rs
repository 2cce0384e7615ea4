//! Visitors: from the TCP socket to the end of each request.
//!
//! `connection` finds out which HTTP a visitor speaks, `request` decides where a request goes, `forward` takes it there and brings the answer (`forwarded`), `headers` rewrites what
//! a proxy must rewrite, `answer` is what a visitor gets when it cannot be had, and `ledger` is where every way out ends.

mod answer;
mod connection;
mod forward;
mod forwarded;
mod headers;
mod ledger;
mod request;
mod socket;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::net::TcpStream;

use super::Shared;
use crate::limits::{AddressPermit, Permit};
use crate::protocol::exchange::Scheme;
use socket::{Turns, VisitorSocket};

/// A visitor's connection, as its requests see it.
#[derive(Debug)]
struct Visit {
    shared: Arc<Shared>,
    peer: SocketAddr,
    local: SocketAddr,
    scheme: Scheme,
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
        scheme: Scheme::Http,
        cut,
        turns,
        _permits: (connection, permit),
    };
    let serve = connection::serve(Arc::new(visit), socket);
    shared.visits.spawn(super::until_cut(shared.cut.clone(), serve));
}
