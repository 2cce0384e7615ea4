//! The server's own life: settings and their reload, checks before the start, certificates, budgets, and the drain at
//! the end.

pub mod certificate;
pub(crate) mod check;
pub(crate) mod drain;
pub(crate) mod fd_budget;
pub mod memory_bound;
pub mod reload;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::limits::FailedLogins;
use crate::server::agents::Agents;
use crate::server::directory::Directory;
use crate::server::ingress::Ingress;
use crate::server::lifecycle::certificate::Certificates;
use crate::server::lifecycle::fd_budget::FdBudget;
use crate::server::lifecycle::reload::NotReloaded;
use crate::server::runtime::Runtime;
use crate::server::settings::Settings;
use crate::telemetry::LogState;

/// How often the rate limits forget idle addresses.
const EVICTION: Duration = Duration::from_secs(60);

/// The components of a server, for what concerns all of them: reload, drain and the operator's port.
#[derive(Debug)]
pub struct Lifecycle {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) certificates: Certificates,
    /// Held while a reload is in progress.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    /// Why the latest reload was refused, if it was.
    pub(crate) refused_reload: parking_lot::Mutex<Option<NotReloaded>>,
    /// Wrong tokens at the admin port.
    pub(crate) wrong_admin_tokens: FailedLogins,
    /// The state of the process's log, if this server has it.
    pub(crate) log: OnceLock<LogState>,
}

impl Lifecycle {
    /// Returns the current settings.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.runtime.settings()
    }

    /// Forgets addresses that have been idle, once a minute until the server stops.
    pub(crate) async fn evict_idle_addresses(self: Arc<Self>) {
        let mut tick = interval(EVICTION);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.runtime.shutdown.stop.cancelled() => return,
                _ = tick.tick() => {
                    self.ingress.limits.evict_idle();
                    self.directory.evict_idle();
                    self.agents.login.evict_idle();
                    self.wrong_admin_tokens.evict_idle();
                }
            }
        }
    }

    /// Replaces the settings and applies all limits that follow from them. What is open stays open, even if it is more than
    /// the new limits allow.
    pub(crate) fn apply(&self, settings: Settings) {
        let settings = Arc::new(settings);
        let before = self.runtime.replace_settings(Arc::clone(&settings));
        let limits = &settings.config.limits;
        let budget = if limits.connections == before.config.limits.connections {
            FdBudget::of(limits)
        } else {
            FdBudget::of_changed(limits)
        };
        self.ingress.limits.apply(limits, budget.connections);
        self.agents.login.apply(&limits.per_ip);
        self.wrong_admin_tokens.change(limits.per_ip.logins_per_minute, limits.per_ip.ipv6_prefix);
        self.directory.apply(&settings);
    }
}
