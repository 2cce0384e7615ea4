//! HTTP bodies that end only when their message is complete.
//!
//! hyper reports a clean end of an HTTP/2 body when the stream was reset with `NO_ERROR`, and for a connection that goes
//! away without an error. An HTTP/2 message is complete with `END_STREAM` and in no other way (RFC 9113, section 8.1).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Why an incoming body did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub enum IncompleteError {
    /// The connection or its peer failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The peer reset the stream without an error code, before the end of the message.
    #[error("the stream was reset before the end of the message")]
    Reset,
}

/// A body as hyper receives it. It ends if, and only if, the whole message has arrived.
#[derive(Debug)]
pub struct WholeBody {
    body: Incoming,
    is_http2: bool,
    is_broken: bool,
}

impl WholeBody {
    /// Wraps a body of HTTP/1. hyper reports each incomplete one as an error.
    pub fn http1(body: Incoming) -> Self {
        Self { body, is_http2: false, is_broken: false }
    }

    /// Wraps a body of HTTP/2.
    pub fn http2(body: Incoming) -> Self {
        Self { body, is_http2: true, is_broken: false }
    }
}

impl Body for WholeBody {
    type Data = Bytes;
    type Error = IncompleteError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncompleteError>>> {
        let this = &mut *self;
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(frame) => Some(frame.map_err(IncompleteError::from)),
            // Of a stream that was reset, or lost with its connection, this says no. A connection that is lost at this
            // very moment makes a complete body an incomplete one, never the other way round.
            None if this.is_http2 && !this.body.is_end_stream() => Some(Err(IncompleteError::Reset)),
            None if this.is_broken => Some(Err(IncompleteError::Reset)),
            None => None,
        };
        this.is_broken |= matches!(frame, Some(Err(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        !self.is_broken && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
