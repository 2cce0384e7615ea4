//! Closes tunnels and removes services that the clients file no longer allows: whenever it changes, and when a client or a
//! token expires.

mod grace;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::server::agents::Agents;
use crate::server::agents::revocation::grace::{DELAY, Decision, Grace, Violation};
use crate::server::directory::registry::Retained;
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::{RetireReason, Tunnel};
use crate::values::{ClientId, TunnelId};

/// Maximum time between two looks at the clock, because clocks are set and computers sleep.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Why a tunnel is closed.
const NO_TOKEN: &str = "its token was revoked or has expired";
const NO_SERVICE: &str = "the operator no longer allows any of its services";

/// The tunnels whose closing is delayed, because the clients file may be incomplete.
#[derive(Debug, Default)]
pub(crate) struct DelayedRevocations(Mutex<Grace<TunnelId>>);

/// What the clients file allows of a tunnel.
enum Allowed {
    Everything,
    SomeServices,
    /// With the reason.
    Nothing(&'static str),
}

impl Agents {
    /// Enforces the clients file until the server stops.
    pub(crate) async fn enforce_clients_file(self: Arc<Self>) {
        let mut changes = self.directory.clients.changes();
        let mut checked = Timestamp::now();
        loop {
            let expiry = self.directory.clients.next_change(checked);
            let delayed = self.revocation.0.lock().next();
            let wait = expiry.map(|end| Instant::now() + until(end).min(MAX_WAIT));
            tokio::select! {
                () = self.runtime.shutdown.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep_until(delayed) => {}
                () = sleep_until(wait) => {
                    let is_delay_over = delayed.is_some_and(|delayed| delayed <= Instant::now());
                    if !is_delay_over && expiry.is_some_and(|end| end > Timestamp::now()) {
                        continue;
                    }
                }
            }
            changes.mark_unchanged();
            checked = Timestamp::now();
            self.recheck_all();
        }
    }

    /// Checks every tunnel now. If a manual edit of the clients file would close most of them, closing is delayed.
    pub(crate) fn recheck_all(&self) {
        self.directory.update_allowances(&self.settings());
        // A client that is not listed now may be listed again before its tunnels are closed.
        let is_known = |client: &ClientId| {
            self.directory.clients.entry(client).is_some() || !self.directory.registry.tunnels_of(client).is_empty()
        };
        self.directory.registry.retain_reservations(is_known);
        self.start_order.retain(is_known);
        let tunnels = self.directory.registry.all();
        let decision = self.decide(&tunnels);
        let spared = tunnels.iter().filter(|tunnel| decision.spared.contains(&tunnel.id())).count();
        if spared > 0 {
            tracing::info!(tunnels = spared, "the clients file allows these agents again; their tunnels stay open");
        }
        tunnels.iter().filter(|tunnel| decision.now.contains(&tunnel.id())).for_each(|tunnel| self.enforce(tunnel));
        tunnels.iter().for_each(|tunnel| self.return_services(tunnel));
        self.remove_unused_meters();
    }

    /// Decides which tunnels are dealt with now, and logs how many are delayed.
    fn decide(&self, tunnels: &[Arc<Tunnel>]) -> Decision<TunnelId> {
        // Locked throughout, so that of two concurrent checks the second one does not miss that the change is new.
        let mut grace = self.revocation.0.lock();
        let (violations, revision) = loop {
            let change = self.directory.clients.last_change();
            let violations: Vec<_> = tunnels.iter().filter_map(|tunnel| self.violation_of(tunnel)).collect();
            // Otherwise the tunnels may have been compared with different versions.
            if change == self.directory.clients.last_change() {
                break (violations, change.revision);
            }
        };
        let open = tunnels.iter().filter(|tunnel| tunnel.is_serving()).count();
        let decision = grace.decide(&violations, open, revision, Instant::now());
        drop(grace);
        if decision.delayed > 0 {
            let closing = violations.iter().filter(|violation| violation.closes).count();
            tracing::warn!(
                closing,
                open,
                "the clients file no longer allows most of the connected agents; it may be incomplete, so their tunnels \
                 are closed in {DELAY:?} unless it allows them again"
            );
        }
        decision
    }

    /// Returns how a tunnel violates the clients file, if it does.
    fn violation_of(&self, tunnel: &Arc<Tunnel>) -> Option<Violation<TunnelId>> {
        let closes = match self.allowed(tunnel) {
            Allowed::Everything => return None,
            Allowed::SomeServices => false,
            Allowed::Nothing(_) => tunnel.is_serving(),
        };
        Some(Violation { tunnel: tunnel.id(), closes, change: self.directory.clients.last_change_of(tunnel.client()) })
    }

    /// Removes the counts of services that no client may offer any more, once their last tunnel has ended. That is a moment
    /// after the tunnel is closed, so the metrics page calls this, too.
    pub(crate) fn remove_unused_meters(&self) {
        self.runtime.metrics.forget(|client, name| self.directory.clients.may_claim(client, name));
    }

    /// Closes the tunnel or removes services if its client may no longer have them, unless that is delayed.
    pub(crate) fn recheck(&self, tunnel: &Arc<Tunnel>) {
        if !self.revocation.0.lock().delays(tunnel.id(), self.directory.clients.last_change().revision) {
            self.enforce(tunnel);
        }
    }

    /// Returns what the tunnel's client may have of it.
    fn allowed(&self, tunnel: &Arc<Tunnel>) -> Allowed {
        let services = tunnel.services();
        match services.iter().filter(|service| self.may_still_offer(tunnel, service)).count() {
            _ if !self.is_still_valid(tunnel) => Allowed::Nothing(NO_TOKEN),
            allowed if allowed == services.len() => Allowed::Everything,
            0 => Allowed::Nothing(NO_SERVICE),
            _ => Allowed::SomeServices,
        }
    }

    fn enforce(&self, tunnel: &Arc<Tunnel>) {
        if let Allowed::Nothing(reason) = self.allowed(tunnel) {
            return self.close(tunnel, reason);
        }
        let before = tunnel.services();
        match self.directory.registry.retain_services(tunnel, |service| self.may_still_offer(tunnel, service)) {
            Retained::All => {}
            Retained::None => self.close(tunnel, NO_SERVICE),
            Retained::Some => {
                tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), "the agent may not offer some of its services any more");
                let now = tunnel.services();
                let is_removed = |service: &&Arc<Service>| !now.iter().any(|kept| Arc::ptr_eq(kept, service));
                tunnel.withhold(before.iter().filter(is_removed).cloned());
                tunnel.notify_names_changed();
            }
        }
    }

    /// Returns withheld services to the tunnel that are allowed again.
    fn return_services(&self, tunnel: &Arc<Tunnel>) {
        let back = tunnel.take_withheld(|service| self.may_still_offer(tunnel, service));
        if back.is_empty() || !tunnel.is_serving() {
            return;
        }
        match self.directory.registry.return_services(tunnel, back.clone()) {
            Ok(()) => {
                tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), "the operator allows services of the agent again");
                tunnel.notify_names_changed();
            }
            // Another client still has one of the names. The next change tries again.
            Err(_) => tunnel.withhold(back.into_iter()),
        }
    }

    fn close(&self, tunnel: &Arc<Tunnel>, reason: &str) {
        tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), "a tunnel is cut: {reason}");
        // Retired first, so that no change gives it a name back.
        tunnel.retire(RetireReason::Revoked);
        self.directory.registry.withdraw(tunnel);
    }
}

fn until(moment: Timestamp) -> Duration {
    Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default()
}

/// Waits until `moment`; forever if there is none.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
