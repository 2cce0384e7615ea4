//! The server's own file, read again on SIGHUP: what is logged changes at once, everything else is named.

use std::path::PathBuf;

use crate::config::{ConfigErrors, Flags, ServerConfig};
use crate::telemetry::LogLevel;

/// What a server was started with, and by what it goes now.
pub(super) struct ServerFile {
    path: Option<PathBuf>,
    flags: Flags,
    started: ServerConfig,
    /// Level and access log as the file said last; what the operator's port has changed since stays until the file changes.
    logged: (String, bool),
    level: LogLevel,
}

impl ServerFile {
    /// The file at `path`, or the usual one, which `started` was read from.
    pub(super) fn new(path: Option<PathBuf>, flags: Flags, started: ServerConfig, level: LogLevel) -> Self {
        let logged = (started.log.level.clone(), started.log.access);
        Self { path, flags, started, logged, level }
    }

    /// Reads it again, and says in the log what has come of it.
    pub(super) async fn look(&mut self) {
        let (path, flags) = (self.path.clone(), self.flags.clone());
        let load = move || ServerConfig::load(path.as_deref(), &flags);
        // It fails only when the runtime ends.
        let Ok(loaded) = tokio::task::spawn_blocking(load).await else { return };
        self.take_over(loaded);
    }

    fn take_over(&mut self, loaded: Result<ServerConfig, ConfigErrors>) {
        let now = match loaded {
            Ok(now) => now,
            Err(errors) => {
                tracing::error!(
                    "the server's configuration cannot be used; what it said before still counts\n{errors}"
                );
                return;
            }
        };
        let logged = (now.log.level.clone(), now.log.access);
        if logged != self.logged && self.level.change(&logged.0, logged.1) {
            tracing::info!(level = logged.0, access = logged.1, "what is logged has changed");
            self.logged = logged;
        }
        let waiting = needs_restart(&self.started, &now);
        if !waiting.is_empty() {
            tracing::warn!("changes of {} count from the next start on: restart the server", waiting.join(", "));
        }
    }
}

/// The keys and sections that count only from the next start on.
fn needs_restart(started: &ServerConfig, now: &ServerConfig) -> Vec<&'static str> {
    let lines = |config: &ServerConfig| (config.log.format, config.log.file.clone(), config.log.query);
    let differs = [
        ("clients", now.clients != started.clients),
        ("tunnel", now.tunnel != started.tunnel),
        ("public", now.public != started.public),
        ("admin", now.admin != started.admin),
        ("timeouts", now.timeouts != started.timeouts),
        ("limits", now.limits != started.limits),
        ("traces", now.traces != started.traces),
        ("log (but for level and access)", lines(now) != lines(started)),
    ];
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}
