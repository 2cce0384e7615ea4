//! What the service manager is told (sd_notify(3)): that the program is ready, reads its configuration again, stops, and
//! still lives. Nothing, where there is no systemd.

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[cfg(unix)]
mod systemd {
    use sd_notify::NotifyState;

    pub(super) fn tell(states: &[NotifyState<'_>]) {
        // One datagram; nobody hears it if the manager is gone.
        if let Err(error) = sd_notify::notify(states) {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

/// Whether a person at a terminal started this program and waits for the outcome: not a service manager, a container, a
/// timer or a script, which would leave an agent down that ends. Terminals hand the variables of the service manager that
/// started the desktop on to their programs, so those alone say nothing of this one where `SYSTEMD_EXEC_PID` names
/// another process.
pub(super) fn waits_for_outcome() -> bool {
    let is_terminal = std::io::stdin().is_terminal() || std::io::stderr().is_terminal();
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let executed = std::env::var("SYSTEMD_EXEC_PID").ok();
    let is_managed = is_set("NOTIFY_SOCKET")
        || match executed {
            Some(pid) => pid == std::process::id().to_string(),
            None => is_set("INVOCATION_ID") || is_set("JOURNAL_STREAM"),
        };
    is_terminal && !is_managed
}

/// It serves from now on.
pub(super) fn ready() {
    #[cfg(unix)]
    systemd::tell(&[sd_notify::NotifyState::Ready]);
}

/// It reads its configuration again, until it is [`ready`].
pub(super) fn reloading() {
    #[cfg(unix)]
    if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
        systemd::tell(&[sd_notify::NotifyState::Reloading, now]);
    }
}

/// How much longer the manager is to wait, and how often it is told so: a drain may take longer than the unit allows
/// (`TimeoutStopSec`), and whoever hangs is ended all the same.
#[cfg(unix)]
const PATIENCE: Duration = Duration::from_secs(30);
const STILL_STOPPING: Duration = Duration::from_secs(10);

/// Runs to the end; tells that it stops as soon as it is to, and that it still does.
pub(super) async fn run_until<T>(stop: CancellationToken, run: impl Future<Output = T>) -> T {
    let mut run = std::pin::pin!(run);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        ended = run.as_mut() => return ended,
    }
    stopping();
    loop {
        still_stopping();
        if let Ok(ended) = tokio::time::timeout(STILL_STOPPING, run.as_mut()).await {
            return ended;
        }
    }
}

fn stopping() {
    #[cfg(unix)]
    systemd::tell(&[sd_notify::NotifyState::Stopping]);
}

fn still_stopping() {
    #[cfg(unix)]
    if let Ok(more) = u32::try_from(PATIENCE.as_micros()) {
        systemd::tell(&[sd_notify::NotifyState::ExtendTimeoutUsec(more)]);
    }
}

/// Says again and again that the runtime still turns, if the manager wants to hear it (`WatchdogSec`).
///
/// Must be called on a runtime.
pub(super) fn keep_awake(tasks: &TaskTracker) {
    #[cfg(unix)]
    if let Some(patience) = sd_notify::watchdog_enabled() {
        tasks.spawn(async move {
            // Twice as often as it has to be.
            let mut beat = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
            loop {
                beat.tick().await;
                systemd::tell(&[sd_notify::NotifyState::Watchdog]);
            }
        });
    }
    #[cfg(not(unix))]
    let _ = tasks;
}
