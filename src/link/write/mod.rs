//! The write layer under the multiplexer: it accepts everything that yamux writes, and sends it when told to.
//!
//! yamux never waits for the pipe, so reading never depends on writing, and two ends cannot deadlock. Back-pressure applies
//! above yamux, to the writers of streams: [`SendBudget`] admits their data and bounds the queue by what the link takes.
//! Control frames (window updates, pings, SYN, FIN, RST, GoAway) have a bound of their own, beyond which the session ends.
//!
//! yamux writes a frame's header and body separately and flushes at every turn of its loop; over TLS each of these would
//! become a record and a system call. Here writes only fill a buffer and a flush does nothing. The session driver calls
//! [`Drain::poll_drain`] once, after yamux has nothing more to do, and what 25 requests write leaves at once
//! (`docs/performance.md`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::io::AsyncRead;
use parking_lot::Mutex;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::pulse::Pulse;
use crate::transport::Pipe;
use segments::Segments;

mod budget;
mod rate;
mod segments;
pub mod socket;
#[cfg(test)]
mod tests;

pub use budget::{MAX_QUEUED, SendBudget, StreamSends};

/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 12;

/// Bytes of data that a writer puts into one frame at most: larger frames move bulk faster, and these still let others in
/// between.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Bytes of control frames that wait to be sent at most, beside one frame for each stream that may be open: a peer that
/// causes more and takes none of them is not served any further.
pub const MAX_CONTROL: usize = 64 * 1024;

/// The error of a session with more control frames than it may queue.
const TOO_MUCH_CONTROL: &str = "the peer takes no data, but causes too many answers";

/// Returns how many bytes the layer of a session of up to `max_streams` streams holds at most: data, control frames, and
/// a buffer that is not full.
pub fn held_at_most(max_streams: usize) -> usize {
    MAX_QUEUED + max_control(max_streams) + segments::SEGMENT
}

fn max_control(max_streams: usize) -> usize {
    MAX_CONTROL + max_streams * FRAME_HEADER
}

struct Inner {
    pipe: Box<dyn Pipe>,
    segments: Segments,
    /// Bytes of control frames that may wait.
    max_control: usize,
    budget: Arc<SendBudget>,
    /// Bytes of data that the pipe took since it was last flushed. TLS keeps some of them.
    taken: usize,
    /// The pipe took bytes since it was last flushed.
    unflushed: bool,
    /// Writers waited although nothing was queued.
    writers_wait: bool,
    pulse: Arc<Pulse>,
    /// Whether bytes were received, and whether some were sent, since the last update of the pulse.
    received: bool,
    took: bool,
}

/// The end that the multiplexer writes to and reads from.
pub struct Layer(Arc<Mutex<Inner>>);

/// The end by which the session driver sends what was gathered.
pub struct Drain(Arc<Mutex<Inner>>);

/// Lays the layer over `pipe`, for a session of up to `max_streams` streams.
pub fn over(pipe: Box<dyn Pipe>, pulse: Arc<Pulse>, budget: Arc<SendBudget>, max_streams: usize) -> (Layer, Drain) {
    let inner = Inner {
        pipe,
        segments: Segments::default(),
        max_control: max_control(max_streams),
        budget,
        taken: 0,
        unflushed: false,
        writers_wait: false,
        pulse,
        received: false,
        took: false,
    };
    let inner = Arc::new(Mutex::new(inner));
    (Layer(Arc::clone(&inner)), Drain(inner))
}

impl Inner {
    /// Sends everything gathered and flushes the pipe. Each buffer is flushed before the next is written, so that no more
    /// than one waits inside of TLS.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.unflushed {
                ready!(Pin::new(&mut self.pipe).poll_flush(cx))?;
                self.unflushed = false;
                self.writers_wait = self.budget.sent(std::mem::take(&mut self.taken));
            }
            let Some(bytes) = self.segments.unsent() else { return Poll::Ready(Ok(())) };
            let n = ready!(Pin::new(&mut self.pipe).poll_write(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += self.segments.taken(n);
            (self.unflushed, self.took) = (true, true);
        }
    }

    /// Sends everything gathered and ends the pipe.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }

    /// Updates the pulse with what has moved since the last update.
    fn beat(&mut self, is_sent: bool) {
        if std::mem::take(&mut self.received) {
            self.pulse.received();
        }
        self.pulse.offered(std::mem::take(&mut self.took), !is_sent);
    }
}

impl Drain {
    /// Sends everything gathered and flushes the pipe. Wakes the writers for which there is room then.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.writers_wait {
            inner.writers_wait = inner.budget.sent(0);
        }
        let drained = inner.poll_drain(cx);
        inner.beat(drained.is_ready());
        if drained.is_ready() && inner.writers_wait {
            // Those that were woken may write nothing: look again after they have run.
            cx.waker().wake_by_ref();
        }
        drained
    }

    /// Sends everything gathered and ends the pipe.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_shutdown(cx)
    }
}

impl Layer {
    /// Queues `bytes`, which belong to a control frame or to a data frame that the [`SendBudget`] has admitted. Never
    /// waits.
    ///
    /// # Errors
    /// More control frames wait than may, or the pipe is broken: the session must end.
    pub fn push(&mut self, cx: &mut Context<'_>, bytes: &[u8], is_control: bool) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.segments.push(bytes, is_control);
        if is_control && inner.segments.control() > inner.max_control {
            // A burst is none of the peer's fault, if the pipe takes the answers.
            if let Poll::Ready(sent) = inner.poll_drain(cx) {
                return sent;
            }
            if inner.segments.control() > inner.max_control {
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, TOO_MUCH_CONTROL));
            }
        }
        Ok(())
    }

    /// Ends the pipe after everything gathered was sent.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_shutdown(cx)
    }
}

impl AsyncRead for Layer {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buffer);
        let mut inner = self.0.lock();
        ready!(Pin::new(&mut inner.pipe).poll_read(cx, &mut read))?;
        inner.received |= !read.filled().is_empty();
        Poll::Ready(Ok(read.filled().len()))
    }
}
