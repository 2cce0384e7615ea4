//! The write layer of earlier versions of adit, which still run at the other end: yamux waits while 64 KiB are gathered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};

/// Bytes gathered before a write must wait for the pipe.
const LIMIT: usize = 64 * 1024;

struct Inner {
    pipe: DuplexStream,
    buffer: Vec<u8>,
    sent: usize,
}

/// The end that yamux writes to and reads from.
pub(super) struct Coalesce(Arc<Mutex<Inner>>);

/// The end by which the driver sends what was gathered.
pub(super) struct Drain(Arc<Mutex<Inner>>);

pub(super) fn over(pipe: DuplexStream) -> (Coalesce, Drain) {
    let inner = Arc::new(Mutex::new(Inner { pipe, buffer: Vec::new(), sent: 0 }));
    (Coalesce(Arc::clone(&inner)), Drain(inner))
}

impl Inner {
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            self.sent += ready!(Pin::new(&mut self.pipe).poll_write(cx, &self.buffer[self.sent..]))?;
        }
        self.buffer.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl Drain {
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_empty(cx)
    }
}

impl AsyncRead for Coalesce {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.0.lock().pipe).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }
}

impl AsyncWrite for Coalesce {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.buffer.len() >= LIMIT {
            ready!(inner.poll_empty(cx))?;
        }
        let n = bytes.len().min(LIMIT - inner.buffer.len());
        inner.buffer.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_empty(cx))?;
        Pin::new(&mut inner.pipe).poll_shutdown(cx)
    }
}
