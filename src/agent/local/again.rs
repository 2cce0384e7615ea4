//! Requests that an HTTP/2 application has refused unseen, and that are therefore sent again (RFC 9113, section 8.7).

use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::RequestBody;
use super::trouble::causes;
use crate::transport::body::BodyError;

/// Bytes of a body that are kept until the application has answered. A request that has sent more is not sent again.
const KEPT: usize = 64 * 1024;

/// A body on its way, whose beginning can be taken back.
#[derive(Debug)]
pub(super) struct Recallable(Arc<Mutex<State>>);

/// Takes it back.
#[derive(Debug)]
pub(super) struct Recall(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    body: RequestBody,
    /// What was sent of it; `None` if that cannot be sent again.
    sent: Option<Vec<Bytes>>,
    length: usize,
}

impl Recallable {
    pub(super) fn new(body: RequestBody) -> (Self, Recall) {
        let state = Arc::new(Mutex::new(State { body, sent: Some(Vec::new()), length: 0 }));
        (Self(Arc::clone(&state)), Recall(state))
    }
}

impl Recall {
    /// The whole body again, if it can be had. Whoever still sends it finds it empty.
    pub(super) fn take(self) -> Option<RequestBody> {
        let mut state = self.0.lock();
        let sent = state.sent.take()?;
        let rest = std::mem::replace(&mut state.body, RequestBody::Empty);
        Some(if sent.is_empty() { rest } else { RequestBody::Again(sent.into(), Box::new(rest)) })
    }
}

impl Drop for Recall {
    /// Nobody takes it back any more: nothing is kept.
    fn drop(&mut self) {
        self.0.lock().sent = None;
    }
}

impl Body for Recallable {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let state = &mut *self.0.lock();
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

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}

/// The next frame of a body whose beginning is sent again.
pub(super) fn poll_again(
    sent: &mut VecDeque<Bytes>,
    rest: &mut RequestBody,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match sent.pop_front() {
        Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
        None => Pin::new(rest).poll_frame(cx),
    }
}

/// Whether the application says that it has done nothing with a request: it has refused the stream, or ends the
/// connection and names an earlier stream as the last one it has taken. hyper tells both in words only.
pub(super) fn is_unseen(error: &hyper::Error) -> bool {
    const REFUSED: &str = "stream error received: refused stream before processing any application logic";
    const GOING_AWAY: &str = "connection error received: not a result of an error";
    causes(error as &(dyn Error + 'static)).iter().any(|cause| {
        let text = cause.to_string();
        // What the application says behind it is its own.
        text == REFUSED || text.starts_with(GOING_AWAY)
    })
}
