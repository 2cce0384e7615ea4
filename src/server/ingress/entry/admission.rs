//! Admission of connections: the limits of `limits.connections` and `limits.per_ip.connections`.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::limits::{AddressPermit, Permit};
use crate::server::http_connection::socket::bound_unsent;
use crate::server::ingress::Ingress;
use crate::server::ingress::connection::{FAIR_SHARE, contains, is_trusted};
use crate::server::metrics::Limit;
use crate::server::settings::Settings;

/// How many connections one address may have in any case: a browser opens six.
const MIN_CONNECTIONS: usize = 8;

/// An admitted connection, before its protocol is known.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) ingress: Arc<Ingress>,
    /// The settings until the protocol is known, and for all of a raw connection.
    pub(crate) settings: Arc<Settings>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) permits: ConnectionPermits,
}

/// A connection's shares of the limits.
#[derive(Debug)]
pub(crate) struct ConnectionPermits {
    /// Of `limits.connections`.
    _server: Permit,
    /// Of its address's connections and requests. `None` if the peer is a trusted proxy.
    pub(crate) address: Option<AddressPermit>,
}

impl Admission {
    /// Admits a connection within the limits. Others are closed without an answer, which would cost more.
    pub(crate) fn new(ingress: &Arc<Ingress>, socket: &TcpStream, peer: SocketAddr) -> Option<Self> {
        let Some(server) = ingress.limits.connections.try_acquire() else {
            ingress.runtime.metrics.limited(Limit::Connections);
            if let Some(others) = ingress.connection_closed.turn() {
                tracing::warn!(%peer, others, "closed a connection: there are as many as there may be (`limits.connections`)");
            }
            return None;
        };
        let (peer, local) = (canonical(peer), canonical(socket.local_addr().ok()?));
        let (ingress, settings) = (Arc::clone(ingress), ingress.settings());
        let permits = ConnectionPermits { _server: server, address: None };
        let mut admission = Self { ingress, settings, peer, local, permits };
        // The visitor behind a proxy is not known yet.
        if !admission.is_proxied() && !admission.count_address() {
            return None;
        }
        if let Err(error) = bound_unsent(socket) {
            tracing::debug!(%peer, %error, "cannot bound the unsent data in the kernel");
        }
        Some(admission)
    }

    /// Returns whether the connection begins with a PROXY protocol header.
    pub(crate) fn is_proxied(&self) -> bool {
        contains(&self.settings.config.public.proxy_protocol_from, self.peer.ip())
    }

    /// Takes the share of the visitor's address. Returns `false` if it has none left. A trusted proxy has no share: it
    /// connects for many visitors.
    pub(crate) fn count_address(&mut self) -> bool {
        let Self { ingress, settings, peer, permits, .. } = self;
        if is_trusted(settings, peer.ip()) {
            return true;
        }
        let share = ingress.limits.connections.fair_share(FAIR_SHARE, MIN_CONNECTIONS);
        permits.address = ingress.limits.connections_by_address.try_acquire_within(peer.ip(), share);
        if permits.address.is_none() {
            ingress.runtime.metrics.limited(Limit::ConnectionsPerIp);
            tracing::debug!(%peer, "closed a connection: the address has as many as it may");
        }
        permits.address.is_some()
    }
}

/// Returns an IPv4-mapped address as an IPv4 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
