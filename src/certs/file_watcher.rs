//! Reports changes of certificate files.

use std::path::{Path, PathBuf};

use futures_util::future::select_all;

use crate::files::Watch;

/// Watches several files. It logs a warning for each file that it cannot watch.
#[derive(Debug, Default)]
pub struct FileWatcher(Vec<Watch>);

impl FileWatcher {
    /// Starts to watch `paths`. Call it before reading the files, so that no change is missed.
    pub fn new(paths: &[PathBuf]) -> Self {
        let watch = |path: &Path| {
            let warn = |error: &std::io::Error| {
                let path = path.display();
                tracing::warn!("changes of {path} will not be noticed by themselves ({error}): send SIGHUP after one");
            };
            Watch::new(path).inspect_err(warn).ok()
        };
        Self(paths.iter().filter_map(|path| watch(path)).collect())
    }

    /// Discards changes that were not reported yet, as [`Watch::forget`].
    pub fn forget(&mut self) {
        self.0.iter_mut().for_each(Watch::forget);
    }

    /// Resolves when the content of one of the files has changed; never if no file is watched. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.is_empty() {
            std::future::pending::<()>().await;
        }
        select_all(self.0.iter_mut().map(|watch| Box::pin(watch.changed()))).await;
    }
}
