//! Free names that are reserved for their last owner for some time.
//!
//! An agent that loses its connection, or whose machine restarts, usually returns soon. A standby agent must not take its
//! name in the meantime, or the name would alternate between the two.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::server::directory::registry::route_keys::RouteKey;
use crate::values::ClientId;

/// Maximum number of reservations of one client. Beyond that, a free name is not reserved.
const MAX_OF_A_CLIENT: usize = 1024;

/// Who a key is reserved for, and until when.
#[derive(Debug, Clone, Copy)]
struct Reservation {
    /// The start number of the last owner's agent.
    start: u64,
    until: Instant,
}

/// The reservations of all clients.
#[derive(Debug, Default)]
pub(crate) struct Reservations(HashMap<ClientId, HashMap<RouteKey, Reservation>>);

impl Reservations {
    /// Reserves `key` for `time` from now on, for the agent of `client` with this start number and for later ones. An existing
    /// reservation stays as it is.
    pub(crate) fn reserve(&mut self, client: &ClientId, key: RouteKey, start: u64, time: Duration) {
        let now = Instant::now();
        let reserved = self.0.entry(client.clone()).or_default();
        let is_reserved = reserved.get(&key).is_some_and(|reservation| now < reservation.until);
        if !is_reserved && reserved.len() < MAX_OF_A_CLIENT {
            reserved.insert(key, Reservation { start, until: now + time });
        }
    }

    /// Returns the start number that an agent which supports standby needs in order to get `key`; `None` if it is not
    /// reserved.
    pub(crate) fn start_of(&self, client: &ClientId, key: &RouteKey) -> Option<u64> {
        let now = Instant::now();
        self.0.get(client)?.get(key).filter(|reservation| now < reservation.until).map(|reservation| reservation.start)
    }

    /// Removes the reservation of a key.
    pub(crate) fn cancel(&mut self, client: &ClientId, key: &RouteKey) {
        if let Some(reserved) = self.0.get_mut(client) {
            reserved.remove(key);
            if reserved.is_empty() {
                self.0.remove(client);
            }
        }
    }

    /// Removes the reservations of all other clients.
    pub(crate) fn retain(&mut self, keep: impl Fn(&ClientId) -> bool) {
        self.0.retain(|client, _| keep(client));
    }

    /// Removes and returns the reservations that have expired.
    pub(crate) fn take_expired(&mut self) -> Vec<(ClientId, Vec<RouteKey>)> {
        let now = Instant::now();
        let mut all = Vec::new();
        self.0.retain(|client, reserved| {
            let expired: Vec<RouteKey> = reserved
                .iter()
                .filter(|(_, reservation)| now >= reservation.until)
                .map(|(key, _)| key.clone())
                .collect();
            reserved.retain(|_, reservation| now < reservation.until);
            if !expired.is_empty() {
                all.push((client.clone(), expired));
            }
            !reserved.is_empty()
        });
        all
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
