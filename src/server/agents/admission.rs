//! Who a new connection comes from, and its place among the logins in progress.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::server::agents::Agents;
use crate::server::agents::login_limits::LoginPermit;
use crate::server::metrics::Limit;
use crate::transport::proxy_protocol::{self, LONGEST};

/// A connection that may log in.
#[derive(Debug)]
pub(crate) struct LoginAdmission {
    /// The agent, or a proxy that has not told yet who the agent is.
    pub(crate) peer: SocketAddr,
    pub(crate) permit: LoginPermit,
    /// Whether the connection begins with a PROXY protocol header.
    is_proxied: bool,
}

impl LoginAdmission {
    /// Takes a place for a connection from `peer`; `None` if there is none left, in all or for its address.
    pub(crate) fn new(agents: &Agents, peer: SocketAddr) -> Option<Self> {
        let (settings, ip) = (agents.settings(), peer.ip().to_canonical());
        let is_proxied = settings.config.tunnel.proxy_protocol_from.iter().any(|network| network.contains(&ip));
        let permit = if is_proxied { agents.login.permit_of_proxy() } else { agents.login.permit(peer.ip()) };
        Some(Self { peer, permit: permit?, is_proxied })
    }

    /// Reads the PROXY protocol header, if the connection begins with one, and takes the place of the address in it. A proxy
    /// that speaks for itself, as for a health check, is counted itself. The caller sets the deadline.
    ///
    /// # Errors
    /// There is no such header, the connection ended, or the address has as many logins in progress as it may.
    pub(crate) async fn resolve(&mut self, agents: &Agents, socket: &mut TcpStream) -> io::Result<()> {
        if !self.is_proxied {
            return Ok(());
        }
        if let Some((source, _)) = read_header(socket).await? {
            self.peer = SocketAddr::new(source.ip().to_canonical(), source.port());
        }
        if agents.login.count_address(&mut self.permit, self.peer.ip()) {
            return Ok(());
        }
        agents.runtime.metrics.limited(Limit::LoginsUnderWay);
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// Reads exactly the header: what follows belongs to TLS.
async fn read_header(socket: &mut TcpStream) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let mut seen = vec![0; LONGEST];
    let mut taken = 0;
    loop {
        // Looked at first, and taken only as far as the header goes.
        let there = socket.peek(&mut seen[taken..]).await?;
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let parsed = proxy_protocol::parse(&seen[..taken + there]).map_err(io::Error::other)?;
        let end = parsed.map_or(taken + there, |header| header.length);
        socket.read_exact(&mut seen[taken..end]).await?;
        taken = end;
        if let Some(header) = parsed {
            return Ok(header.addresses);
        }
    }
}
