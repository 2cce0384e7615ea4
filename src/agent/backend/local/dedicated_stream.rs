//! An extended CONNECT stream (RFC 8441) on an HTTP/2 connection of its own, so that it can be reset separately.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::transport::streams::{self, CloseOnDrop, Passes, UpgradeTask};

/// The tasks of a connection with a single stream.
#[derive(Debug, Default)]
pub(in crate::agent) struct DedicatedStream {
    upgrade: Arc<UpgradeTask>,
    /// One for each of the others.
    tasks: Mutex<Vec<Arc<Passes>>>,
    /// The socket accepts no more data at the moment.
    is_full: AtomicBool,
}

impl DedicatedStream {
    /// Records whether the socket accepts no more data at the moment.
    pub(in crate::agent) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Release);
    }

    /// Runs a task of the connection.
    pub(in crate::agent) fn run<F: Future>(self: &Arc<Self>, task: F) -> impl Future<Output = ()> + Unpin + use<F> {
        let announced = streams::announced();
        let passes = CloseOnDrop(Arc::<Passes>::default());
        if announced.is_none() {
            self.tasks.lock().push(Arc::clone(&passes.0));
        }
        let (stream, is_upgrade) = (Arc::clone(self), announced.is_some());
        let mut task = streams::run(task, announced);
        poll_fn(move |cx| {
            if is_upgrade {
                return std::pin::Pin::new(&mut task).poll(cx);
            }
            let asked = passes.0.begin(cx);
            // Whatever task the library starts within another one is the one that sends.
            stream.upgrade.announce();
            let polled = std::pin::Pin::new(&mut task).poll(cx);
            if !stream.is_full.load(Ordering::Acquire) {
                passes.0.end(asked);
            }
            polled
        })
    }

    /// Makes the stream end with a reset when it is dropped. Waits up to `limit` for written data to be sent.
    pub(in crate::agent) async fn cut(&self, limit: Duration) {
        let tasks = self.tasks.lock().clone();
        let tasks: Vec<&Passes> = tasks.iter().map(Arc::as_ref).collect();
        self.upgrade.cut(&tasks, limit).await;
    }

    /// As [`DedicatedStream::cut`], without waiting for what was written.
    pub(in crate::agent) fn cut_now(&self) {
        self.upgrade.cut_now();
    }
}
