//! Public ports of `tcp` services: opened by logins, closed when the last tunnel that holds them is gone.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::protocol::login::Refusal;
use crate::transport::listen;
use crate::values::{ClientId, Name};

/// The purpose of these listeners, in messages.
const PURPOSE: &str = "a tcp service";

/// A public port, and for what it is. Held by the tunnels that serve it; the listener ends with the last of them.
#[derive(Debug)]
pub struct OpenPort {
    /// The port.
    pub port: u16,
    /// The service whose connections it takes.
    pub name: Name,
    client: ClientId,
    closed: CancellationToken,
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl OpenPort {
    /// Cancelled when nobody holds the port any more.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }
}

/// Serves the connections to public ports.
pub(crate) trait PortServer: Debug + Send + Sync {
    /// Serves `port`, which was just opened as `listener`, until it is closed. Does not wait.
    fn serve_port(&self, port: &OpenPort, listener: TcpListener);
}

/// Why a service gets no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPort {
    /// The client may have none at all.
    #[error("the client may have no public ports")]
    None,
    /// The client may have others.
    #[error("the client may not have the public port {wanted}, only: {allowed}")]
    NotAllowed {
        /// The one that was asked for.
        wanted: u16,
        /// Those that it may have.
        allowed: String,
    },
    /// Another service of the client, or another program on the server, has it.
    #[error("the public port {0} is in use on the server")]
    InUse(u16),
    /// All of the client's ports are in use.
    #[error("all of the client's public ports are in use: {0}")]
    AllInUse(String),
}

impl NoPort {
    /// What the operator gives to `adit token set … --tcp-ports` to allow the port that was wanted, or any, if that is what
    /// is needed.
    pub fn allowed_by(&self, wanted: Option<u16>) -> Option<String> {
        match self {
            Self::None => Some(wanted.map_or_else(|| "20000-20010".to_owned(), |port| port.to_string())),
            Self::NotAllowed { wanted, .. } => Some(format!("+{wanted}")),
            Self::InUse(_) | Self::AllInUse(_) => None,
        }
    }

    /// What it is in a login.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::None | Self::NotAllowed { .. } => Refusal::NotAllowed,
            // Whoever has it now may be gone in a moment.
            Self::InUse(_) | Self::AllInUse(_) => Refusal::TooMany,
        }
    }
}

/// The open ports of a server.
#[derive(Debug)]
pub struct Ports {
    ip: IpAddr,
    open: Mutex<HashMap<u16, Weak<OpenPort>>>,
}

impl Ports {
    /// None yet; each will be opened at `ip`.
    pub fn new(ip: IpAddr) -> Self {
        Self { ip, open: Mutex::default() }
    }

    /// The port for `name` of `client`: the one it has already, the wanted one, or the first of `allowed` that is free.
    /// With the listener, if it was opened just now: it is to be served until the port is closed.
    ///
    /// # Errors
    /// There is none for it; the message says why.
    pub fn acquire(
        &self,
        (client, name): (&ClientId, &Name),
        wanted: Option<u16>,
        allowed: &[RangeInclusive<u16>],
    ) -> Result<(Arc<OpenPort>, Option<TcpListener>), NoPort> {
        if allowed.is_empty() {
            return Err(NoPort::None);
        }
        let candidates: Vec<u16> = match wanted {
            Some(port) if allowed.iter().any(|range| range.contains(&port)) => vec![port],
            Some(wanted) => return Err(NoPort::NotAllowed { wanted, allowed: list(allowed) }),
            None => allowed.iter().cloned().flatten().collect(),
        };
        let mut open = self.open.lock();
        open.retain(|_, port| port.strong_count() > 0);
        let is_its =
            |port: &Arc<OpenPort>| port.client == *client && port.name == *name && candidates.contains(&port.port);
        if let Some(port) = open.values().filter_map(Weak::upgrade).find(is_its) {
            return Ok((port, None));
        }
        for port in &candidates {
            if open.get(port).is_some_and(|port| port.strong_count() > 0) {
                continue;
            }
            match listen::bind(SocketAddr::new(self.ip, *port), PURPOSE) {
                Ok(listener) => {
                    let closed = CancellationToken::new();
                    let opened = Arc::new(OpenPort { port: *port, name: name.clone(), client: client.clone(), closed });
                    open.insert(*port, Arc::downgrade(&opened));
                    return Ok((opened, Some(listener)));
                }
                Err(error) => tracing::debug!(%error, "a port of a client is not free"),
            }
        }
        Err(wanted.map_or_else(|| NoPort::AllInUse(list(allowed)), NoPort::InUse))
    }
}

/// As the clients file has it.
fn list(ranges: &[RangeInclusive<u16>]) -> String {
    let text = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (ClientId, [Name; 2]) {
        (ClientId::new("alice").unwrap(), ["db", "ssh"].map(|name| Name::new(name).unwrap()))
    }

    /// Two ports that are free, next to each other or not. Each test has an address of this machine for itself: nobody
    /// else takes them.
    fn free(address: [u8; 4]) -> Vec<RangeInclusive<u16>> {
        let held: Vec<_> = (0..2).map(|_| listen::bind((address, 0).into(), PURPOSE).unwrap()).collect();
        held.iter().map(|socket| socket.local_addr().unwrap().port()).map(|port| port..=port).collect()
    }

    #[tokio::test]
    async fn a_service_gets_a_port_and_keeps_it_while_anybody_holds_it() {
        let (client, [db, ssh]) = ids();
        let address = [127, 0, 3, 1];
        let (ports, allowed) = (Ports::new(address.into()), free(address));
        let (first, listener) = ports.acquire((&client, &db), None, &allowed).unwrap();
        assert!(listener.is_some());
        // The same agent comes back before its old tunnel is gone.
        let (again, none) = ports.acquire((&client, &db), None, &allowed).unwrap();
        assert!(Arc::ptr_eq(&first, &again) && none.is_none());
        let (other, _listener) = ports.acquire((&client, &ssh), None, &allowed).unwrap();
        assert_ne!(other.port, first.port);
        assert_eq!(ports.acquire((&client, &ssh), Some(first.port), &allowed).unwrap_err(), NoPort::InUse(first.port));
        let third = Name::new("web").unwrap();
        assert!(matches!(ports.acquire((&client, &third), None, &allowed), Err(NoPort::AllInUse(_))));
        let (port, closed) = (first.port, first.closed());
        drop((first, listener));
        assert!(!closed.is_cancelled(), "the newer tunnel holds it still");
        drop(again);
        assert!(closed.is_cancelled());
        assert_eq!(ports.acquire((&client, &third), None, &allowed).unwrap().0.port, port);
    }

    #[tokio::test]
    async fn a_port_of_another_program_is_passed_over() {
        let (client, [db, _]) = ids();
        let address = [127, 0, 3, 2];
        let (ports, allowed) = (Ports::new(address.into()), free(address));
        let taken = listen::bind((address, *allowed[0].start()).into(), PURPOSE).unwrap();
        let (port, _listener) = ports.acquire((&client, &db), None, &allowed).unwrap();
        assert_eq!(port.port, *allowed[1].start());
        let taken = taken.local_addr().unwrap().port();
        assert_eq!(ports.acquire((&client, &db), Some(taken), &allowed).unwrap_err(), NoPort::InUse(taken));
    }

    #[tokio::test]
    async fn ports_beyond_the_clients_own_are_refused_by_name() {
        let (client, [db, _]) = ids();
        let ports = Ports::new([127, 0, 0, 1].into());
        let none = ports.acquire((&client, &db), None, &[]).unwrap_err();
        assert!(none.allowed_by(Some(22)).as_deref() == Some("22") && none.refusal() == Refusal::NotAllowed);
        let other = ports.acquire((&client, &db), Some(22), &[20_000..=20_010, 25_565..=25_565]).unwrap_err();
        assert_eq!(other.to_string(), "the client may not have the public port 22, only: 20000-20010, 25565");
        assert_eq!((other.refusal(), other.allowed_by(Some(22))), (Refusal::NotAllowed, Some("+22".to_owned())));
    }
}
