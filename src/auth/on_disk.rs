//! The clients file: read again when it changes, and taken over only if all of it is right.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Clients, hash_problems};
use crate::config::{ClientsFile, ConfigErrors};
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
    /// Somebody wants it to be read.
    asked: Notify,
    /// One reads at a time, and the last one to begin sees the newest file.
    reading: tokio::sync::Mutex<()>,
}

impl ClientsOnDisk {
    /// The file at `path`, which `clients` was read from.
    pub fn new(path: PathBuf, clients: Arc<Clients>) -> Self {
        Self {
            path,
            clients,
            problems: watch::Sender::new(None),
            asked: Notify::new(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// What is wrong with the file; nothing, if what it says is what counts.
    pub fn problems(&self) -> watch::Receiver<Option<ConfigErrors>> {
        self.problems.subscribe()
    }

    /// Asks for the file to be read again, and does not wait.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Reads the file now. A broken one changes nothing, nor does an empty one while anybody may log in.
    pub async fn reload(&self) {
        let _turn = self.reading.lock().await;
        let (path, anybody) = (self.path.clone(), !self.clients.is_empty());
        let load = move || match anybody {
            true => with_good_hashes(&path, ClientsFile::load_again(&path)?),
            false => load_clients(&path),
        };
        let Ok(loaded) = tokio::task::spawn_blocking(load).await else { return };
        match loaded {
            Ok(file) => {
                if !self.clients.lists(&file) {
                    let (before, now) = (self.clients.len(), file.clients.len());
                    self.clients.replace(file);
                    tracing::info!(before, now, "the clients file has changed and counts from now on");
                }
                self.problems.send_replace(None);
            }
            Err(errors) => {
                if self.problems.send_replace(Some(errors.clone())).as_ref() != Some(&errors) {
                    tracing::error!(
                        "the clients file has changed and cannot be used; what it said before still counts\n{errors}"
                    );
                }
            }
        }
    }

    /// Reads it whenever it changes or somebody asks, until `stop`.
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
                () = self.asked.notified() => {}
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
