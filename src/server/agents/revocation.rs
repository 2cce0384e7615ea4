//! Whoever is connected may be so only for as long as the operator lets it: looked at again whenever the list of clients
//! changes, and when something on it ends by itself.

mod grace;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::server::agents::Agents;
use crate::server::directory::registry::Retained;
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::{RetireReason, Tunnel};
use crate::values::{ClientId, TunnelId};
use grace::{DELAY, Due, Grace};

/// Waits are cut into pieces: clocks are set, and computers sleep.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Why a tunnel is closed.
const NO_TOKEN: &str = "its token was revoked or has expired";
const NO_SERVICE: &str = "the operator no longer allows any of its services";

/// Which tunnels a reload would close that may be half of a file, and until when they stay.
#[derive(Debug, Default)]
pub(crate) struct Warden(Mutex<Grace<TunnelId>>);

/// What is to become of a tunnel.
enum Allowed {
    Everything,
    SomeServices,
    Nothing(&'static str),
}

impl Agents {
    /// Ends what is not allowed any more, until the server stops.
    pub(crate) async fn watch_over_tunnels(self: Arc<Self>) {
        let mut changes = self.directory.clients.changes();
        let mut looked = Timestamp::now();
        loop {
            let ends = self.directory.clients.next_change(looked);
            let wait = ends.map(|end| until(end).min(LOOK_AGAIN));
            let grace = self.revocation.0.lock().next();
            tokio::select! {
                () = self.runtime.shutdown.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = async { match grace {
                    Some(grace) => tokio::time::sleep_until(grace).await,
                    None => std::future::pending().await,
                } } => {}
                () = async { match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                } } => if grace.is_none_or(|grace| grace > Instant::now()) && ends.is_some_and(|end| end > Timestamp::now()) { continue },
            }
            changes.mark_unchanged();
            looked = Timestamp::now();
            self.look_at_tunnels();
        }
    }

    /// Looks at every tunnel, now. Those that a reload by hand would close get time, if they are most of all.
    pub(crate) fn look_at_tunnels(&self) {
        self.directory.update_allowances(&self.settings());
        // A client that is not listed at the moment may be again before its tunnels are closed.
        let counts = |client: &ClientId| {
            self.directory.clients.entry(client).is_some() || !self.directory.registry.tunnels_of(client).is_empty()
        };
        self.directory.registry.retain_reservations(counts);
        self.start_order.retain(counts);
        // Held over all of it: of two that look, the second one must not take the change for old.
        let mut grace = self.revocation.0.lock();
        let tunnels = self.directory.registry.all();
        let due_of = |tunnel: &Arc<Tunnel>| {
            let closes = match self.allowed(tunnel) {
                Allowed::Everything => return None,
                Allowed::SomeServices => false,
                Allowed::Nothing(_) => tunnel.is_serving(),
            };
            Some(Due { tunnel: tunnel.id(), closes, change: self.directory.clients.last_change_of(tunnel.client()) })
        };
        let (change, due) = loop {
            let change = self.directory.clients.last_change();
            let due: Vec<_> = tunnels.iter().filter_map(due_of).collect();
            // Otherwise it may be another list that they were compared with.
            if change == self.directory.clients.last_change() {
                break (change, due);
            }
        };
        let open = tunnels.iter().filter(|tunnel| tunnel.is_serving()).count();
        let verdict = grace.decide(&due, open, change.revision, Instant::now());
        drop(grace);
        if verdict.delayed > 0 {
            let closing = due.iter().filter(|due| due.closes).count();
            tracing::warn!(
                closing,
                open,
                "the clients file no longer allows most of the connected agents; it may be incomplete, so their tunnels \
                 are closed in {DELAY:?} unless it allows them again"
            );
        }
        let spared = tunnels.iter().filter(|tunnel| verdict.spared.contains(&tunnel.id())).count();
        if spared > 0 {
            tracing::info!(tunnels = spared, "the clients file allows these agents again; their tunnels stay open");
        }
        tunnels.iter().filter(|tunnel| verdict.now.contains(&tunnel.id())).for_each(|tunnel| self.enforce(tunnel));
        tunnels.iter().for_each(|tunnel| self.give_back(tunnel));
        self.forget_meters();
    }

    /// Forgets what was counted of services that nobody may offer any more, once their last tunnel is gone. That is a
    /// moment after it was cut: whoever shows the metrics asks for this again.
    pub(crate) fn forget_meters(&self) {
        self.runtime.metrics.forget(|client, name| self.directory.clients.may_claim(client, name));
    }

    /// Ends the tunnel, or takes services away from it, if its client may not have it any more; unless it has time.
    pub(crate) fn look_at(&self, tunnel: &Arc<Tunnel>) {
        if !self.revocation.0.lock().covers(tunnel.id(), self.directory.clients.last_change().revision) {
            self.enforce(tunnel);
        }
    }

    /// What the tunnel's client may have of it.
    fn allowed(&self, tunnel: &Arc<Tunnel>) -> Allowed {
        let services = tunnel.services();
        match services.iter().filter(|service| self.may_still_offer(tunnel, service)).count() {
            _ if !self.is_still_good(tunnel) => Allowed::Nothing(NO_TOKEN),
            kept if kept == services.len() => Allowed::Everything,
            0 => Allowed::Nothing(NO_SERVICE),
            _ => Allowed::SomeServices,
        }
    }

    fn enforce(&self, tunnel: &Arc<Tunnel>) {
        if let Allowed::Nothing(why) = self.allowed(tunnel) {
            return self.end(tunnel, why);
        }
        let before = tunnel.services();
        match self.directory.registry.retain_services(tunnel, |service| self.may_still_offer(tunnel, service)) {
            Retained::All => {}
            Retained::None => self.end(tunnel, NO_SERVICE),
            Retained::Some => {
                tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), "the agent may not offer some of its services any more");
                let now = tunnel.services();
                let is_gone = |service: &&Arc<Service>| !now.iter().any(|kept| Arc::ptr_eq(kept, service));
                tunnel.withhold(before.iter().filter(is_gone).cloned());
                tunnel.notify_names_changed();
            }
        }
    }

    /// Gives the tunnel the services back that were taken away and may be offered again.
    fn give_back(&self, tunnel: &Arc<Tunnel>) {
        let back = tunnel.take_withheld(|service| self.may_still_offer(tunnel, service));
        if back.is_empty() || !tunnel.is_serving() {
            return;
        }
        match self.directory.registry.return_services(tunnel, back.clone()) {
            Ok(()) => {
                tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), "the operator allows services of the agent again");
                tunnel.notify_names_changed();
            }
            // Another client still has one of the names: the next change is another occasion.
            Err(_) => tunnel.withhold(back.into_iter()),
        }
    }

    fn end(&self, tunnel: &Arc<Tunnel>, why: &str) {
        tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), "a tunnel is cut: {why}");
        // First it serves no more: then nothing gives it a name back.
        tunnel.retire(RetireReason::Revoked);
        self.directory.registry.withdraw(tunnel);
    }
}

fn until(moment: Timestamp) -> Duration {
    Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default()
}
