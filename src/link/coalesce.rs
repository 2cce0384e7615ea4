//! The write layer under the multiplexer: it gathers what yamux writes and sends it when told to.
//!
//! yamux writes a frame's header and body separately and flushes at every turn of its loop; over TLS each of these
//! would become a record and a system call. Here writes only fill a buffer and `poll_flush` does nothing. The session
//! driver calls [`Drain::poll_drain`] once, after yamux has nothing more to do, and what 25 requests had to say leaves
//! in one write (`docs/performance.md`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::pulse::Pulse;
use crate::transport::Pipe;

/// Bytes gathered before a write must wait for the pipe.
pub const LIMIT: usize = 64 * 1024;

/// What an idle session may keep allocated for its next writes.
const IDLE_CAPACITY: usize = 4 * 1024;

struct Inner {
    pipe: Box<dyn Pipe>,
    /// What was written and has not been taken by the pipe yet: `buffer[sent..]`.
    buffer: Vec<u8>,
    sent: usize,
    /// The pipe took bytes since it was last flushed.
    unflushed: bool,
    pulse: Arc<Pulse>,
    /// Whether bytes were received, and whether some were sent, since the last update of the pulse.
    received: bool,
    took: bool,
}

/// The end that yamux writes to and reads from.
pub struct Coalesce(Arc<Mutex<Inner>>);

/// The end by which the session driver sends what was gathered.
pub struct Drain(Arc<Mutex<Inner>>);

/// Lays the layer over `pipe`.
pub fn over(pipe: Box<dyn Pipe>, pulse: Arc<Pulse>) -> (Coalesce, Drain) {
    let (buffer, sent) = (Vec::new(), 0);
    let inner = Inner { pipe, buffer, sent, unflushed: false, pulse, received: false, took: false };
    let inner = Arc::new(Mutex::new(inner));
    (Coalesce(Arc::clone(&inner)), Drain(inner))
}

impl Inner {
    /// Hands everything gathered to the pipe, without flushing it.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            let n = ready!(Pin::new(&mut self.pipe).poll_write(cx, &self.buffer[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
            (self.unflushed, self.took) = (true, true);
        }
        let used = self.sent;
        self.buffer.clear();
        self.sent = 0;
        if used < IDLE_CAPACITY && self.buffer.capacity() > IDLE_CAPACITY {
            self.buffer.shrink_to(IDLE_CAPACITY);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sent < self.buffer.len() {
            ready!(self.poll_empty(cx))?;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.pipe).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Updates the pulse with what has moved since the last update.
    fn beat(&mut self, is_sent: bool) {
        if std::mem::take(&mut self.received) {
            self.pulse.received();
        }
        self.pulse.offered(std::mem::take(&mut self.took), !is_sent);
    }

    /// Waits until there is room for more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.len() < LIMIT { Poll::Ready(Ok(())) } else { self.poll_empty(cx) }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

impl Drain {
    /// Sends everything gathered and flushes the pipe.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        let drained = inner.poll_drain(cx);
        inner.beat(drained.is_ready());
        drained
    }

    /// Whether the next write can be gathered without waiting for the pipe.
    pub fn has_room(&self) -> bool {
        self.0.lock().buffer.len() < LIMIT
    }

    /// Sends everything gathered and ends the pipe.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_shutdown(cx)
    }
}

impl Coalesce {
    /// Buffers all of `bytes`, which are few, as soon as there is room for the first of them.
    pub fn poll_push(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_room(cx))?;
        inner.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Coalesce {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buffer);
        let mut inner = self.0.lock();
        ready!(Pin::new(&mut inner.pipe).poll_read(cx, &mut read))?;
        inner.received |= !read.filled().is_empty();
        Poll::Ready(Ok(read.filled().len()))
    }
}

impl AsyncWrite for Coalesce {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_room(cx))?;
        let n = bytes.len().min(LIMIT - inner.buffer.len());
        inner.buffer.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    /// Ready at once: see the module's description.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::AsyncWriteExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn writes_leave_together_and_only_when_drained() {
        let (near, mut far) = tokio::io::duplex(1024 * 1024);
        let (mut layer, drain) = over(Box::new(near), Arc::default());
        layer.write_all(b"head").await.unwrap();
        layer.write_all(b"body").await.unwrap();
        layer.flush().await.unwrap();
        let mut got = [0; 16];
        let early = tokio::time::timeout(std::time::Duration::ZERO, far.read(&mut got)).await;
        assert!(early.is_err(), "nothing leaves before the drain");
        poll_fn(|cx| drain.poll_drain(cx)).await.unwrap();
        let n = far.read(&mut got).await.unwrap();
        assert_eq!(&got[..n], b"headbody");
    }

    #[tokio::test]
    async fn a_full_buffer_waits_for_the_pipe_and_loses_nothing() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut layer, drain) = over(Box::new(near), Arc::default());
        let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let write = async move {
            layer.write_all(&sent).await.unwrap();
            layer.close().await.unwrap();
        };
        let read = async {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        };
        let ((), got) = tokio::join!(write, read);
        assert_eq!(got, expected);
        let inner = drain.0.lock();
        assert!(inner.buffer.is_empty() && inner.buffer.capacity() <= LIMIT);
    }
}
