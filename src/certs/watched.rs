//! Hearing of it when one of several files has changed.

use std::path::Path;

use futures_util::future::select_all;

use crate::files::Watch;

/// Watches files; those that cannot be watched are passed over with a warning.
#[derive(Debug)]
pub struct WatchedFiles(Vec<Watch>);

impl WatchedFiles {
    /// Begins to watch: to be called before the files are read.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let watch = |path: &Path| {
            let warn = |error: &std::io::Error| {
                let path = path.display();
                tracing::warn!("changes of {path} will not be noticed by themselves ({error}): send SIGHUP after one");
            };
            Watch::new(path).inspect_err(warn).ok()
        };
        Self(paths.into_iter().filter_map(watch).collect())
    }

    /// As [`Watch::forget`].
    pub fn forget(&mut self) {
        self.0.iter_mut().for_each(Watch::forget);
    }

    /// Resolves when one of them holds something else than it did. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.is_empty() {
            std::future::pending::<()>().await;
        }
        select_all(self.0.iter_mut().map(|watch| Box::pin(watch.changed()))).await;
    }
}
