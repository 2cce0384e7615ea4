//! Waits until buffered bytes are sent, so that an error after them does not discard them.
//!
//! Three layers discard buffered data when a message is aborted: hyper its write buffer, h2 the frames of a reset stream,
//! and the kernel the unsent bytes of a reset connection. Only an aborted message waits for them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::net::TcpStream;

/// The number of pieces of one body that the HTTP library has not encoded yet.
#[derive(Debug, Default)]
pub struct Queued {
    pieces: AtomicUsize,
    is_awaited: AtomicBool,
    waker: AtomicWaker,
}

impl Queued {
    /// Counts a piece until it is dropped.
    pub fn piece(self: &Arc<Self>, data: Bytes) -> Piece {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        Piece { data, queued: Some(Arc::clone(self)) }
    }

    /// Ready when no piece is left.
    pub fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        self.is_awaited.store(true, Ordering::SeqCst);
        if self.pieces.load(Ordering::SeqCst) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A piece of a body.
#[derive(Debug, Default)]
pub struct Piece {
    data: Bytes,
    queued: Option<Arc<Queued>>,
}

impl From<Bytes> for Piece {
    fn from(data: Bytes) -> Self {
        Self { data, queued: None }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(queued) = &self.queued {
            let before = queued.pieces.fetch_sub(1, Ordering::SeqCst);
            if before == 1 && queued.is_awaited.load(Ordering::SeqCst) {
                queued.waker.wake();
            }
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.data.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.data
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.data.copy_to_bytes(length)
    }
}

/// Resolves when the kernel has sent everything that was written to a TCP socket. A reset discards only unsent bytes.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct AllSent(TcpStream);

#[cfg(target_os = "linux")]
impl AllSent {
    /// Watches `socket`. Nothing may be written to it after that.
    ///
    /// # Errors
    /// The system has no room for another descriptor.
    pub fn of(socket: &TcpStream) -> io::Result<Self> {
        use std::os::fd::AsFd as _;
        // The kernel calls a socket writable when less than this is unsent: from now on, when nothing is.
        socket2::SockRef::from(socket).set_tcp_notsent_lowat(1)?;
        // Its own registration: the socket's readiness was noted before the limit changed.
        let watched = socket.as_fd().try_clone_to_owned()?;
        TcpStream::from_std(std::net::TcpStream::from(watched)).map(Self)
    }

    /// Ready when nothing waits in the kernel, or the connection is gone.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_write_ready(cx).map(|_| ())
    }
}

/// Other systems do not say what they have sent.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub struct AllSent;

#[cfg(not(target_os = "linux"))]
impl AllSent {
    /// Watches nothing.
    ///
    /// # Errors
    /// None.
    pub fn of(_: &TcpStream) -> io::Result<Self> {
        Ok(Self)
    }

    /// Ready at once.
    pub fn poll(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl AllSent {
    /// Waits until it is, but no longer than `limit`: a peer that does not read for so long does not get the rest.
    pub async fn within(self, limit: Duration) {
        let _ = tokio::time::timeout(limit, std::future::poll_fn(|cx| self.poll(cx))).await;
    }
}

/// Waits until the kernel has sent what was written to `socket`, but no longer than `limit`.
pub async fn all_sent(socket: &TcpStream, limit: Duration) {
    if let Ok(sent) = AllSent::of(socket) {
        sent.within(limit).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker_ref;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn pieces_count_until_they_are_dropped() {
        let mut cx = Context::from_waker(noop_waker_ref());
        let queued = Arc::new(Queued::default());
        assert!(queued.poll_empty(&mut cx).is_ready());
        let (one, mut two) = (queued.piece(Bytes::from_static(b"one")), queued.piece(Bytes::from_static(b"two")));
        assert_eq!((two.copy_to_bytes(1), two.remaining(), two.chunk()), (Bytes::from_static(b"t"), 2, &b"wo"[..]));
        drop(one);
        assert!(queued.poll_empty(&mut cx).is_pending());
        two.advance(2);
        assert!(queued.poll_empty(&mut cx).is_pending(), "it is empty, but not sent");
        drop(two);
        assert!(queued.poll_empty(&mut cx).is_ready());
    }

    /// More than any socket takes at once is there for a reader that begins late, though the connection is reset behind it.
    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn what_was_sent_survives_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut near, mut far) = (near.unwrap(), far.unwrap().0);
        let sent = vec![7; 1 << 20];
        let send = async {
            near.write_all(&sent).await.unwrap();
            all_sent(&near, Duration::from_secs(60)).await;
            socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
            drop(near);
        };
        let read = async {
            let mut got = Vec::new();
            let ended = far.read_to_end(&mut got).await;
            (got, ended)
        };
        let ((), (got, ended)) = tokio::join!(send, read);
        assert_eq!((got.len(), ended.unwrap_err().kind()), (sent.len(), io::ErrorKind::ConnectionReset));
    }
}
