//! The rest of a request that was answered before its body had come. A socket that is closed while bytes wait in it, or
//! still come, ends with a reset, and a reset may overtake the answer or take it back from the visitor: so the rest is
//! read and thrown away for a while (RFC 9112, section 9.6). Over HTTP/2 it is a stream that is reset, without an error
//! (RFC 9113, section 8.1), and there are visitors who lose the answer by that all the same.

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

/// How long nothing may come before the visitor is taken to have the answer.
const QUIET: Duration = Duration::from_secs(5);

/// How long a visitor may go on sending what nobody wants.
const AT_MOST: Duration = Duration::from_secs(30);

/// Rests that may be read at once on one HTTP/2 connection. Beyond that a request is reset, as any might be.
pub(crate) const AT_ONCE: usize = 16;

/// The request of a connection whose body the visitor may still be sending.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unread(Arc<AtomicU64>);

impl Unread {
    /// A request has come.
    pub(crate) fn begin(&self, request: RequestId, has_body: bool) {
        self.0.store(if has_body { request.0 } else { 0 }, Ordering::Release);
    }

    /// Its body has been read to the end. Another request may have come in the meantime.
    pub(crate) fn read(&self, request: RequestId) {
        let _ = self.0.compare_exchange(request.0, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

/// Reads the rest of a body over HTTP/2 that nobody wants, for as long as [`Rest`] would.
pub(crate) async fn discard(body: impl Body) {
    let mut body = std::pin::pin!(body);
    let all = async { while let Ok(Some(Ok(_))) = tokio::time::timeout(QUIET, body.frame()).await {} };
    // Whoever has the answer by then, or not, is reset.
    let _ = tokio::time::timeout(AT_MOST, all).await;
}

/// Throws away what still comes after the last word was said.
#[derive(Debug)]
pub(crate) struct Rest {
    since: Instant,
    quiet: Idle,
}

impl Rest {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), quiet: Idle::new(QUIET) }
    }

    /// Ready when the visitor has left or said nothing for long enough.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); 8 * 1024];
        while self.since.elapsed() < AT_MOST {
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.quiet.moved(),
                // It has left, by whatever way.
                Poll::Ready(_) => break,
                Poll::Pending => return self.quiet.poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}
