//! Which tunnels have won or lost names, for the log and the agents.

use std::collections::HashMap;
use std::sync::Arc;

use crate::server::directory::offered::Offered;
use crate::server::directory::registry::candidates::Candidate;
use crate::server::directory::tunnel::Tunnel;
use crate::values::{ClientId, TunnelId};

/// Which tunnels have won or lost names.
#[derive(Default)]
pub(crate) struct OwnerChanges {
    won: HashMap<TunnelId, Won>,
    lost: HashMap<TunnelId, Arc<Tunnel>>,
}

/// A tunnel and the names that it has won.
struct Won {
    tunnel: Arc<Tunnel>,
    names: Vec<String>,
}

impl OwnerChanges {
    /// Adds the difference between the owners of `key` before and after a change.
    pub(crate) fn add(&mut self, key: &impl std::fmt::Display, before: &[Arc<Offered>], after: &[Candidate]) {
        for candidate in after.iter().filter(|candidate| !before.iter().any(|held| candidate.is(held))) {
            let won = self
                .won
                .entry(candidate.id())
                .or_insert_with(|| Won { tunnel: Arc::clone(&candidate.tunnel), names: Vec::new() });
            won.names.push(key.to_string());
        }
        for held in before.iter().filter(|held| !after.iter().any(|candidate| candidate.is(held))) {
            self.lost.insert(held.tunnel.id(), Arc::clone(&held.tunnel));
        }
    }

    /// Logs the changes and notifies each affected tunnel except `newcomer`, whose answer to its login or change has its names.
    pub(crate) fn announce(self, client: &ClientId, newcomer: Option<TunnelId>) {
        let losers: Vec<String> =
            self.lost.values().filter(|old| old.is_serving()).map(|old| old.peer().to_string()).collect();
        let from = losers.join(",");
        for Won { tunnel, names } in self.won.values() {
            let (names, to) = (names.join(","), tunnel.peer());
            if Some(tunnel.id()) != newcomer {
                tracing::info!(%client, names, %to, "a standby agent has taken over free names");
                tunnel.notify_names_changed();
            } else if !from.is_empty() {
                tracing::info!(%client, names, %to, from, "an agent of the same client that was started later has taken over names");
            }
        }
        self.lost.values().filter(|old| Some(old.id()) != newcomer).for_each(|old| old.notify_names_changed());
    }
}
