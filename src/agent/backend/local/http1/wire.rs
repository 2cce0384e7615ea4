//! A connection to an application.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::pool::Pool;
use crate::agent::backend::local::dial::Stream;
use crate::transport::write_vectored::poll_write_pieces;

const REQUEST_SENT: u8 = 1;
const ANSWER_READ: u8 = 2;
/// The answer had no body. The application may send one all the same, however much later.
const BODYLESS: u8 = 4;

/// A connection. Whoever sends the request and whoever reads its answer share it; it is closed when both are gone, unless
/// both have said that they are done.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Mutex<Stream>,
    done: AtomicU8,
    /// The visitor whose request it carries.
    visitor: Mutex<SocketAddr>,
    /// Where it goes then; nowhere, if it is for a single visitor.
    pool: Weak<Pool>,
    /// When it is not used again any more.
    expiry: Option<Instant>,
}

impl Wire {
    /// Creates a connection for a request of `visitor`. It is not used again after `expiry`.
    pub(super) fn new(stream: Stream, visitor: SocketAddr, pool: Weak<Pool>, expiry: Option<Instant>) -> Arc<Self> {
        let (stream, visitor) = (Mutex::new(stream), Mutex::new(visitor));
        Arc::new(Self { stream, done: AtomicU8::new(0), visitor, pool, expiry })
    }

    /// Returns whether it is too old to be used again.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expiry.is_some_and(|expiry| now >= expiry)
    }

    /// Prepares an idle connection for a request of `visitor`; returns `false` if something has arrived on it.
    pub(super) fn reuse(&self, visitor: SocketAddr) -> bool {
        *self.visitor.lock() = visitor;
        self.done.store(0, Ordering::Release);
        self.stream.lock().is_quiet()
    }

    /// Returns whether nothing has arrived on an idle connection. If so, wakes the task when something does.
    pub(super) fn poll_quiet(&self, cx: &mut Context<'_>) -> bool {
        let mut stream = self.stream.lock();
        stream.is_quiet() && Pin::new(&mut *stream).poll_read(cx, &mut ReadBuf::new(&mut [0])).is_pending()
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
    pub(super) fn answer_read(self: &Arc<Self>, had_body: bool) {
        self.is_done(if had_body { ANSWER_READ } else { ANSWER_READ | BODYLESS });
    }

    /// Whether the answer was read, and the application goes on.
    pub(super) fn is_answered(&self) -> bool {
        self.done.load(Ordering::Acquire) & ANSWER_READ != 0
    }

    fn is_done(self: &Arc<Self>, side: u8) {
        const BOTH: u8 = REQUEST_SENT | ANSWER_READ;
        let before = self.done.fetch_or(side, Ordering::AcqRel);
        let after = before | side;
        // Not one that was answered before its request was complete, either: what the application answered is not clear.
        let may_be_kept = after & BODYLESS == 0 && before & ANSWER_READ == 0;
        if before & BOTH != BOTH
            && after & BOTH == BOTH
            && may_be_kept
            && let Some(pool) = self.pool.upgrade()
        {
            let visitor = *self.visitor.lock();
            pool.keep(Arc::clone(self), visitor);
        }
    }
}
