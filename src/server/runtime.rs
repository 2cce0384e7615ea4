//! What every component of a server shares: the current settings, the metrics, the shutdown signals and the tasks.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::metrics::Metrics;
use crate::server::settings::Settings;

/// The state that all components share; see the module.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// Tells this server from others. Random for each process.
    pub(crate) node_id: String,
    settings: ArcSwap<Settings>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: Shutdown,
    pub(crate) tasks: Tasks,
}

impl Runtime {
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn new(settings: Settings) -> io::Result<Self> {
        let node_id = format!("{:016x}", getrandom::u64().map_err(io::Error::other)?);
        let (metrics, shutdown, tasks) = (Arc::default(), Shutdown::default(), Tasks::default());
        Ok(Self { node_id, settings: ArcSwap::from_pointee(settings), metrics, shutdown, tasks })
    }

    /// Returns the current settings. Call it once for each connection, login or request, and pass the result along.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Replaces the settings as a whole and returns the previous ones. The limits that follow from them are applied by the
    /// reload.
    pub(crate) fn replace_settings(&self, settings: Arc<Settings>) -> Arc<Settings> {
        self.settings.swap(settings)
    }
}

/// The stages of a shutdown, in their order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Shutdown {
    /// The server accepts no new visitors and agents.
    pub(crate) stop: CancellationToken,
    /// In-flight requests have ended or their time is over.
    pub(crate) drained: CancellationToken,
    /// Whatever is still open is closed now.
    pub(crate) cut: CancellationToken,
}

/// The tasks of a server, counted so that a shutdown can wait for them.
#[derive(Debug)]
pub(crate) struct Tasks {
    /// Every task except those of visitors.
    pub(crate) all: TaskTracker,
    /// Visitors' connections, which end before the lanes do.
    pub(crate) visitors: TaskTracker,
    /// Open exchanges. It only counts them; their tasks are among the others.
    pub(crate) exchanges: TaskTracker,
}

impl Default for Tasks {
    fn default() -> Self {
        let exchanges = TaskTracker::new();
        // Nothing is spawned on it. A closed tracker tells when it is empty.
        exchanges.close();
        Self { all: TaskTracker::new(), visitors: TaskTracker::new(), exchanges }
    }
}

/// Runs `work`, but ends it when `cut` is cancelled.
pub(crate) fn until_cut(cut: CancellationToken, work: impl Future<Output = ()>) -> impl Future<Output = ()> {
    // An asynchronous function would hold the work twice: as its argument and where it is polled.
    boxed_until_cut(cut, Box::pin(work))
}

/// As [`until_cut`], for work that is boxed already.
pub(crate) async fn boxed_until_cut(cut: CancellationToken, work: impl Future<Output = ()> + Unpin) {
    tokio::select! {
        biased;
        () = cut.cancelled() => {}
        () = work => {}
    }
}
