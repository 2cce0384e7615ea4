//! The clients file as a [`ClientStore`]: reloaded atomically when it changes.

pub mod edit_file;
mod file_version;
mod rewrite;
pub mod server_status;
#[cfg(test)]
mod tests;
mod toml_layout;
mod toml_text;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::files::Watch;
use crate::schema::{ConfigErrors, Problem};
use crate::tenants::clients::{Clients, check_hashes};
use crate::tenants::edit_error::EditError;
use crate::tenants::entry::ClientsFile;
use crate::tenants::store::{ClientStore, Edit, LoadedClients, StoreFuture};
use crate::values::Fingerprint;
use edit_file::{edit_file, was_written_by_command};
use file_version::FileVersion;
use server_status::{LoadResult, StatusFile};

/// How often the file is read if the system cannot report changes or the file was refused, and how soon a failed watch is set
/// up again.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// A change is considered complete when the file has not changed for this long; [`MAX_SETTLE_TIME`] bounds the wait.
const SETTLE_TIME: Duration = Duration::from_millis(200);
const MAX_SETTLE_TIME: Duration = Duration::from_secs(2);

/// Reads a clients file and checks its hashes too. Blocks.
///
/// # Errors
/// All problems.
pub fn load_clients(path: &Path) -> Result<ClientsFile, ConfigErrors> {
    load_version(path, false).map(|(clients, _)| clients)
}

/// Like [`load_clients`], with the digest of the file, and optionally without accepting an empty one.
fn load_version(path: &Path, refuse_empty: bool) -> Result<(ClientsFile, Fingerprint), ConfigErrors> {
    let (clients, digest) = ClientsFile::load_version(path, refuse_empty)?;
    match check_hashes(&clients) {
        problems if problems.is_empty() => Ok((clients, digest)),
        problems => Err(ConfigErrors { file: Some(path.to_owned()), problems }),
    }
}

/// Keeps the list of clients in a file.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    clients: Arc<Clients>,
    /// The problems of the file as it is now; with any, the previous list stays in force.
    problems: watch::Sender<Option<ConfigErrors>>,
    /// Serializes reads, so that the last one to begin sees the newest file.
    reading: tokio::sync::Mutex<()>,
    /// The result of the last load.
    result: watch::Sender<Option<LoadResult>>,
    /// Reports that result to commands.
    status: Mutex<StatusFile>,
    /// The version that was applied or refused last.
    version: Mutex<Option<FileVersion>>,
    /// Held by the one login that waits for a file to be written; other logins wait for the lock.
    refreshing: tokio::sync::Mutex<()>,
}

/// A valid version of the file that is not in force yet. Until this is dropped, nothing else reads the file.
struct LoadedFile<'a> {
    digest: Fingerprint,
    by_command: bool,
    version: Option<FileVersion>,
    store: &'a FileStore,
    _turn: MutexGuard<'a, ()>,
}

impl LoadedFile<'_> {
    /// Puts `file` in force. Returns the numbers of clients before and now, if anything has changed.
    fn apply(self, file: ClientsFile) -> Option<(usize, usize)> {
        let FileStore { clients, problems, result, version, .. } = self.store;
        let is_new = !clients.lists(&file);
        let counts = is_new.then(|| (clients.len(), file.clients.len()));
        if is_new {
            clients.replace_by(file, self.by_command);
        } else if self.by_command && !clients.last_change().by_command {
            clients.was_changed_by_command();
        }
        // Set last: a login that sees the new version relies on the new list.
        *version.lock() = self.version;
        problems.send_replace(None);
        result.send_replace(Some(LoadResult::Applied(self.digest)));
        counts
    }
}

impl FileStore {
    /// Creates the store of the file at `path`, which `clients` was read from. Blocks briefly.
    pub fn new(path: PathBuf, clients: Arc<Clients>) -> Self {
        Self {
            status: Mutex::new(StatusFile::new(&path)),
            version: Mutex::new(FileVersion::of(&path)),
            path,
            clients,
            problems: watch::Sender::new(None),
            reading: tokio::sync::Mutex::default(),
            result: watch::Sender::new(None),
            refreshing: tokio::sync::Mutex::default(),
        }
    }

    /// Returns a receiver of the problems of the file, which changes with every load.
    pub fn watch_problems(&self) -> watch::Receiver<Option<ConfigErrors>> {
        self.problems.subscribe()
    }

    /// Reads the file and puts it in force if it is valid, as when it was changed by hand.
    pub async fn reload_changed(&self) {
        self.reload_by(false).await;
    }

    /// Reads the file. An empty one is refused unless the list in force is empty. An error comes with whether it differs
    /// from the previous one.
    async fn read(&self) -> Result<(ClientsFile, LoadedFile<'_>), (ConfigErrors, bool)> {
        let turn = self.reading.lock().await;
        let (path, refuse_empty) = (self.path.clone(), !self.clients.is_empty());
        let load = move || {
            // Before the file is read: what is written meanwhile is another version.
            let version = FileVersion::of(&path);
            let loaded = load_version(&path, refuse_empty).map(|(file, digest)| {
                let by_command = was_written_by_command(&path, &digest);
                (file, digest, by_command)
            });
            (version, loaded)
        };
        let (version, loaded) = tokio::task::spawn_blocking(load).await.unwrap_or_else(|error| {
            // Only when the runtime ends.
            let problem = Problem { key: String::new(), message: format!("was not read: {error}") };
            (None, Err(ConfigErrors { file: Some(self.path.clone()), problems: vec![problem] }))
        });
        match loaded {
            Ok((file, digest, by_command)) => {
                Ok((file, LoadedFile { digest, by_command, version, store: self, _turn: turn }))
            }
            Err(errors) => {
                *self.version.lock() = version;
                self.result.send_replace(Some(LoadResult::Refused(errors.clone())));
                let is_new = self.problems.send_replace(Some(errors.clone())).as_ref() != Some(&errors);
                Err((errors, is_new))
            }
        }
    }

    /// Reads the file and puts it in force if it is valid. `by_command`: a command or the API has changed it.
    async fn reload_by(&self, by_command: bool) {
        match self.read().await {
            Ok((file, mut loaded)) => {
                loaded.by_command |= by_command;
                if let Some((before, now)) = loaded.apply(file) {
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

    /// If the file has changed, waits until it is no longer being written and reloads it. Cancel-safe.
    async fn refresh_within(&self, limit: Duration) {
        if self.is_current().await {
            return;
        }
        let until = Instant::now() + limit;
        let Ok(_turn) = tokio::time::timeout(limit, self.refreshing.lock()).await else { return };
        let mut before = self.version_on_disk().await;
        while !self.is_current().await && Instant::now() < until {
            tokio::time::sleep(SETTLE_TIME).await;
            let now = self.version_on_disk().await;
            if now == before {
                return self.reload_changed().await;
            }
            before = now;
        }
    }

    async fn is_current(&self) -> bool {
        let now = self.version_on_disk().await;
        now == *self.version.lock()
    }

    async fn version_on_disk(&self) -> Option<FileVersion> {
        let path = self.path.clone();
        // It fails only when the runtime ends.
        tokio::task::spawn_blocking(move || FileVersion::of(&path)).await.unwrap_or_default()
    }

    /// Writes the result of each load to the status file.
    async fn publish_results(self: &Arc<Self>) {
        let mut results = self.result.subscribe();
        results.mark_changed();
        // The sender lives in `self`.
        while results.changed().await.is_ok() {
            let Some(result) = results.borrow_and_update().clone() else { continue };
            let this = Arc::clone(self);
            // It fails only when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || this.status.lock().write(&this.path, &result)).await;
        }
    }

    async fn reload_on_change(&self) {
        let mut watch = self.watch_file();
        // It may have changed before it was watched.
        if tokio::fs::try_exists(&self.path).await.unwrap_or(true) {
            self.reload_changed().await;
        }
        loop {
            match &mut watch {
                Some(watch) => {
                    // The admin API reads the file as well, and a list is compared before it is put in force.
                    watch.forget();
                    // The reason why it cannot be read may pass without another change.
                    let limit = if self.problems().is_some() { POLL_INTERVAL } else { Duration::MAX };
                    let _ = tokio::time::timeout(limit, watch.changed()).await;
                }
                None => tokio::time::sleep(POLL_INTERVAL).await,
            }
            self.reload_changed().await;
            if watch.is_none() {
                watch = self.watch_file();
            }
        }
    }

    fn watch_file(&self) -> Option<Watch> {
        let warn = |error: &_| {
            tracing::warn!(%error, "changes of the clients file are looked for every {POLL_INTERVAL:?} only");
        };
        Watch::new(&self.path).inspect_err(warn).ok()
    }
}

impl ClientStore for FileStore {
    fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    fn problems(&self) -> Option<ConfigErrors> {
        self.problems.borrow().clone()
    }

    fn transact(&self, mut edit: Edit) -> StoreFuture<'_, Result<(), EditError>> {
        Box::pin(async move {
            let path = self.path.clone();
            // `None` leaves the file as it is; whoever makes the change knows why.
            let edit = move || edit_file(&path, |file| if edit(file) { Ok(()) } else { Err(None) });
            match tokio::task::spawn_blocking(edit).await.map_err(std::io::Error::other)? {
                Ok(()) => self.reload_by(true).await,
                Err(None) => {}
                Err(Some(error)) => return Err(error),
            }
            Ok(())
        })
    }

    fn refresh(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.refresh_within(MAX_SETTLE_TIME))
    }

    fn reload(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.reload_by(true))
    }

    fn load(&self) -> StoreFuture<'_, Result<LoadedClients<'_>, ConfigErrors>> {
        Box::pin(async {
            let (file, loaded) = self.read().await.map_err(|(errors, _)| errors)?;
            Ok(LoadedClients::new(file, move |file| loaded.apply(file).is_some()))
        })
    }

    fn watch(self: Arc<Self>, stop: CancellationToken) -> StoreFuture<'static, ()> {
        Box::pin(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.reload_on_change() => {}
                () = self.publish_results() => {}
            }
            // No change is applied from now on.
            *self.status.lock() = StatusFile::default();
        })
    }
}
