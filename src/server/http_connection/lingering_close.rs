//! Lingering close: reads and discards the rest of a request that was answered before its body had arrived.
//!
//! Closing a socket with unread bytes sends a reset, which may overtake the response or discard it (RFC 9112,
//! section 9.6). Over HTTP/2 the stream would be reset without an error (RFC 9113, section 8.1), and some clients lose
//! the response by that too.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Body;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::link::body::Idle;
use crate::values::RequestId;

/// After this long without data, the peer is assumed to have the response.
const QUIET: Duration = Duration::from_secs(5);

/// The longest that unwanted data is read.
const AT_MOST: Duration = Duration::from_secs(30);

/// Bodies discarded at once on one HTTP/2 connection. Further requests are reset.
pub(crate) const MAX_DISCARDS: usize = 16;

/// The request of a connection whose body the peer may still be sending.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnreadBody(Arc<AtomicU64>);

impl UnreadBody {
    /// Records that a request has arrived.
    pub(crate) fn begin(&self, request: RequestId, has_body: bool) {
        self.0.store(if has_body { request.0 } else { 0 }, Ordering::Release);
    }

    /// Records that the request's body was read to its end. Does nothing if another request has arrived since.
    pub(crate) fn read(&self, request: RequestId) {
        let _ = self.0.compare_exchange(request.0, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

/// Reads and discards the rest of a body over HTTP/2, for as long as [`Linger`] would.
pub(crate) async fn discard(body: impl Body) {
    let mut body = std::pin::pin!(body);
    let all = async { while let Ok(Some(Ok(_))) = tokio::time::timeout(QUIET, body.frame()).await {} };
    // After that the stream is reset.
    let _ = tokio::time::timeout(AT_MOST, all).await;
}

/// Discards incoming data after the response was sent.
#[derive(Debug)]
pub(crate) struct Linger {
    since: Instant,
    quiet: Idle,
}

impl Linger {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), quiet: Idle::new(QUIET) }
    }

    /// Ready when the peer has closed or sent nothing for long enough.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); 8 * 1024];
        while self.since.elapsed() < AT_MOST {
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.quiet.moved(),
                // The peer has closed or reset the connection.
                Poll::Ready(_) => break,
                Poll::Pending => return self.quiet.poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}
