//! A connection to an application that speaks HTTP/2, and what drives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::client::conn::http2::{Connection, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{SETTINGS, STREAMS};
use crate::agent::backend::local::dedicated_stream::DedicatedStream;
use crate::agent::backend::local::dial::Stream;
use crate::agent::backend::local::idle_check::IdleCheckedSocket;
use crate::agent::backend::local::replay::ReplayableBody;
use crate::limits::{Permit, Permits};

/// A connection.
pub(super) struct SharedConnection {
    pub(super) sender: SendRequest<ReplayableBody>,
    pub(super) permits: Permits,
    pub(super) settings: Arc<PeerSettings>,
    /// Has `said` brought up to date.
    pub(super) ask: Arc<Notify>,
    /// It has refused a request because it is on its way out.
    pub(super) is_ending: AtomicBool,
    /// It has answered a request.
    pub(super) has_answered: AtomicBool,
    /// When it takes no further requests.
    pub(super) expiry: Option<Instant>,
}

/// What the application has said of a connection, in its settings.
#[derive(Debug)]
pub(super) struct PeerSettings {
    /// How many requests it lets in at once.
    pub(super) most: AtomicUsize,
    /// Whether an extended CONNECT is welcome (RFC 8441, section 3).
    pub(super) extended_connect: AtomicBool,
    /// The connection has ended, and it has said nothing.
    pub(super) ended_silently: AtomicBool,
}

impl Default for PeerSettings {
    /// Until it has said something.
    fn default() -> Self {
        let (extended_connect, ended_silently) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { most: AtomicUsize::new(STREAMS), extended_connect, ended_silently }
    }
}

impl SharedConnection {
    pub(super) fn is_usable(&self) -> bool {
        let has_expired = || self.expiry.is_some_and(|expiry| Instant::now() >= expiry);
        !self.sender.is_closed() && !self.is_ending.load(Ordering::Relaxed) && !has_expired()
    }

    pub(super) fn slot(&self) -> Option<Permit> {
        let room = self.permits.in_use() < self.settings.most.load(Ordering::Relaxed);
        if room { self.permits.try_acquire() } else { None }
    }

    /// Whether a WebSocket may be asked for. The application says so after it was connected to, and nobody tells when:
    /// so it is looked for, less and less often.
    pub(super) async fn takes_extended_connect(&self) -> bool {
        let mut wait = Duration::from_millis(1);
        while wait < SETTINGS {
            self.ask.notify_one();
            tokio::task::yield_now().await;
            if self.settings.extended_connect.load(Ordering::Acquire) {
                return true;
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        false
    }
}

/// Runs a connection to its end.
pub(super) async fn drive(
    connection: Connection<TokioIo<IdleCheckedSocket<Stream>>, ReplayableBody, TrackedExecutor>,
    settings: Arc<PeerSettings>,
    ask: Arc<Notify>,
) {
    let mut connection = std::pin::pin!(connection);
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = ask.notified() => {
                // Before its settings have come, it lets nobody in.
                let most = match connection.current_max_send_streams() {
                    0 => STREAMS,
                    most => most.min(STREAMS),
                };
                settings.most.store(most, Ordering::Relaxed);
                settings.extended_connect.store(connection.is_extended_connect_protocol_enabled(), Ordering::Release);
            }
        }
    };
    // Requests on it learn of the end only when it is dropped.
    settings.ended_silently.store(connection.current_max_send_streams() == 0, Ordering::Release);
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to a local application ended");
    }
}

/// Runs the connections' tasks where they can be counted and awaited.
#[derive(Debug, Clone)]
pub(super) struct TrackedExecutor {
    pub(super) tasks: TaskTracker,
    /// The one stream of the connection, if it is to become a connection itself.
    pub(super) dedicated: Option<Arc<DedicatedStream>>,
}

impl<F> Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        match &self.dedicated {
            None => drop(self.tasks.spawn(task)),
            Some(dedicated) => drop(self.tasks.spawn(dedicated.run(task))),
        }
    }
}
