//! Which requests may be sent again: those that an HTTP/2 application has refused before processing them (RFC 9113, section
//! 8.7), and idempotent ones whose connection has ended (RFC 9110, section 9.2.2).

use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::agent::backend::body::RequestBody;
use crate::agent::backend::error::causes;
use crate::link::body::{BodyError, Idle};
use crate::transport::delivery::{Piece, Queued};

/// Bytes of a body that are kept until the application has answered. A request that has sent more is not sent again.
const KEPT: usize = 64 * 1024;

/// How long to wait for an application that does not read the data before an incomplete body's abort.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// A body in transit whose first bytes can be replayed. If it is incomplete, the application gets the data before the error.
#[derive(Debug)]
pub(super) struct ReplayableBody {
    state: Arc<Mutex<State>>,
    /// The pieces that the HTTP library holds.
    queued: Arc<Queued>,
    /// The error, kept until the application has the data before it.
    broken: Option<(BodyError, Idle)>,
}

/// Recovers the body for another attempt.
#[derive(Debug)]
pub(super) struct Replay(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    body: RequestBody,
    /// What was sent of it; `None` if that cannot be sent again.
    sent: Option<Vec<Bytes>>,
    length: usize,
}

impl ReplayableBody {
    pub(super) fn new(body: RequestBody) -> (Self, Replay) {
        let state = Arc::new(Mutex::new(State { body, sent: Some(Vec::new()), length: 0 }));
        (Self { state: Arc::clone(&state), queued: Arc::default(), broken: None }, Replay(state))
    }
}

impl Replay {
    /// Returns the whole body, if it is still available. The earlier attempt then finds it empty.
    pub(super) fn take(self) -> Option<RequestBody> {
        let mut state = self.0.lock();
        let sent = state.sent.take()?;
        let rest = std::mem::replace(&mut state.body, RequestBody::Empty);
        Some(if sent.is_empty() { rest } else { RequestBody::Replayed(sent.into(), Box::new(rest)) })
    }
}

impl Drop for Replay {
    /// Stops keeping the data.
    fn drop(&mut self) {
        self.0.lock().sent = None;
    }
}

impl ReplayableBody {
    /// The next frame of the body itself.
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let state = &mut *self.state.lock();
        let frame = ready!(Pin::new(&mut state.body).poll_frame(cx));
        match frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
            None => {}
            Some(Ok(Some(data))) => {
                state.length += data.len();
                match &mut state.sent {
                    Some(sent) if state.length <= KEPT => sent.push(data.clone()),
                    sent => *sent = None,
                }
            }
            // Trailers, or a body that broke off.
            Some(Ok(None) | Err(_)) => state.sent = None,
        }
        Poll::Ready(frame)
    }
}

impl Body for ReplayableBody {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        let this = self.get_mut();
        if this.broken.is_none() {
            match ready!(this.poll_body(cx)) {
                Some(Ok(frame)) => {
                    let queued = &this.queued;
                    return Poll::Ready(Some(Ok(frame.map_data(|data| queued.piece(data)))));
                }
                Some(Err(error)) => this.broken = Some((error, Idle::new(LAST_BYTES))),
                None => return Poll::Ready(None),
            }
        }
        let Some((error, idle)) = &mut this.broken else { return Poll::Ready(None) };
        if this.queued.poll_empty(cx).is_pending() {
            ready!(idle.poll(cx));
        }
        Poll::Ready(Some(Err(*error)))
    }

    fn is_end_stream(&self) -> bool {
        self.state.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let body = &self.state.lock().body;
        // A known length of 0 would become a `Content-Length` that the visitor has not sent.
        if body.is_end_stream() { SizeHint::default() } else { body.size_hint() }
    }
}

/// Polls the next frame of a replayed body.
pub(in crate::agent) fn poll_replayed(
    sent: &mut VecDeque<Bytes>,
    rest: &mut RequestBody,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match sent.pop_front() {
        Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
        None => Pin::new(rest).poll_frame(cx),
    }
}

/// Returns whether a request can be sent twice without doing more than once (RFC 9110, section 9.2.2; RFC 4918 and RFC 3253
/// for `PROPFIND` and `REPORT`, RFC 5323 for `SEARCH`).
pub(super) fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent() || matches!(method.as_str(), "PROPFIND" | "REPORT" | "SEARCH" | "QUERY")
}

/// Returns whether the connection of a request has ended, in whatever way, rather than its stream alone.
pub(super) fn connection_has_ended(error: &hyper::Error) -> bool {
    let ended = |cause: &&(dyn Error + 'static)| {
        cause.is::<std::io::Error>() || cause.to_string().starts_with("connection error received")
    };
    error.is_closed() || causes(error as &(dyn Error + 'static)).iter().any(ended)
}

/// Returns whether the application has not processed a request: it has refused the stream, or ends the connection and names
/// an earlier stream as the last one. hyper reports both in words only.
pub(super) fn was_not_processed(error: &hyper::Error) -> bool {
    const REFUSED: &str = "stream error received: refused stream before processing any application logic";
    const GOING_AWAY: &str = "connection error received: not a result of an error";
    causes(error as &(dyn Error + 'static)).iter().any(|cause| {
        let text = cause.to_string();
        // What the application says behind it is its own.
        text == REFUSED || text.starts_with(GOING_AWAY)
    })
}
