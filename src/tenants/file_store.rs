//! The clients file: read again when it changes, and taken over only if all of it is right.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::applied::{Outcome, Sayer};
use super::stamp::Stamp;
use crate::files::Watch;
use crate::schema::{ConfigErrors, Problem};
use crate::tenants::clients::{Clients, hash_problems};
use crate::tenants::edit::was_written_by_command;
use crate::tenants::entry::ClientsFile;
use crate::values::Fingerprint;

/// How long nobody looks when the system cannot tell of changes, and how soon a watch that broke is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A change is considered complete when the file has not changed for this long; [`RESTLESS`] bounds the wait.
const QUIET: Duration = Duration::from_millis(200);
const RESTLESS: Duration = Duration::from_secs(2);

/// Reads a clients file and looks at its hashes too. Blocks.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load_clients(path: &Path) -> Result<ClientsFile, ConfigErrors> {
    with_good_hashes(path, ClientsFile::load(path)?)
}

/// Like [`load_clients`], for a running server, with the digest of the file. `is_empty`: the current list has no clients.
fn load_again(path: &Path, is_empty: bool) -> Result<(ClientsFile, Fingerprint), ConfigErrors> {
    let (clients, digest) = match is_empty {
        true => ClientsFile::load_digested(path)?,
        false => ClientsFile::load_again(path)?,
    };
    Ok((with_good_hashes(path, clients)?, digest))
}

fn with_good_hashes(path: &Path, clients: ClientsFile) -> Result<ClientsFile, ConfigErrors> {
    match hash_problems(&clients) {
        problems if problems.is_empty() => Ok(clients),
        problems => Err(ConfigErrors { file: Some(path.to_owned()), problems }),
    }
}

/// The file behind [`Clients`].
#[derive(Debug)]
pub struct ClientsOnDisk {
    path: PathBuf,
    clients: Arc<Clients>,
    /// What is wrong with the file as it is now; then the list from before stays.
    problems: watch::Sender<Option<ConfigErrors>>,
    /// One reads at a time, and the last one to begin sees the newest file.
    reading: tokio::sync::Mutex<()>,
    /// The result of the last load.
    outcome: watch::Sender<Option<Outcome>>,
    /// Reports that result to commands.
    sayer: Mutex<Sayer>,
    /// The stamp of the version that was applied or refused last.
    stamp: Mutex<Option<Stamp>>,
    /// Held by the one login that waits for a file to be written; other logins wait for the lock.
    catching_up: tokio::sync::Mutex<()>,
}

/// What the file says, read and right, and not taken over yet. Until this is dropped, nobody else reads the file.
#[derive(Debug)]
#[must_use = "what is not taken over changes nothing"]
pub struct ReadClients<'a> {
    of: &'a ClientsOnDisk,
    file: ClientsFile,
    digest: Fingerprint,
    by_command: bool,
    stamp: Option<Stamp>,
    _turn: MutexGuard<'a, ()>,
}

impl ReadClients<'_> {
    /// What it says.
    pub fn file(&self) -> &ClientsFile {
        &self.file
    }

    /// Lets it count from now on. Gives the numbers of clients before and now, if anything has changed.
    pub fn take_over(self) -> Option<(usize, usize)> {
        let ClientsOnDisk { clients, problems, outcome, stamp, .. } = self.of;
        let is_new = !clients.lists(&self.file);
        let counts = is_new.then(|| (clients.len(), self.file.clients.len()));
        if is_new {
            clients.replace_by(self.file, self.by_command);
        } else if self.by_command && !clients.last_change().by_command {
            clients.was_changed_by_command();
        }
        // Set last: a login that sees the new stamp relies on the new list.
        *stamp.lock() = self.stamp;
        problems.send_replace(None);
        outcome.send_replace(Some(Outcome::Applied(self.digest)));
        counts
    }
}

impl ClientsOnDisk {
    /// The file at `path`, which `clients` was read from. Blocks for a moment.
    pub fn new(path: PathBuf, clients: Arc<Clients>) -> Self {
        Self {
            sayer: Mutex::new(Sayer::of(&path)),
            stamp: Mutex::new(Stamp::of(&path)),
            path,
            clients,
            problems: watch::Sender::new(None),
            reading: tokio::sync::Mutex::default(),
            outcome: watch::Sender::new(None),
            catching_up: tokio::sync::Mutex::default(),
        }
    }

    /// What is wrong with the file; nothing, if what it says is what counts.
    pub fn problems(&self) -> watch::Receiver<Option<ConfigErrors>> {
        self.problems.subscribe()
    }

    /// Reads the file now, for whoever takes it over together with something else. One without a byte is refused while
    /// anybody may log in.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub async fn read(&self) -> Result<ReadClients<'_>, ConfigErrors> {
        self.read_news().await.map_err(|(errors, _)| errors)
    }

    /// The same; an error comes with whether it is another one than before.
    async fn read_news(&self) -> Result<ReadClients<'_>, (ConfigErrors, bool)> {
        let turn = self.reading.lock().await;
        let (path, is_empty) = (self.path.clone(), self.clients.is_empty());
        let load = move || {
            // Before it is read: what is written meanwhile is a change.
            let stamp = Stamp::of(&path);
            let loaded = load_again(&path, is_empty).map(|(file, digest)| {
                let by_command = was_written_by_command(&path, &digest);
                (file, digest, by_command)
            });
            (stamp, loaded)
        };
        let (stamp, loaded) = tokio::task::spawn_blocking(load).await.unwrap_or_else(|error| {
            // Only when the runtime ends.
            let problem = Problem { key: String::new(), message: format!("was not read: {error}") };
            (None, Err(ConfigErrors { file: Some(self.path.clone()), problems: vec![problem] }))
        });
        match loaded {
            Ok((file, digest, by_command)) => {
                Ok(ReadClients { of: self, file, digest, by_command, stamp, _turn: turn })
            }
            Err(errors) => {
                *self.stamp.lock() = stamp;
                self.outcome.send_replace(Some(Outcome::Refused(errors.clone())));
                let is_new = self.problems.send_replace(Some(errors.clone())).as_ref() != Some(&errors);
                Err((errors, is_new))
            }
        }
    }

    /// Reads the file now, and takes it over. A broken one changes nothing.
    pub async fn reload(&self) {
        self.reload_by(false).await;
    }

    /// As [`ClientsOnDisk::reload`], after a command or the API has changed the file.
    pub async fn reload_by_command(&self) {
        self.reload_by(true).await;
    }

    async fn reload_by(&self, command: bool) {
        match self.read_news().await {
            Ok(mut read) => {
                read.by_command |= command;
                if let Some((before, now)) = read.take_over() {
                    tracing::info!(before, now, "the clients file has changed and counts from now on");
                }
            }
            Err((errors, true)) => {
                tracing::error!(
                    "the clients file has changed and cannot be used; what it said before still counts\n{errors}"
                );
            }
            Err((_, false)) => {}
        }
    }

    /// Makes sure that the list is as new as the file: if the file has changed, waits until it is no longer being written,
    /// and reloads it. So a login always sees the operator's last change. Waits for two seconds at most. Cancel-safe.
    pub async fn catch_up(&self) {
        if self.is_read().await {
            return;
        }
        let until = Instant::now() + RESTLESS;
        let Ok(_turn) = tokio::time::timeout(RESTLESS, self.catching_up.lock()).await else { return };
        let mut before = self.look().await;
        while !self.is_read().await && Instant::now() < until {
            tokio::time::sleep(QUIET).await;
            let now = self.look().await;
            if now == before {
                return self.reload().await;
            }
            before = now;
        }
    }

    async fn is_read(&self) -> bool {
        let now = self.look().await;
        now == *self.stamp.lock()
    }

    async fn look(&self) -> Option<Stamp> {
        let path = self.path.clone();
        // It fails only when the runtime ends.
        tokio::task::spawn_blocking(move || Stamp::of(&path)).await.unwrap_or_default()
    }

    /// Reads it whenever it changes, until `stop`.
    pub async fn keep_up(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
            () = self.say_what_counts() => {}
        }
        // No change is applied any more.
        *self.sayer.lock() = Sayer::default();
    }

    /// Reports the result of the load to the commands that change the file.
    async fn say_what_counts(self: &Arc<Self>) {
        let mut outcomes = self.outcome.subscribe();
        outcomes.mark_changed();
        // The sender lives in `self`.
        while outcomes.changed().await.is_ok() {
            let Some(outcome) = outcomes.borrow_and_update().clone() else { continue };
            let this = Arc::clone(self);
            // It fails only when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || this.sayer.lock().say(&this.path, &outcome)).await;
        }
    }

    async fn follow(&self) {
        let mut watch = self.watch();
        // It may have changed since it was read, before anybody watched.
        if tokio::fs::try_exists(&self.path).await.unwrap_or(true) {
            self.reload().await;
        }
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => {
                        // The operator's port reads it as well, and a list is compared before it counts.
                        watch.forget();
                        watch.changed().await;
                    }
                    None => tokio::time::sleep(LOOK_AGAIN).await,
                }
            };
            changed.await;
            self.reload().await;
            if watch.is_none() {
                watch = self.watch();
            }
        }
    }

    fn watch(&self) -> Option<Watch> {
        Watch::new(&self.path)
            .inspect_err(
                |error| tracing::warn!(%error, "changes of the clients file are looked for every {LOOK_AGAIN:?} only"),
            )
            .ok()
    }
}
