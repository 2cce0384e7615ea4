//! Free names that are reserved for their last owner for a while.
//!
//! An agent that loses its connection, or whose machine restarts, usually returns soon. A standby agent must not take its
//! name in the meantime, or the name would alternate between the two.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::values::{ClientId, Domain, Name};

/// Names and domains that are kept for one client; beyond that, a free one is free at once.
const MAX_OF_A_CLIENT: usize = 1024;

/// What leads to a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Name(Name),
    Domain(Domain),
}

impl From<&Name> for Place {
    fn from(name: &Name) -> Self {
        Self::Name(name.clone())
    }
}

impl From<&Domain> for Place {
    fn from(domain: &Domain) -> Self {
        Self::Domain(domain.clone())
    }
}

/// For whom a place is kept, and how long.
#[derive(Debug, Clone, Copy)]
struct Keep {
    /// When its last owner was started.
    start: u64,
    until: Instant,
}

/// What is kept, of all clients.
#[derive(Debug, Default)]
pub(crate) struct Kept(HashMap<ClientId, HashMap<Place, Keep>>);

impl Kept {
    /// Keeps `place` from `now` on for so long, for the agent of `client` that was started as `start` says, or for a later
    /// one. What is kept already stays so.
    pub(crate) fn keep(&mut self, client: &ClientId, place: Place, start: u64, (now, time): (Instant, Duration)) {
        let kept = self.0.entry(client.clone()).or_default();
        let is_kept = kept.get(&place).is_some_and(|keep| now < keep.until);
        if !is_kept && kept.len() < MAX_OF_A_CLIENT {
            kept.insert(place, Keep { start, until: now + time });
        }
    }

    /// The start before which no agent that can stand by may take `place` yet.
    pub(crate) fn start_of(&self, client: &ClientId, place: &Place, now: Instant) -> Option<u64> {
        self.0.get(client)?.get(place).filter(|keep| now < keep.until).map(|keep| keep.start)
    }

    /// `place` is kept no longer.
    pub(crate) fn forget(&mut self, client: &ClientId, place: &Place) {
        if let Some(kept) = self.0.get_mut(client) {
            kept.remove(place);
            if kept.is_empty() {
                self.0.remove(client);
            }
        }
    }

    /// Keeps nothing for other clients than these.
    pub(crate) fn retain(&mut self, keep: impl Fn(&ClientId) -> bool) {
        self.0.retain(|client, _| keep(client));
    }

    /// Takes out all whose time is over.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<(ClientId, Vec<Place>)> {
        let mut due = Vec::new();
        self.0.retain(|client, kept| {
            let over: Vec<Place> =
                kept.iter().filter(|(_, keep)| now >= keep.until).map(|(place, _)| place.clone()).collect();
            kept.retain(|_, keep| now < keep.until);
            if !over.is_empty() {
                due.push((client.clone(), over));
            }
            !kept.is_empty()
        });
        due
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
