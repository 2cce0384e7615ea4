//! The body of a forwarded response. It detects that the visitor has all of it or has left, and delivers the data before
//! the error of an incomplete one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use crate::link::body::{BodyError, FrameBody, Idle};
use crate::protocol::fields::{clean_answer_trailers, with_clean_trailers};
use crate::server::ingress::connection::ConnectionContext;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::forward::abort_on_drop::AbortOnDrop;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::transport::delivery::{Piece, Queued};
use crate::transport::streams::BEFORE_RESET;

/// How long the end of an answer may take that the visitor has in full already.
const LAST_FRAME: Duration = Duration::from_secs(10);

/// How the visitor can tell that it has the whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delimited {
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
pub(crate) struct ForwardedBody(State);

#[derive(Debug)]
enum State {
    /// Nothing is left of it.
    Over,
    /// It comes over a stream. In a box: a response moves through many functions.
    Open(Box<Open>),
    /// It has broken off. In a box: few do.
    Breaking(Box<Breaking>),
}

#[derive(Debug)]
struct Open {
    body: FrameBody,
    delimited: Delimited,
    exchange: Arc<ForwardedExchange>,
    connection: Arc<ConnectionContext>,
    /// Over HTTP/2: its head or a piece of it is with the visitor.
    given: bool,
    /// Over HTTP/2: what of it the library holds.
    queued: Option<Arc<Queued>>,
    /// How long the visitor may take nothing.
    idle: Duration,
    stream: AbortOnDrop,
}

/// An incomplete body: the visitor gets the data before the error, and then the error. The HTTP library alone would
/// discard unsent data.
#[derive(Debug)]
struct Breaking {
    error: BodyError,
    sent: Sent,
    open: Box<Open>,
}

/// Waits until the visitor has the data before the error.
#[derive(Debug)]
enum Sent {
    /// Over HTTP/1: the socket.
    Flushed,
    /// Over HTTP/2: all pieces are out, and so is the head, after this pass; unless nothing moves for too long.
    Passed(Arc<Queued>, u64, Idle),
    /// Over HTTP/2: it has left. The visitor has [`BEFORE_RESET`] to read it.
    Reading(Idle),
}

impl ForwardedBody {
    /// Nothing: the answer to an upgrade has no body.
    pub(crate) fn empty() -> Self {
        Self(State::Over)
    }

    /// What comes as `body` over `stream`. A visitor that takes nothing for `idle` is given up.
    pub(crate) fn new(
        body: FrameBody,
        delimited: Delimited,
        exchange: Arc<ForwardedExchange>,
        connection: Arc<ConnectionContext>,
        stream: AbortOnDrop,
        idle: Duration,
    ) -> Self {
        if delimited == Delimited::Close {
            connection.signals.close.set_cut(true);
        }
        let queued = connection.is_http2().then(Arc::default);
        let mut open = Box::new(Open { body, delimited, exchange, connection, given: false, queued, idle, stream });
        open.give();
        Self(State::Open(open))
    }

    /// Nobody asks for more.
    fn close(&mut self) {
        let State::Open(open) = std::mem::replace(&mut self.0, State::Over) else { return };
        if !open.is_whole() {
            return;
        }
        open.exchange.complete();
        if open.delimited == Delimited::Close {
            open.connection.signals.close.set_cut(false);
        }
        if !open.body.is_end_stream() {
            // Whoever counts bytes does not ask for the end. It must be read all the same: a request that is still
            // being sent would be cut with the stream.
            let ingress = Arc::clone(&open.connection.ingress);
            ingress.spawn(open.read_end());
        }
    }
}

impl Open {
    /// Something of it is with the visitor now.
    fn give(&mut self) {
        if let Some(stall) = self.connection.http2.as_ref().map(|http2| &http2.stall).filter(|_| !self.given) {
            stall.give();
            self.given = true;
        }
    }

    /// The visitor asks for more, or does not need to.
    fn take_back(&mut self) {
        if let Some(stall) = self.connection.http2.as_ref().map(|http2| &http2.stall).filter(|_| self.given) {
            stall.take_back();
            self.given = false;
        }
    }

    /// A piece, as the HTTP library gets it.
    fn piece(&self, data: Bytes) -> Piece {
        match &self.queued {
            Some(queued) => queued.piece(data),
            None => data.into(),
        }
    }

    fn is_whole(&self) -> bool {
        self.body.is_end_stream() || self.delimited == Delimited::Length(0)
    }

    fn count(&mut self, sent: usize) {
        self.exchange.sent(sent);
        if let Delimited::Length(left) = &mut self.delimited {
            *left = left.saturating_sub(sent as u64);
        }
    }

    /// It is not whole. What is still sent of the request is of no use either.
    fn break_off(mut self: Box<Self>, error: BodyError) -> Breaking {
        self.stream.0.abort();
        // Release its share of the tunnel, too, however long the visitor takes.
        self.exchange.release();
        // Now it is the visitor's turn.
        self.give();
        let sent = match self.queued.take() {
            None => Sent::Flushed,
            Some(queued) => Sent::Passed(queued, self.connection.passes.ask(), Idle::new(self.idle)),
        };
        Breaking { error, sent, open: self }
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
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        let open = match &mut self.0 {
            State::Over => return Poll::Ready(None),
            State::Breaking(breaking) => return breaking.poll_frame(cx),
            State::Open(open) => open,
        };
        open.take_back();
        let frame = ready!(Pin::new(&mut open.body).poll_frame(cx));
        match frame {
            Some(Ok(frame)) => {
                open.count(frame.data_ref().map_or(0, Bytes::len));
                open.give();
                let frame = with_clean_trailers(frame, clean_answer_trailers);
                Poll::Ready(Some(Ok(frame.map_data(|data| open.piece(data)))))
            }
            Some(Err(error)) => self.broken(error, cx),
            None => {
                self.close();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Over => true,
            State::Open(open) => open.body.is_end_stream(),
            State::Breaking(_) => false,
        }
    }
}

impl ForwardedBody {
    /// The stream brings no more of a body that has not ended.
    fn broken(&mut self, error: BodyError, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        // The visitor has all that was announced: this is the end for it.
        let is_whole = matches!(&self.0, State::Open(open) if open.is_whole());
        if is_whole {
            self.close();
            return Poll::Ready(None);
        }
        let State::Open(open) = std::mem::replace(&mut self.0, State::Over) else { return Poll::Ready(None) };
        if open.delimited == Delimited::Grpc {
            // Not whole: dropping it cuts the stream.
            return Poll::Ready(Some(Ok(Frame::trailers(Failure::TunnelLost.grpc_trailers()))));
        }
        let mut breaking = Box::new(open.break_off(error));
        let frame = breaking.poll_frame(cx);
        self.0 = State::Breaking(breaking);
        frame
    }
}

impl Breaking {
    /// Yields the error when the visitor has the data before it.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        if let Sent::Passed(queued, pass, idle) = &mut self.sent {
            if queued.poll_empty(cx).is_pending() || self.open.connection.passes.poll_done(*pass, cx).is_pending() {
                // Its window is closed, and may stay closed.
                ready!(idle.poll(cx));
            }
            self.sent = Sent::Reading(Idle::new(BEFORE_RESET));
        }
        match &mut self.sent {
            Sent::Reading(pause) => ready!(pause.poll(cx)),
            _ => ready!(self.open.connection.signals.close.poll_sent(cx)),
        }
        Poll::Ready(Some(Err(self.error)))
    }
}
