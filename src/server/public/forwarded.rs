//! The body of a forwarded answer: what it takes to know that the visitor has the whole of it, or has left.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use super::Visit;
use super::answer::Failure;
use super::ledger::Entry;
use crate::protocol::fields::{clean_answer_trailers, with_clean_trailers};
use crate::server::until_cut;
use crate::transport::body::{BodyError, FrameBody};
use crate::transport::mux::MuxStream;

/// How long the end of an answer may take that the visitor has in full already.
const LAST_FRAME: Duration = Duration::from_secs(10);

/// The answer's side of a stream: dropped before the answer has ended, it cuts the stream for the upload too.
#[derive(Debug)]
pub(super) struct Held(pub(super) MuxStream);

impl Drop for Held {
    fn drop(&mut self) {
        if !self.0.is_read_ended() {
            self.0.abort();
        }
    }
}

/// How the visitor can tell that it has the whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delimited {
    /// By its length, in bytes: announced, or none by the rules of HTTP.
    Length(u64),
    /// By the last chunk.
    Chunks,
    /// By its trailers (gRPC over HTTP/2). If they do not come, the visitor gets others that say why.
    Grpc,
    /// By the end of the connection (HTTP/1.0), which must not come in order before that.
    Close,
}

/// The body of a forwarded answer. Dropped before its end, it cuts the stream: the visitor has left.
#[derive(Debug)]
pub(super) struct ForwardedBody(Option<Open>);

#[derive(Debug)]
struct Open {
    body: FrameBody,
    delimited: Delimited,
    entry: Arc<Entry>,
    visit: Arc<Visit>,
    /// Over HTTP/2: its head or a piece of it is with the visitor.
    given: bool,
    _stream: Held,
}

impl ForwardedBody {
    /// Nothing: the answer to an upgrade has no body.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// What comes as `body` over `stream`.
    pub(super) fn new(
        body: FrameBody,
        delimited: Delimited,
        entry: Arc<Entry>,
        visit: Arc<Visit>,
        stream: Held,
    ) -> Self {
        if delimited == Delimited::Close {
            visit.cut.store(true, Ordering::Release);
        }
        let mut open = Open { body, delimited, entry, visit, given: false, _stream: stream };
        open.give();
        Self(Some(open))
    }

    /// Nobody asks for more.
    fn close(&mut self) {
        let Some(open) = self.0.take() else { return };
        if !open.is_whole() {
            return;
        }
        open.entry.complete();
        if open.delimited == Delimited::Close {
            open.visit.cut.store(false, Ordering::Release);
        }
        if !open.body.is_end_stream() {
            // Whoever counts bytes does not ask for the end. It must be read all the same: a request that is still
            // being sent would be cut with the stream.
            let shared = Arc::clone(&open.visit.shared);
            shared.visits.spawn(until_cut(shared.cut.clone(), open.read_end()));
        }
    }
}

impl Open {
    /// Something of it is with the visitor now.
    fn give(&mut self) {
        if let Some(stalls) = self.visit.stalls.as_ref().filter(|_| !self.given) {
            stalls.give();
            self.given = true;
        }
    }

    /// The visitor asks for more, or does not need to.
    fn take_back(&mut self) {
        if let Some(stalls) = self.visit.stalls.as_ref().filter(|_| self.given) {
            stalls.take_back();
            self.given = false;
        }
    }

    fn is_whole(&self) -> bool {
        self.body.is_end_stream() || self.delimited == Delimited::Length(0)
    }

    fn count(&mut self, sent: usize) {
        self.entry.sent(sent);
        if let Delimited::Length(left) = &mut self.delimited {
            *left = left.saturating_sub(sent as u64);
        }
    }

    async fn read_end(mut self) {
        // Whether it comes or not: the visitor has its answer.
        let _ = tokio::time::timeout(LAST_FRAME, self.body.frame()).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl Drop for ForwardedBody {
    fn drop(&mut self) {
        self.close();
    }
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(None) };
        open.take_back();
        let frame = ready!(Pin::new(&mut open.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                open.count(frame.data_ref().map_or(0, Bytes::len));
                open.give();
            }
            Some(Err(_)) => {
                let is_grpc = open.delimited == Delimited::Grpc;
                // Not whole: dropping it cuts the stream.
                self.0 = None;
                if is_grpc {
                    return Poll::Ready(Some(Ok(Frame::trailers(Failure::TunnelLost.grpc_trailers()))));
                }
            }
            None => self.close(),
        }
        Poll::Ready(frame.map(|frame| Ok(with_clean_trailers(frame?, clean_answer_trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.body.is_end_stream())
    }
}
