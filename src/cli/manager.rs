//! What the service manager is told (sd_notify(3)): that the program is ready, reads its configuration again, stops, and
//! still lives. Nothing, where there is no systemd.

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

/// Runs to the end; tells that it stops as soon as it is to.
pub(super) async fn run_until<T>(stop: CancellationToken, run: impl Future<Output = T>) -> T {
    let mut run = std::pin::pin!(run);
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            stopping();
            run.await
        }
        ended = run.as_mut() => ended,
    }
}

fn stopping() {
    #[cfg(unix)]
    systemd::tell(&[sd_notify::NotifyState::Stopping]);
}

/// Says again and again that the runtime still turns, if the manager wants to hear it (`WatchdogSec`).
///
/// Must be called on a runtime.
pub(super) fn keep_awake(tasks: &TaskTracker) {
    #[cfg(unix)]
    if let Some(patience) = sd_notify::watchdog_enabled() {
        tasks.spawn(async move {
            // Twice as often as it has to be.
            let mut beat = tokio::time::interval((patience / 2).max(std::time::Duration::from_millis(1)));
            loop {
                beat.tick().await;
                systemd::tell(&[sd_notify::NotifyState::Watchdog]);
            }
        });
    }
    #[cfg(not(unix))]
    let _ = tasks;
}
