//! Another configuration, taken over while the server runs. `server.toml`, the clients file and the certificates are read as
//! one set: if any of them cannot be used, everything stays as it was. Nobody is cut.

use std::fmt;
use std::sync::Arc;

use super::certificate;
use super::settings::Settings;
use crate::schema::{ConfigErrors, Problem};
use crate::server::Shared;
use crate::server::options::{Renewed, ServerOptions, shared_origin_warning};
use crate::telemetry::{LogLevel, check_log_file};
use crate::tenants::file_store::load_clients;

/// Takes over what the operator has changed, for as long as it lives.
#[derive(Debug)]
pub struct Reloader {
    shared: Arc<Shared>,
    log: Option<LogLevel>,
}

/// What has come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The keys of `server.toml` that say something else from now on.
    pub changed: Vec<String>,
    /// Whether the clients file does.
    pub clients: bool,
    /// Whether other certificates are shown.
    pub certificates: bool,
    /// The keys of `server.toml` that say something else than at the start, and count only from the next one on.
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

/// Why nothing was taken over: every problem of the set, a line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ConfigErrors::to_string).collect::<Vec<_>>().join("\n"))]
pub struct NotReloaded(pub Vec<ConfigErrors>);

/// What `server.toml` says now, and would make of the server.
struct Draft {
    renewed: Renewed,
    settings: Option<Settings>,
    problems: Vec<ConfigErrors>,
}

impl Draft {
    /// Blocks on files.
    fn new(loaded: Result<ServerOptions, ConfigErrors>, before: &Settings) -> Self {
        let read = match loaded {
            Ok(read) => read,
            // The rest of the set is looked at all the same, as it counts now.
            Err(errors) => {
                let renewed = before.config.renewed(&before.config);
                return Self { renewed, settings: None, problems: vec![errors] };
            }
        };
        let renewed = before.config.renewed(&read);
        let mut problems = Vec::new();
        let settings = Settings::new(renewed.config.clone(), Some(before))
            .map_err(|message| problems.extend(of_keys(vec![problem("public.domain_proof", message)])))
            .ok();
        // What waits for the next start is to let the server start.
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
    pub(crate) fn new(shared: Arc<Shared>, log: Option<LogLevel>) -> Self {
        Self { shared, log }
    }

    /// Reads the set again and takes all of it over, or nothing; says in the log what has come of it. `load` reads
    /// `server.toml`, and may block. Listeners stay as they are, and so does what is open.
    ///
    /// # Errors
    /// Everything that is wrong with any of the files, at once.
    pub async fn reload(
        &self,
        load: impl FnOnce() -> Result<ServerOptions, ConfigErrors> + Send + 'static,
    ) -> Result<Reloaded, NotReloaded> {
        let _turn = self.shared.reloading.lock().await;
        let reloaded = self.take_over(load).await;
        match &reloaded {
            Ok(reloaded) => tracing::info!("reloaded; {reloaded}"),
            Err(problems) => tracing::error!("nothing was reloaded, and everything stays as it was:\n{problems}"),
        }
        *self.shared.refused_reload.lock() = reloaded.as_ref().err().cloned();
        reloaded
    }

    async fn take_over(
        &self,
        load: impl FnOnce() -> Result<ServerOptions, ConfigErrors> + Send + 'static,
    ) -> Result<Reloaded, NotReloaded> {
        let shared = &self.shared;
        let before = shared.settings();
        let running = Arc::clone(&before);
        let draft = tokio::task::spawn_blocking(move || Draft::new(load(), &running)).await;
        // It fails by itself only when the runtime ends.
        let unread = |error: tokio::task::JoinError| NotReloaded(of_keys(vec![problem("", error.to_string())]));
        let Draft { renewed, settings, mut problems } = draft.map_err(unread)?;
        let clients = shared.clients_file.read().await;
        let certificates = shared.certificates.read(renewed.config.clone()).await;
        match (settings, clients, certificates) {
            (Some(settings), Ok(clients), Ok(certificates)) if problems.is_empty() => {
                let Renewed { config, changed, waiting } = renewed;
                if changed.iter().any(|key| key == "public.routing")
                    && let Some(warning) = shared_origin_warning(&config, clients.file())
                {
                    tracing::warn!("{warning}");
                }
                // Nothing is waited for in between, and nothing of it can fail.
                shared.exchange(settings);
                let (clients, certificates) = (clients.take_over().is_some(), certificates.take_over());
                if (&config.log.level, config.log.access) != (&before.config.log.level, before.config.log.access)
                    && let Some(log) = &self.log
                {
                    log.change(&config.log.level, config.log.access);
                }
                let told = ["public.url", "public.routing", "public.redirect_to_https"];
                if changed.iter().any(|key| told.contains(&key.as_str())) {
                    shared.tell_all_where_they_are_reached();
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

/// Problems whose messages name their files themselves; nothing, if there are none.
fn of_keys(problems: Vec<Problem>) -> Vec<ConfigErrors> {
    if problems.is_empty() { Vec::new() } else { vec![ConfigErrors { file: None, problems }] }
}
