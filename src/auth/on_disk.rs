//! The clients file: read again when it changes, and taken over only if all of it is right.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{MutexGuard, watch};
use tokio_util::sync::CancellationToken;

use super::{Clients, hash_problems};
use crate::config::{ClientsFile, ConfigErrors, Problem};
use crate::files::Watch;

/// How long nobody looks when the system cannot tell of changes, and how soon a watch that broke is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Reads a clients file and looks at its hashes too. Blocks.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load_clients(path: &Path) -> Result<ClientsFile, ConfigErrors> {
    with_good_hashes(path, ClientsFile::load(path)?)
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
}

/// What the file says, read and right, and not taken over yet. Until this is dropped, nobody else reads the file.
#[derive(Debug)]
#[must_use = "what is not taken over changes nothing"]
pub struct ReadClients<'a> {
    of: &'a ClientsOnDisk,
    file: ClientsFile,
    _turn: MutexGuard<'a, ()>,
}

impl ReadClients<'_> {
    /// What it says.
    pub fn file(&self) -> &ClientsFile {
        &self.file
    }

    /// Lets it count from now on. Gives the numbers of clients before and now, if anything has changed.
    pub fn take_over(self) -> Option<(usize, usize)> {
        let ClientsOnDisk { clients, problems, .. } = self.of;
        let is_new = !clients.lists(&self.file);
        let counts = is_new.then(|| (clients.len(), self.file.clients.len()));
        if is_new {
            clients.replace(self.file);
        }
        problems.send_replace(None);
        counts
    }
}

impl ClientsOnDisk {
    /// The file at `path`, which `clients` was read from.
    pub fn new(path: PathBuf, clients: Arc<Clients>) -> Self {
        Self { path, clients, problems: watch::Sender::new(None), reading: tokio::sync::Mutex::default() }
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
        let (path, anybody) = (self.path.clone(), !self.clients.is_empty());
        let load = move || match anybody {
            true => with_good_hashes(&path, ClientsFile::load_again(&path)?),
            false => load_clients(&path),
        };
        let loaded = tokio::task::spawn_blocking(load).await.unwrap_or_else(|error| {
            // Only when the runtime ends.
            let problem = Problem { key: String::new(), message: format!("was not read: {error}") };
            Err(ConfigErrors { file: Some(self.path.clone()), problems: vec![problem] })
        });
        match loaded {
            Ok(file) => Ok(ReadClients { of: self, file, _turn: turn }),
            Err(errors) => {
                let is_new = self.problems.send_replace(Some(errors.clone())).as_ref() != Some(&errors);
                Err((errors, is_new))
            }
        }
    }

    /// Reads the file now, and takes it over. A broken one changes nothing.
    pub async fn reload(&self) {
        match self.read_news().await {
            Ok(read) => {
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

    /// Reads it whenever it changes, until `stop`.
    pub async fn keep_up(self: Arc<Self>, stop: CancellationToken) {
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
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed => {}
            }
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
