//! Runtimes, and the signals that stop a program.

use std::io::IsTerminal as _;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Failure;
use crate::telemetry::LastLines;

/// How long the last lines of the log may take when the process is told to end at once.
const LAST_LINES: Duration = Duration::from_secs(1);

/// For the agent: one thread batches by nature and crosses no threads (`docs/performance.md`).
pub(super) fn single_threaded() -> Result<Runtime, Failure> {
    Builder::new_current_thread().enable_all().build().map_err(Failure::other)
}

/// For the server: a thread for each core, or a single one where there is one core.
pub(super) fn for_server() -> Result<Runtime, Failure> {
    match available_parallelism() {
        Ok(cores) if cores.get() > 1 => Builder::new_multi_thread().enable_all().build().map_err(Failure::other),
        _ => single_threaded(),
    }
}

/// Lets the process open as many sockets as the system allows it, and says how many: the usual soft limit is 1,024.
pub(super) fn raise_file_limit() -> Option<u64> {
    rlimit::increase_nofile_limit(rlimit::INFINITY)
        .inspect_err(|error| tracing::warn!(%error, "the limit of open files stays as it is"))
        .ok()
}

/// A token that Ctrl-C and SIGTERM cancel. The second time ends the process at once, with the exit code 1, as soon as the log
/// is written.
///
/// Must be called on a runtime.
///
/// # Errors
/// The system refuses to tell us of signals.
pub(super) fn stop_on_signals(tasks: &TaskTracker, log: LastLines) -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    let token = stop.clone();
    tasks.spawn(async move {
        signals.next().await;
        token.cancel();
        signals.next().await;
        // A countdown may stand on the line.
        if std::io::stdout().is_terminal() {
            anstream::println!();
        }
        tracing::warn!("told to stop twice: not waiting any longer");
        let written = tokio::task::spawn_blocking(move || log.write());
        let _ = tokio::time::timeout(LAST_LINES, written).await;
        std::process::exit(1);
    });
    Ok(stop)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt()).map_err(Failure::other)?;
        let terminate = signal(SignalKind::terminate()).map_err(Failure::other)?;
        Ok(Self { interrupt, terminate })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // If it cannot be waited for, the process is ended from outside.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
