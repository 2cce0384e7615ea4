//! The connected tunnels by client id, and the names and domains that lead to them.
//!
//! Readers (every request) clone an entry and hold no lock. Writers (logins, disconnects) are rare and share one lock, so
//! that they claim several names atomically.

mod candidates;
mod error;
mod guards;
mod index;
mod names;
mod owner_changes;
mod registration;
mod replace_services;
mod reservations;
mod route_keys;

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::server::directory::offered::Offered;
use crate::server::directory::tunnel::Tunnel;
use crate::values::{ClientId, Domain, Name, TunnelId};
pub use error::RegisterError;
pub use guards::{LaneGuard, Registration};
use index::Index;
pub use names::NameAssignment;
pub use replace_services::Retained;
use reservations::Reservations;

/// The tunnels of this node.
#[derive(Debug)]
pub struct Registry {
    tunnels: DashMap<ClientId, Vec<Arc<Tunnel>>>,
    names: Index<Name>,
    domains: Index<Domain>,
    /// Locked while the maps change.
    state: Mutex<WriterState>,
    changed: watch::Sender<u64>,
    /// Notified when a name is reserved.
    reserved: Notify,
}

/// The state that only writers need.
#[derive(Debug)]
pub(crate) struct WriterState {
    /// The number of tunnels, and its limit.
    count: usize,
    max_tunnels: usize,
    /// Free names that are reserved for their last owners, and for how long new reservations last.
    reservations: Reservations,
    reservation_time: Duration,
    /// The number of activations so far.
    activations: u64,
}

/// How long a free name is reserved for its last owner by default.
pub const RESERVATION_TIME: Duration = Duration::from_secs(30);

/// How often the registry looks for expired reservations within the time of one.
const CHECKS_PER_RESERVATION: u32 = 30;

/// Maximum number of labels of a host below a client's `*.` domain.
const MAX_DEPTH: usize = 8;

/// Maximum number of tunnels of one client.
pub const MAX_TUNNELS_OF_A_CLIENT: usize = 64;

impl Registry {
    /// Creates a registry for up to `max_tunnels`.
    pub fn new(max_tunnels: usize) -> Arc<Self> {
        let state = WriterState {
            count: 0,
            max_tunnels,
            reservations: Reservations::default(),
            reservation_time: RESERVATION_TIME,
            activations: 0,
        };
        Arc::new(Self {
            tunnels: DashMap::new(),
            names: Index::new(),
            domains: Index::new(),
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            reserved: Notify::new(),
        })
    }

    /// Changes the maximum number of tunnels. Connected ones stay, even if they are more.
    pub fn set_max_tunnels(&self, max_tunnels: usize) {
        self.state.lock().max_tunnels = max_tunnels;
    }

    /// Changes how long free names are reserved from now on, instead of [`RESERVATION_TIME`].
    pub fn set_reservation_time(&self, time: Duration) {
        self.state.lock().reservation_time = time;
    }

    /// Assigns reserved names to standby agents when their reservation expires. Runs until `stop`.
    pub(crate) async fn release_reservations(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            loop {
                self.reserved.notified().await;
                let period = self.state.lock().reservation_time / CHECKS_PER_RESERVATION;
                let mut check = interval(period.max(Duration::from_millis(10)));
                check.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    check.tick().await;
                    if !self.release_expired() {
                        break;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            never = work => never,
        }
    }

    /// Removes the reservations of clients that are no longer listed.
    pub fn retain_reservations(&self, is_listed: impl Fn(&ClientId) -> bool) {
        self.state.lock().reservations.retain(is_listed);
    }

    /// Returns what `name` leads to. If several tunnels share it, returns the one with the fewest open streams.
    pub fn by_name(&self, name: &Name) -> Option<Arc<Offered>> {
        self.names.choose(name, |_| true)
    }

    /// Returns what serves the hosts below `name`.
    pub fn below_name(&self, name: &Name) -> Option<Arc<Offered>> {
        self.names.choose(name, |offered| offered.service.offer().wildcard)
    }

    /// Returns what serves `host`, as a domain of a client's own or by a `*.` domain above it. Lower case, without a final
    /// dot.
    pub fn by_domain(&self, host: &str) -> Option<Arc<Offered>> {
        if self.domains.is_empty() {
            return None;
        }
        self.domains.choose(host, |_| true).or_else(|| {
            let parents = host.match_indices('.').take(MAX_DEPTH);
            parents
                .map(|(at, _)| format!("*{}", &host[at..]))
                .find_map(|above| self.domains.choose(above.as_str(), |_| true))
        })
    }

    /// Returns the same service through a tunnel that is not in `tried`, for a request that no application has seen. It
    /// belongs to the same client and has the same access rules, so a visitor who was admitted there is admitted here.
    pub fn another(&self, offered: &Offered, tried: &[TunnelId]) -> Option<Arc<Offered>> {
        let (before, client) = (offered.service.offer(), offered.tunnel.client());
        let is_alike = |other: &Offered| {
            let offer = other.service.offer();
            other.tunnel.client() == client && offer.kind == before.kind && offer.access == before.access
        };
        let fits = |other: &Offered| !tried.contains(&other.tunnel.id()) && is_alike(other);
        self.names.choose(offered.service.name(), fits)
    }

    /// Returns the tunnels of a client.
    pub fn tunnels_of(&self, client: &ClientId) -> Vec<Arc<Tunnel>> {
        self.tunnels.get(client).map(|tunnels| tunnels.clone()).unwrap_or_default()
    }

    /// Returns the tunnel of a client with this id, if it has had its first lane.
    pub fn tunnel(&self, client: &ClientId, id: TunnelId) -> Option<Arc<Tunnel>> {
        self.tunnels.get(client)?.iter().find(|tunnel| tunnel.id() == id && tunnel.has_been_up()).cloned()
    }

    /// Returns all tunnels, including those that wait for their first lane. Walks the whole map.
    pub fn all(&self) -> Vec<Arc<Tunnel>> {
        self.tunnels.iter().flat_map(|tunnels| tunnels.clone()).collect()
    }

    /// Returns the number of tunnels, including those that drain and those that wait for their first lane.
    pub fn len(&self) -> usize {
        self.state.lock().count
    }

    /// Returns whether there are no tunnels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether any name leads to a tunnel.
    pub fn serves_any(&self) -> bool {
        !self.names.is_empty()
    }

    /// Returns a receiver that is notified whenever a tunnel, a lane or a name is added or removed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn notify_changed(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }
}

#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod tests;
