//! Connections to one application, and those that are kept for the next request.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::super::dial::Stream;
use super::super::watched;
use crate::transport::pieces::poll_write_pieces;

/// Idle connections kept for each local address: as many as requests may run at once. With fewer, each wave of
/// visitors beyond that number pays for new connections (at 256 visitors a request then cost a third more).
const IDLE_CONNECTIONS: usize = 1024;

/// How long an idle connection is kept. Node.js, uvicorn and Apache close theirs after 5 s: a request that is sent at that
/// moment would be lost.
const IDLE_TIME: Duration = Duration::from_secs(4);

const REQUEST_SENT: u8 = 1;
const ANSWER_READ: u8 = 2;

/// A connection. Whoever sends the request and whoever reads its answer share it; it is closed when both are gone, unless
/// both have said that they are done.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Mutex<Stream>,
    done: AtomicU8,
    /// Where it goes then; nowhere, if it is for a single visitor.
    pool: Weak<Pool>,
}

impl Wire {
    pub(super) fn new(stream: Stream, pool: Weak<Pool>) -> Arc<Self> {
        Arc::new(Self { stream: Mutex::new(stream), done: AtomicU8::new(0), pool })
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_read(cx, buffer)
    }

    /// As [`Wire::poll_read`], into what can grow. The number of bytes is 0 at the end of the connection.
    pub(super) fn poll_read_buf(&self, cx: &mut Context<'_>, buffer: &mut impl BufMut) -> Poll<io::Result<usize>> {
        tokio_util::io::poll_read_buf(Pin::new(&mut *self.stream.lock()), cx, buffer)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        poll_write_pieces(Pin::new(&mut *self.stream.lock()), cx, pieces)
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_shutdown(cx)
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(*self.stream.lock(), Stream::Tls(_))
    }

    /// As [`Stream::reset`].
    pub(super) async fn reset(&self, limit: Duration) {
        let sent = self.stream.lock().all_sent();
        if let Some(sent) = sent {
            sent.within(limit).await;
        }
        self.stream.lock().set_reset();
    }

    /// The request was sent to its end.
    pub(super) fn request_sent(self: &Arc<Self>) {
        self.is_done(REQUEST_SENT);
    }

    /// The answer was read to its end, nothing came behind it, and the application goes on.
    pub(super) fn answer_read(self: &Arc<Self>) {
        self.is_done(ANSWER_READ);
    }

    /// Whether the answer was read, and the application goes on.
    pub(super) fn is_answered(&self) -> bool {
        self.done.load(Ordering::Acquire) & ANSWER_READ != 0
    }

    fn is_done(self: &Arc<Self>, side: u8) {
        let before = self.done.fetch_or(side, Ordering::AcqRel);
        let was_last = before != REQUEST_SENT | ANSWER_READ && before | side == REQUEST_SENT | ANSWER_READ;
        if let Some(pool) = self.pool.upgrade().filter(|_| was_last) {
            pool.keep(Arc::clone(self));
        }
    }
}

/// Connections on which nothing is under way; the one that was used last is the first to be used again.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    /// What gives up old ones runs here, as long as there are any.
    tasks: TaskTracker,
    /// Tells it that the pool is gone.
    gone: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The oldest first.
    wires: VecDeque<(Instant, Arc<Wire>)>,
    is_swept: bool,
}

impl Pool {
    pub(super) fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), tasks, gone: watch::Sender::new(()) })
    }

    /// A connection on which the application waits for a request, as far as the system knows.
    pub(super) fn take(&self) -> Option<Arc<Wire>> {
        loop {
            let (_, wire) = self.idle.lock().wires.pop_back()?;
            if watched::is_silent(&*wire.stream.lock()) {
                wire.done.store(0, Ordering::Release);
                return Some(wire);
            }
        }
    }

    fn keep(self: &Arc<Self>, wire: Arc<Wire>) {
        let mut idle = self.idle.lock();
        let least = if idle.wires.len() >= IDLE_CONNECTIONS { idle.wires.pop_front() } else { None };
        idle.wires.push_back((Instant::now(), wire));
        if !std::mem::replace(&mut idle.is_swept, true) {
            self.tasks.spawn(sweep(Arc::downgrade(self), self.gone.subscribe()));
        }
        drop(idle);
        drop(least);
    }

    /// Gives up what was idle for too long. Says when the next one will be, or that there is none.
    fn give_up(&self) -> Option<Instant> {
        let mut idle = self.idle.lock();
        let now = Instant::now();
        let mut old = Vec::new();
        while idle.wires.front().is_some_and(|(since, _)| now.duration_since(*since) >= IDLE_TIME) {
            old.extend(idle.wires.pop_front());
        }
        let next = idle.wires.front().map(|(since, _)| *since + IDLE_TIME);
        idle.is_swept = next.is_some();
        drop(idle);
        next
    }
}

/// Gives up connections of a pool that were idle for too long, until there are none or the pool is gone.
async fn sweep(pool: Weak<Pool>, mut gone: watch::Receiver<()>) {
    let mut next = Instant::now() + IDLE_TIME;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            // Nobody ever sends: it resolves when the sender is gone.
            _ = gone.changed() => return,
        }
        match pool.upgrade().and_then(|pool| pool.give_up()) {
            Some(at) => next = at,
            None => return,
        }
    }
}
