//! What each client uses, over all of its tunnels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::limits::{Allowance, ClientUse, Permit, Permits};
use crate::tenants::client_limits::ClientLimits;
use crate::values::ClientId;

/// Number of `limits.streams` that a client may use in any case, as long as any are free.
const MIN_STREAMS: usize = 8;

/// The usage by client. A client without a tunnel is removed at the next change of the clients file, so the listed clients
/// bound the size.
#[derive(Debug, Default)]
pub(crate) struct ClientUsages {
    clients: DashMap<ClientId, Arc<ClientUse>>,
    /// The number of clients that share the server's streams.
    sharing: AtomicUsize,
}

impl ClientUsages {
    /// Returns the usage of `client`. A new one starts with what `allowance` returns. `listed` is the number of listed clients.
    pub(crate) fn of(&self, client: &ClientId, listed: usize, allowance: impl FnOnce() -> Allowance) -> Arc<ClientUse> {
        let usage = Arc::clone(&self.clients.entry(client.clone()).or_insert_with(|| ClientUse::new(allowance())));
        self.update_sharing(listed);
        usage
    }

    /// Applies changed allowances.
    pub(crate) fn set_allowances(&self, listed: usize, allowance: impl Fn(&ClientId) -> Allowance) {
        self.clients.retain(|client, usage| {
            usage.change(allowance(client));
            Arc::strong_count(usage) > 1
        });
        self.update_sharing(listed);
    }

    /// Updates the number of clients that share the streams. A single client leaves room for another one, if any is listed.
    fn update_sharing(&self, listed: usize) {
        self.sharing.store(self.clients.len().max(listed.min(2)), Ordering::Relaxed);
    }
    /// Returns one of `streams` for a client that uses `usage`. While at least half of them are free, each client may take as
    /// many as it wants; the other half is divided among the clients. Returns `None` if the client has its share or none is
    /// free.
    pub(crate) fn stream_for(&self, streams: &Permits, usage: &ClientUse) -> Option<Permit> {
        let sharing = self.sharing.load(Ordering::Relaxed);
        streams.try_acquire_shared(usage.streams(), sharing, MIN_STREAMS)
    }
}

/// Returns what a client may use: its own limits, and `defaults` where it has none.
pub(crate) fn allowance_of(own: ClientLimits, defaults: ClientLimits) -> Allowance {
    // A burst belongs to its rate.
    let (requests_per_second, burst) = match own.requests_per_second {
        Some(own_rate) => (Some(own_rate), own.burst),
        None => (defaults.requests_per_second, defaults.burst),
    };
    Allowance { requests_per_second, burst, streams: own.streams.or(defaults.streams), is_strict: false }
}
