//! Whoever is connected may be so only for as long as the operator lets it: looked at again whenever the list of clients
//! changes, and when something on it ends by itself.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Shared;
use super::tunnel::{Retired, Tunnel};

/// Waits are cut into pieces: clocks are set, and computers sleep.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Shared {
    /// Ends what is not allowed any more, until the server stops.
    pub(super) async fn watch_over_tunnels(self: Arc<Self>) {
        let mut changes = self.clients.changes();
        let mut looked = Timestamp::now();
        loop {
            let ends = self.clients.next_change(looked);
            let wait = ends.map(|end| until(end).min(LOOK_AGAIN));
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = async { match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                } } => if ends.is_some_and(|end| end > Timestamp::now()) { continue },
            }
            changes.mark_unchanged();
            looked = Timestamp::now();
            self.look_at_tunnels();
        }
    }

    /// Looks at every tunnel, now.
    pub(super) fn look_at_tunnels(&self) {
        self.usages.change(self.clients.len(), |client| self.allowance(client));
        self.registry.forget_kept(|client| self.clients.entry(client).is_some());
        self.starts.retain(|client| self.clients.entry(client).is_some());
        self.registry.all().iter().for_each(|tunnel| self.look_at(tunnel));
        self.forget_meters();
    }

    /// Forgets what was counted of services that nobody may offer any more, once their last tunnel is gone. That is a
    /// moment after it was cut: whoever shows the metrics asks for this again.
    pub(super) fn forget_meters(&self) {
        self.metrics.forget(|client, name| self.clients.may_claim(client, name));
    }

    /// Ends the tunnel, or takes services away from it, if its client may not have it any more.
    pub(super) fn look_at(&self, tunnel: &Arc<Tunnel>) {
        if !self.is_still_good(tunnel) {
            return self.end(tunnel, "its token was revoked, or has expired");
        }
        match self.registry.retain_services(tunnel, |service| self.may_still_offer(tunnel, service)) {
            (before, kept) if kept == before => {}
            (_, 0) => self.end(tunnel, "it may not offer anything any more"),
            _ => {
                tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), "the agent may not offer some of its services any more");
                self.tell_services(tunnel);
            }
        }
    }

    fn end(&self, tunnel: &Arc<Tunnel>, why: &str) {
        tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), "a tunnel is cut: {why}");
        // First it serves no more: then nothing gives it a name back.
        tunnel.retire(Retired::Revoked);
        self.registry.withdraw(tunnel);
    }
}

fn until(moment: Timestamp) -> Duration {
    Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default()
}
