//! One stream of a session: what yamux has of it, what waits on it, and which of its directions have ended.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::io::AsyncWrite;
use futures_util::stream::Stream as _;
use parking_lot::Mutex;

use super::guard::{Held, Ledger};
use crate::link::write::StreamSends;

const READ_ENDED: u8 = 1;
const WRITE_ENDED: u8 = 2;

/// What is left of a stream, and what waits on it.
struct Half {
    stream: Option<yamux::Stream>,
    held: Held,
    sends: StreamSends,
}

pub(crate) struct Halves {
    id: u32,
    ledger: Arc<Ledger>,
    half: Mutex<Half>,
    /// Which directions have ended properly, by the frames they carry.
    ends: AtomicU8,
}

impl Halves {
    /// Takes the stream out: nobody can read or write it any more.
    fn take(&self) -> Option<yamux::Stream> {
        let mut half = self.half.lock();
        let mut stream = half.stream.take()?;
        // yamux may keep a stream for as long as its peer takes nothing, but then it is an empty one.
        let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
        while half.held.is_some() && matches!(Pin::new(&mut stream).poll_next(&mut cx), Poll::Ready(Some(Ok(_)))) {}
        self.ledger.gone(self.id, &mut half.held);
        self.ledger.budget.forget(&mut half.sends);
        Some(stream)
    }

    /// A frame comes, to be counted by `count`. `None`: for nobody.
    pub(crate) fn arrived(&self, count: impl FnOnce(&mut Held) -> bool) -> Option<bool> {
        let half = &mut *self.half.lock();
        half.stream.as_ref().map(|_| count(&mut half.held))
    }

    pub(crate) fn cut(&self) {
        drop(self.take());
    }

    /// Gives admitted bytes to yamux, and those that it does not take back to the budget.
    fn queue(
        &self,
        stream: &mut yamux::Stream,
        sends: &mut StreamSends,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(stream).poll_write(cx, bytes);
        let queued = if let Poll::Ready(Ok(queued)) = written { queued } else { 0 };
        self.ledger.budget.give_back(sends, bytes.len(), queued);
        written
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        self.cut();
    }
}

/// One stream, shared by whoever reads it and whoever writes it.
///
/// It is closed properly (FIN) when both directions have ended. If the last handle is dropped before that, the peer
/// sees a reset. There is nothing in between: yamux throws away what arrives for a stream that was half-closed and
/// dropped, so a half-close would strand the other side.
#[derive(Clone)]
pub struct MuxStream(pub(crate) Arc<Halves>);

impl MuxStream {
    pub(crate) fn new(stream: yamux::Stream, ledger: &Arc<Ledger>) -> Self {
        let (id, ledger) = (stream.id().val(), Arc::clone(ledger));
        let half = Mutex::new(Half { stream: Some(stream), held: Held::default(), sends: StreamSends::default() });
        let halves = Arc::new(Halves { id, ledger, half, ends: AtomicU8::new(0) });
        halves.ledger.opened(id, &halves);
        Self(halves)
    }

    /// The next bytes, as they came, without a copy. `None`: finished, reset or lost; yamux does not say which.
    pub fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let half = &mut *self.0.half.lock();
        match half.stream.as_mut() {
            None => Poll::Ready(None),
            Some(stream) => match ready!(Pin::new(stream).poll_next(cx)) {
                Some(Ok(packet)) => {
                    self.0.ledger.read(&mut half.held, packet.as_ref().len());
                    Poll::Ready(Some(Bytes::from_owner(packet)))
                }
                Some(Err(_)) | None => Poll::Ready(None),
            },
        }
    }

    /// Queues some of `bytes` (they are copied) and returns how many. Waits for room in the session's send queue
    /// ([`SendBudget`]) and for the peer's window.
    ///
    /// # Errors
    /// The stream or its session is gone.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Half { stream, sends, .. } = &mut *self.0.half.lock();
        let Some(stream) = stream else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let granted = ready!(self.0.ledger.budget.poll_admit(sends, cx, bytes.len()));
        self.0.queue(stream, sends, cx, &bytes[..granted])
    }

    /// Queues some of `bytes` without waiting, even if others wait, and returns how many.
    ///
    /// # Errors
    /// The stream or its session is gone.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let Half { stream, sends, .. } = &mut *self.0.half.lock();
        let stream = stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let Some(granted) = self.0.ledger.budget.admit_now(sends, bytes.len()) else { return Ok(0) };
        let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
        match self.0.queue(stream, sends, &mut cx, &bytes[..granted]) {
            Poll::Ready(queued) => queued,
            Poll::Pending => Ok(0),
        }
    }

    /// The peer has said everything it wanted to say.
    pub fn read_ended(&self) {
        self.end(READ_ENDED);
    }

    /// This side has said everything it wanted to say.
    pub fn write_ended(&self) {
        self.end(WRITE_ENDED);
    }

    /// Whether the peer has said everything it wanted to say.
    pub fn is_read_ended(&self) -> bool {
        self.0.ends.load(Ordering::Acquire) & READ_ENDED != 0
    }

    /// Whether both directions have ended properly.
    pub fn is_complete(&self) -> bool {
        self.0.ends.load(Ordering::Acquire) == READ_ENDED | WRITE_ENDED
    }

    fn end(&self, direction: u8) {
        let before = self.0.ends.fetch_or(direction, Ordering::AcqRel);
        if before != READ_ENDED | WRITE_ENDED
            && before | direction == READ_ENDED | WRITE_ENDED
            && let Some(mut stream) = self.0.take()
        {
            // Without room in its queue the stream is reset instead, which is the same to a peer that has read
            // everything.
            let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
            let _ = Pin::new(&mut stream).poll_close(&mut cx);
        }
    }

    /// Cuts the stream now, for every handle: the peer sees a reset after what was already queued.
    pub fn abort(&self) {
        self.0.cut();
    }

    /// Whether the stream is gone: complete, reset by either side, or its session ended.
    pub fn is_closed(&self) -> bool {
        self.0.half.lock().stream.as_ref().is_none_or(yamux::Stream::is_closed)
    }
}

impl fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MuxStream({:?})", self.0.half.lock().stream)
    }
}
