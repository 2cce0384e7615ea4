//! What each client uses, over all its tunnels.

use std::sync::Arc;

use dashmap::DashMap;

use super::Shared;
use crate::config::ClientLimits;
use crate::limits::{Allowance, ClientUse};
use crate::values::ClientId;

/// By client; one that has no tunnel is forgotten at the next change of the clients file. Bounded by the clients that the
/// operator lists.
#[derive(Debug, Default)]
pub(super) struct Usages(DashMap<ClientId, Arc<ClientUse>>);

impl Usages {
    /// What `client` uses; new ones begin with what they may use.
    pub(super) fn of(&self, client: &ClientId, allowance: impl FnOnce() -> Allowance) -> Arc<ClientUse> {
        Arc::clone(&self.0.entry(client.clone()).or_insert_with(|| ClientUse::new(allowance())))
    }

    /// Lets each one go by what it may use now.
    pub(super) fn change(&self, allowance: impl Fn(&ClientId) -> Allowance) {
        self.0.retain(|client, usage| {
            usage.change(allowance(client));
            Arc::strong_count(usage) > 1
        });
    }
}

impl Shared {
    /// What `client` may use: what its operator says for it, and the server's defaults where nothing is said.
    pub(super) fn allowance(&self, client: &ClientId) -> Allowance {
        let own = self.clients.entry(client).map(|entry| entry.limits).unwrap_or_default();
        let ClientLimits { requests_per_second, burst, streams } = self.settings().config.limits.per_client;
        // A burst belongs to its rate.
        let (requests_per_second, burst) = match own.requests_per_second {
            Some(own_rate) => (Some(own_rate), own.burst),
            None => (requests_per_second, burst),
        };
        Allowance { requests_per_second, burst, streams: own.streams.or(streams) }
    }
}
