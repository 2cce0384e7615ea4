//! The multiplexer: one pipe, many streams. Nobody outside of this module names yamux.
//!
//! Here are the session and its driver, `stream` is one of its streams, and `guard` knows yamux's frames and bounds what
//! a peer makes this end hold.
//!
//! A [`MuxSession`] is a handle that opens streams; a [`MuxDriver`] is the one task that moves the bytes. They share the
//! yamux connection under a short lock: opening a stream costs a lock and a wake-up, not a message to the driver and
//! one back.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::link::pulse::Pulse;
use crate::link::session::{Driver, Ended, OpenError, Session};
use crate::link::write::{self, Drain, SendBudget};
use crate::transport::Pipe;
use crate::values::{SessionId, without_link};
use guard::{Guard, Ledger};

mod guard;
mod stream;

pub use guard::{SPARED, Unread};
pub use stream::MuxStream;

type Connection = yamux::Connection<Guard>;

/// The largest payload of a yamux frame, in bytes.
const SPLIT_SEND: usize = write::MAX_PAYLOAD;

/// What yamux promises each stream at least, whatever its configuration says.
pub const STREAM_WINDOW: usize = 256 * 1024;

/// How far the windows of a session usually may grow in all beyond [`STREAM_WINDOW`] each. Enough for two streams that
/// fill 400 Mbit/s at a round trip of 100 ms.
pub const WINDOW_GROWTH: usize = 16 * 1024 * 1024;

/// Which end of the session this is. Stream numbers depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The agent: dialled.
    Agent,
    /// The server: accepted.
    Server,
}

/// How a session behaves.
#[derive(Debug, Clone, Copy)]
pub struct MuxConfig {
    /// The most streams that are meant to be open at once. yamux ends the whole session when its own limit is broken
    /// and learns late that a stream is gone, so that limit is set at twice as many and some.
    pub max_streams: usize,
    /// Let the tasks that are ready run before the driver works, so that what they write leaves together. For
    /// multi-thread runtimes; a single-threaded one batches by nature.
    pub yield_first: bool,
    /// How many bytes the windows of all streams that come together may grow beyond [`STREAM_WINDOW`] each. One grows while
    /// its reader takes all of it within two round trips; a reader that stops makes this side hold its window.
    pub window_growth: usize,
}

/// Who waits for a session to move.
#[derive(Default)]
struct Wakers {
    driver: AtomicWaker,
    /// The opener whose turn it is. yamux wakes it for an acknowledgement, but neither for an unacknowledged stream
    /// that is gone nor for the end of the session.
    opener: AtomicWaker,
}

struct Shared {
    id: SessionId,
    /// Taken out when the driver ends, which wakes every stream's reader and writer.
    connection: Mutex<Option<Connection>>,
    ledger: Arc<Ledger>,
    pulse: Arc<Pulse>,
    /// yamux keeps a single waker for openers: they take turns.
    turn: tokio::sync::Mutex<()>,
    wakers: Wakers,
    /// What an opener broke: yamux tells the driver only that it is over.
    broken: OnceLock<String>,
    /// Asked to end, politely.
    closing: AtomicBool,
    ended: CancellationToken,
    opened: AtomicU64,
}

/// A handle on a session: opens streams, and can end it.
#[derive(Clone)]
pub struct MuxSession(Arc<Shared>);

/// The task that moves a session's bytes. Dropping it ends the session.
#[must_use = "a session moves nothing unless its driver runs"]
pub struct MuxDriver {
    shared: Arc<Shared>,
    drain: Drain,
    yield_first: bool,
    yielded: bool,
}

/// Returns yamux's own limit of streams for a session that is meant for `max_streams` at once.
pub fn most_streams(max_streams: usize) -> usize {
    max_streams * 2 + 16
}

/// Lays a session over `pipe`. What waits on its streams is limited by their windows alone.
pub fn session(pipe: Box<dyn Pipe>, side: Side, config: MuxConfig) -> (Session, Driver) {
    session_within(pipe, side, config, Unread::new(usize::MAX))
}

/// As [`session`]; what waits on its streams counts in `unread`.
pub fn session_within(pipe: Box<dyn Pipe>, side: Side, config: MuxConfig, unread: Arc<Unread>) -> (Session, Driver) {
    let streams = most_streams(config.max_streams);
    let mut settings = yamux::Config::default();
    // In this order: each setter asserts against what the others have set so far.
    settings.set_max_connection_receive_window(None);
    settings.set_max_num_streams(streams);
    settings.set_max_connection_receive_window(Some(streams * STREAM_WINDOW + config.window_growth));
    settings.set_split_send_size(SPLIT_SEND);
    let mode = match side {
        Side::Agent => yamux::Mode::Client,
        Side::Server => yamux::Mode::Server,
    };
    let pulse = Arc::new(Pulse::new());
    let budget = Arc::new(SendBudget::default());
    let (layer, drain) = write::over(pipe, Arc::clone(&pulse), Arc::clone(&budget), streams);
    let ledger = Ledger::new(unread, budget);
    let layer = Guard::new(layer, Arc::clone(&ledger), side);
    let shared = Arc::new(Shared {
        id: SessionId::next(),
        connection: Mutex::new(Some(yamux::Connection::new(layer, settings, mode))),
        ledger,
        pulse,
        turn: tokio::sync::Mutex::new(()),
        wakers: Wakers::default(),
        broken: OnceLock::new(),
        closing: AtomicBool::new(false),
        ended: CancellationToken::new(),
        opened: AtomicU64::new(0),
    });
    let yield_first = config.yield_first;
    let driver = MuxDriver { shared: Arc::clone(&shared), drain, yield_first, yielded: false };
    (Session::Mux(MuxSession(shared)), Driver::Mux(driver))
}

impl MuxSession {
    /// The session's number, unique in this process.
    pub fn id(&self) -> SessionId {
        self.0.id
    }

    /// Opens a stream and sends `first` on it: up to 64 KiB leave in one frame.
    ///
    /// Waits while 256 streams have not been acknowledged by the peer (a limit of yamux): callers set a deadline.
    /// Cancel-safe: an opener that is dropped while it waits has opened nothing.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn open(&self, first: &[u8]) -> Result<MuxStream, OpenError> {
        let turn = match self.0.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => self.0.turn.lock().await,
        };
        let stream = poll_fn(|cx| self.poll_open(cx)).await?;
        drop(turn);
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        // Nobody else tells the driver of a stream that it has not polled yet: neither what is written on it later
        // nor its end would reach the driver.
        if first.is_empty() {
            self.0.wakers.driver.wake();
        }
        // A new stream has its window: the first write waits at most for room in the send queue.
        let mut sent = 0;
        while sent < first.len() {
            let written = poll_fn(|cx| {
                let written = stream.poll_write(cx, &first[sent..]);
                self.0.wakers.driver.wake();
                written
            });
            sent += written.await.map_err(|_| OpenError::Closed)?;
        }
        Ok(stream)
    }

    fn poll_open(&self, cx: &mut Context<'_>) -> Poll<Result<MuxStream, OpenError>> {
        let mut connection = self.0.connection.lock();
        let Some(connection) = connection.as_mut().filter(|_| !self.is_closed()) else {
            return Poll::Ready(Err(OpenError::Closed));
        };
        let opened = connection.poll_new_outbound(cx);
        if opened.is_pending() {
            // Under the lock, so that nothing the driver changes goes unnoticed.
            self.0.wakers.opener.register(cx.waker());
        }
        opened.map_ok(|stream| MuxStream::new(stream, &self.0.ledger)).map_err(|error| {
            // That was the end of the whole session, and only the driver can finish it.
            let _ = self.0.broken.set(error.to_string());
            self.0.wakers.driver.wake();
            OpenError::Closed
        })
    }

    /// When bytes last moved on the session's pipe.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.0.pulse
    }

    /// How many streams this end has opened so far.
    pub fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    /// Asks the driver to say goodbye and end. Streams that are still open are cut.
    pub fn close(&self) {
        self.0.closing.store(true, Ordering::Release);
        self.0.wakers.opener.wake();
        self.0.wakers.driver.wake();
    }

    /// Whether the session is over, or about to be.
    pub fn is_closed(&self) -> bool {
        self.0.closing.load(Ordering::Acquire) || self.0.ended.is_cancelled()
    }

    /// Waits for the end of the session.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }
}

impl fmt::Debug for MuxSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, opened {}, closed {})", self.0.id, self.opened(), self.is_closed())
    }
}

impl MuxDriver {
    /// Moves bytes until the session ends, and gives each stream that the peer opens to `inbound`.
    ///
    /// A goodbye (after [`MuxSession::close`]) is given `goodbye` to reach the peer.
    pub async fn run(mut self, goodbye: Duration, mut inbound: impl FnMut(MuxStream)) -> Ended {
        let ended = poll_fn(|cx| self.poll_run(cx, &mut inbound)).await;
        if ended == Ended::Closed {
            // Whether the goodbye arrives or not, the session is over; a peer that is gone must not hold us.
            let _ = tokio::time::timeout(goodbye, poll_fn(|cx| self.poll_goodbye(cx))).await;
        }
        ended
    }

    fn poll_run(&mut self, cx: &mut Context<'_>, inbound: &mut impl FnMut(MuxStream)) -> Poll<Ended> {
        self.shared.wakers.driver.register(cx.waker());
        if self.shared.closing.load(Ordering::Acquire) {
            return Poll::Ready(Ended::Closed);
        }
        if self.yield_first && !self.yielded {
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.yielded = false;
        loop {
            let polled = match self.shared.connection.lock().as_mut() {
                Some(connection) => connection.poll_next_inbound(cx),
                None => return Poll::Ready(Ended::Closed),
            };
            match polled {
                // Nothing more is read before it is in the ledger: only this task reads.
                Poll::Ready(Some(Ok(stream))) => inbound(MuxStream::new(stream, &self.shared.ledger)),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Ended::Broken(without_link(&guard::reason(&error))));
                }
                Poll::Ready(None) => {
                    let broken = self.shared.broken.get().cloned();
                    return Poll::Ready(broken.map_or(Ended::ByPeer, Ended::Broken));
                }
                Poll::Pending => break,
            }
        }
        self.shared.wakers.opener.wake();
        match self.drain.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Ended::Broken(without_link(&error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Sends everything that was written, in order, and ends the pipe; to the peer that is the end of the session.
    ///
    /// yamux has a goodbye of its own, but it forgets the streams without waking who reads or writes them: they would
    /// wait for ever. They are cut when the connection is dropped.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let polled = match self.shared.connection.lock().as_mut() {
                Some(connection) => connection.poll_next_inbound(cx),
                None => return Poll::Ready(()),
            };
            match polled {
                // Too late: it is cut like the others.
                Poll::Ready(Some(Ok(stream))) => drop(stream),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                // yamux has handed over everything.
                Poll::Pending => return self.drain.poll_shutdown(cx).map(|_| ()),
            }
        }
    }
}

impl Drop for MuxDriver {
    fn drop(&mut self) {
        // Dropped outside of the lock: it wakes readers and writers, which may want the lock.
        let connection = self.shared.connection.lock().take();
        drop(connection);
        self.shared.ledger.budget.close();
        self.shared.wakers.opener.wake();
        self.shared.ended.cancel();
    }
}

#[cfg(test)]
mod pressure;
#[cfg(test)]
mod tests;
