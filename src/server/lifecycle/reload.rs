//! Reloads the configuration while the server runs. `server.toml`, the clients file and the certificates are reloaded
//! atomically: if any of them is invalid, nothing changes. No connection is dropped.

use std::fmt;
use std::sync::Arc;

use crate::schema::{ConfigErrors, Problem};
use crate::server::lifecycle::Lifecycle;
use crate::server::lifecycle::certificate::{self, Sources};
use crate::server::options::{Renewed, ServerOptions, shared_origin_warning};
use crate::server::settings::Settings;
use crate::telemetry::{LogLevel, check_log_file};
use crate::tenants::file_store::load_clients;

/// Reloads the configuration of a running server.
#[derive(Debug)]
pub struct Reloader {
    lifecycle: Arc<Lifecycle>,
    log: Option<LogLevel>,
}

/// What a reload changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The keys of `server.toml` whose new values are in effect.
    pub changed: Vec<String>,
    /// Whether the clients file changed.
    pub clients: bool,
    /// Whether the listeners use other certificates.
    pub certificates: bool,
    /// The keys of `server.toml` whose new values take effect at the next start.
    pub waiting: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut changed: Vec<&str> = self.changed.iter().map(String::as_str).collect();
        changed.extend(self.clients.then_some("the clients file"));
        changed.extend(self.certificates.then_some("certificates"));
        match changed.is_empty() {
            true => f.write_str("nothing has changed")?,
            false => write!(f, "changed: {}", changed.join(", "))?,
        }
        if !self.waiting.is_empty() {
            write!(f, "; waiting for a restart: {}", self.waiting.join(", "))?;
        }
        Ok(())
    }
}

/// Why a reload was refused: all problems of all files, one per line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ConfigErrors::to_string).collect::<Vec<_>>().join("\n"))]
pub struct NotReloaded(pub Vec<ConfigErrors>);

/// What `server.toml` contains now, and what follows from it for the server.
struct Draft {
    renewed: Renewed,
    settings: Option<Settings>,
    problems: Vec<ConfigErrors>,
}

impl Draft {
    /// Compares what was `loaded` with the settings `before`. Blocks on files.
    fn new(loaded: Result<ServerOptions, ConfigErrors>, before: &Settings) -> Self {
        let read = match loaded {
            Ok(read) => read,
            // The other files are checked anyway, against the current settings.
            Err(errors) => {
                let renewed = before.config.renewed(&before.config);
                return Self { renewed, settings: None, problems: vec![errors] };
            }
        };
        let renewed = before.config.renewed(&read);
        let mut problems = Vec::new();
        let settings = Settings::new(renewed.config.clone(), Some(before))
            .map_err(|error| problems.extend(of_keys(vec![problem("public.domain_proof", error.to_string())])))
            .ok();
        // Values that take effect at the next start must not prevent it.
        if read.clients != renewed.config.clients {
            problems.extend(load_clients(&read.clients).err());
        }
        if renewed.waiting.iter().any(|key| key.starts_with("tunnel.tls.") || *key == "public.certificates") {
            problems.extend(of_keys(certificate::check(&read)));
        }
        if renewed.waiting.iter().any(|key| key == "log.file")
            && let Err(error) = check_log_file(&read.log)
        {
            problems.extend(of_keys(vec![problem("log.file", error.to_string())]));
        }
        Self { renewed, settings, problems }
    }
}

impl Reloader {
    pub(crate) fn new(lifecycle: Arc<Lifecycle>, log: Option<LogLevel>) -> Self {
        Self { lifecycle, log }
    }

    /// Reloads all files, or nothing, and logs the outcome. `load` reads `server.toml`, and may block. Listeners and open
    /// connections are unaffected.
    ///
    /// # Errors
    /// Everything that is wrong with any of the files.
    pub async fn reload(
        &self,
        load: impl FnOnce() -> Result<ServerOptions, ConfigErrors> + Send + 'static,
    ) -> Result<Reloaded, NotReloaded> {
        let _turn = self.lifecycle.reloading.lock().await;
        let reloaded = self.try_reload(load).await;
        match &reloaded {
            Ok(reloaded) => tracing::info!("reloaded; {reloaded}"),
            Err(problems) => tracing::error!("nothing was reloaded, and everything stays as it was:\n{problems}"),
        }
        *self.lifecycle.refused_reload.lock() = reloaded.as_ref().err().cloned();
        reloaded
    }

    async fn try_reload(
        &self,
        load: impl FnOnce() -> Result<ServerOptions, ConfigErrors> + Send + 'static,
    ) -> Result<Reloaded, NotReloaded> {
        let lifecycle = &self.lifecycle;
        let before = lifecycle.settings();
        let running = Arc::clone(&before);
        let draft = tokio::task::spawn_blocking(move || Draft::new(load(), &running)).await;
        // The task fails by itself only when the runtime shuts down.
        let unread = |error: tokio::task::JoinError| NotReloaded(of_keys(vec![problem("", error.to_string())]));
        let Draft { renewed, settings, mut problems } = draft.map_err(unread)?;
        let clients = lifecycle.agents.client_store.load().await;
        let certificates = lifecycle.certificates.read(Sources::configured(&renewed.config)).await;
        match (settings, clients, certificates) {
            (Some(settings), Ok(clients), Ok(certificates)) if problems.is_empty() => {
                let Renewed { config, changed, waiting } = renewed;
                if changed.iter().any(|key| key == "public.routing")
                    && let Some(warning) = shared_origin_warning(&config, clients.file())
                {
                    tracing::warn!("{warning}");
                }
                // From here on nothing awaits and nothing can fail: the reload is atomic.
                lifecycle.apply(settings);
                let (clients, certificates) = (clients.apply(), certificates.apply());
                if (&config.log.level, config.log.access) != (&before.config.log.level, before.config.log.access)
                    && let Some(log) = &self.log
                {
                    log.change(&config.log.level, config.log.access);
                }
                let told = ["public.url", "public.routing", "public.redirect_to_https"];
                if changed.iter().any(|key| told.contains(&key.as_str())) {
                    lifecycle.directory.notices(&lifecycle.settings()).send_to_all();
                }
                Ok(Reloaded { changed, clients, certificates, waiting })
            }
            (_, clients, certificates) => {
                problems.extend(clients.err());
                let certificates = certificates.err().unwrap_or_default();
                let is_new = |problem: &Problem| !problems.iter().any(|errors| errors.problems.contains(problem));
                problems.extend(of_keys(certificates.into_iter().filter(is_new).collect()));
                Err(NotReloaded(problems))
            }
        }
    }
}

fn problem(key: &str, message: String) -> Problem {
    Problem { key: key.to_owned(), message }
}

/// Returns the problems as those of no particular file (their messages name it); nothing if there are none.
fn of_keys(problems: Vec<Problem>) -> Vec<ConfigErrors> {
    if problems.is_empty() { Vec::new() } else { vec![ConfigErrors { file: None, problems }] }
}
