//! The bodies of requests to backends and of their responses.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::agent::backend::error::BackendError;
use crate::agent::backend::in_process::InProcessBody;
use crate::agent::backend::local::http1::Http1Body;
use crate::agent::backend::local::replay::poll_replayed;
use crate::link::body::{BodyError, FrameBody};
use crate::protocol::fields::{clean_request_trailers, with_clean_trailers};
use crate::protocol::frame::Reset;
use crate::transport::whole::WholeBody;

/// The body of a request on its way to a backend.
#[derive(Debug)]
pub(in crate::agent) enum RequestBody {
    /// The request has none.
    Empty,
    /// The frames of the stream.
    Framed(Box<FrameBody>),
    /// The same, after the backend has asked for it (RFC 9110, section 10.1.1).
    Deferred(oneshot::Receiver<()>, Box<FrameBody>),
    /// Data that was sent before and is sent again, and the rest.
    Replayed(VecDeque<Bytes>, Box<RequestBody>),
}

/// The request body from the stream, without trailers that must not reach an application. Current servers remove them, too.
fn poll_clean(body: &mut FrameBody, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let frame = ready!(Pin::new(body).poll_frame(cx));
    Poll::Ready(frame.map(|frame| Ok(with_clean_trailers(frame?, clean_request_trailers))))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Framed(body) => poll_clean(body, cx),
            Self::Deferred(go, body) => {
                if !go.is_terminated() && ready!(Pin::new(go).poll(cx)).is_err() {
                    // The exchange is over.
                    return Poll::Ready(Some(Err(BodyError::Reset(Reset::Cancelled))));
                }
                poll_clean(body, cx)
            }
            Self::Replayed(sent, rest) => poll_replayed(sent, rest, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Framed(body) | Self::Deferred(_, body) => body.is_end_stream(),
            Self::Replayed(sent, rest) => sent.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Framed(body) | Self::Deferred(_, body) => body.size_hint(),
            Self::Replayed(..) => SizeHint::default(),
        }
    }
}

/// The body of a response.
#[derive(Debug)]
pub(in crate::agent) enum ResponseBody {
    Http1(Http1Body),
    Hyper(WholeBody),
    InProcess(Box<InProcessBody>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BackendError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BackendError>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(BackendError::from),
            Self::InProcess(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Hyper(body) => body.is_end_stream(),
            Self::InProcess(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Hyper(body) => body.size_hint(),
            Self::InProcess(body) => body.size_hint(),
        }
    }
}

/// Moves a request out of the place where it was lent. A function that took it by value would hold it twice.
pub(in crate::agent) fn take_request(request: &mut Request<RequestBody>) -> Request<RequestBody> {
    std::mem::replace(request, Request::new(RequestBody::Empty))
}
