//! What each client uses, over all its tunnels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::limits::{Allowance, ClientUse, Permit};
use crate::server::Shared;
use crate::tenants::limits::ClientLimits;
use crate::values::ClientId;

/// How many of `limits.streams` a client may have in any case, as long as any are left.
const LEAST_STREAMS: usize = 8;

/// By client; one that has no tunnel is forgotten at the next change of the clients file. Bounded by the clients that the
/// operator lists.
#[derive(Debug, Default)]
pub(crate) struct Usages {
    clients: DashMap<ClientId, Arc<ClientUse>>,
    /// How many clients share what the server has.
    sharers: AtomicUsize,
}

impl Usages {
    /// What `client` uses; new ones begin with what they may use. `listed` is how many clients there are.
    pub(crate) fn of(&self, client: &ClientId, listed: usize, allowance: impl FnOnce() -> Allowance) -> Arc<ClientUse> {
        let usage = Arc::clone(&self.clients.entry(client.clone()).or_insert_with(|| ClientUse::new(allowance())));
        self.count(listed);
        usage
    }

    /// Lets each one go by what it may use now.
    pub(crate) fn change(&self, listed: usize, allowance: impl Fn(&ClientId) -> Allowance) {
        self.clients.retain(|client, usage| {
            usage.change(allowance(client));
            Arc::strong_count(usage) > 1
        });
        self.count(listed);
    }

    /// One client that is alone leaves room for the next one, if there is any.
    fn count(&self, listed: usize) {
        self.sharers.store(self.clients.len().max(listed.min(2)), Ordering::Relaxed);
    }
}

impl Shared {
    /// What `client` uses.
    pub(crate) fn usage_of(&self, client: &ClientId) -> Arc<ClientUse> {
        self.usages.of(client, self.clients.len(), || self.allowance(client))
    }

    /// One of `limits.streams` for a client that uses `usage`; `None` if all are taken, or those that this client may have:
    /// when half of them are, the rest is divided among the clients.
    pub(crate) fn stream_for(&self, usage: &ClientUse) -> Option<Permit> {
        let sharers = self.usages.sharers.load(Ordering::Relaxed);
        self.streams.try_acquire_shared(usage.streams(), sharers, LEAST_STREAMS)
    }

    /// What `client` may use: what its operator says for it, and the server's defaults where nothing is said.
    pub(crate) fn allowance(&self, client: &ClientId) -> Allowance {
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
