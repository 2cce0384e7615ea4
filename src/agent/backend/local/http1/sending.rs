//! A request on its way to an application.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, request};
use http_body::Body as _;
use tokio::io::ReadBuf;

use super::chunked;
use super::codec::{Framing, NotHttp, put_head, request_framing};
use super::wire::Wire;
use crate::agent::backend::body::RequestBody;
use crate::agent::backend::error::BackendError;
use crate::protocol::frame::Reset;

/// Bytes of a body that are gathered into one write; a larger piece goes as it is, without that copy.
const GATHER: usize = 16 * 1024;

/// Why a request was not sent to its end.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The connection took nothing of it, or only a part of its head.
    Nothing(io::Error),
    /// The connection takes nothing more of it. The application may answer nonetheless.
    Rest(io::Error),
    /// It cannot go on.
    Broken(BackendError),
}

/// A request, and what of it is to be sent. Nothing moves unless it is polled.
#[derive(Debug)]
pub(in crate::agent) struct Sending {
    wire: Option<Arc<Wire>>,
    body: RequestBody,
    /// How much of the body is still to come.
    framing: Framing,
    /// What is sent next: small pieces together, and a large one behind them.
    small: BytesMut,
    large: Bytes,
    kept: Kept,
    /// A piece's last line, once the large one is out.
    owes_line: bool,
    has_ended: bool,
    /// The error that ended its body; the data before it is sent first.
    broken: Option<BackendError>,
}

/// The beginning of `small` that was sent already: of the head until all of it was sent, and of the whole request while it
/// may be sent again.
#[derive(Debug)]
struct Kept {
    /// Bytes of the head; 0 once it has been discarded.
    head: usize,
    /// Bytes that were sent.
    sent: usize,
    /// Whether everything that is sent stays, so that the request can be sent again.
    everything: bool,
}

impl Sending {
    /// A request as it will be sent.
    ///
    /// # Errors
    /// Its head contradicts itself.
    pub(super) fn new(head: &mut request::Parts, body: RequestBody) -> Result<Self, NotHttp> {
        let framing = request_framing(&mut head.headers, !body.is_end_stream())?;
        let mut small = BytesMut::with_capacity(512);
        put_head(&mut small, head, framing);
        let (large, kept) = (Bytes::new(), Kept { head: small.len(), sent: 0, everything: false });
        let (owes_line, has_ended, broken) = (false, false, None);
        Ok(Self { wire: None, body, framing, small, large, kept, owes_line, has_ended, broken })
    }

    /// Sends the request from its beginning over `wire`, and keeps it for another attempt if `keeps` is set. Nothing of it
    /// may have been discarded before.
    pub(super) fn go_over(&mut self, wire: &Arc<Wire>, keeps: bool) {
        (self.kept.sent, self.kept.everything) = (0, keeps);
        self.wire = Some(Arc::clone(wire));
    }

    /// Returns whether all of its head was sent.
    pub(super) fn has_sent_head(&self) -> bool {
        self.kept.sent >= self.kept.head
    }

    /// Returns whether it can be sent again although its head was sent.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.everything && self.broken.is_none()
    }

    /// Returns whether all of it was sent, or as much as ever will be.
    pub(super) fn is_over(&self) -> bool {
        self.wire.is_none()
    }

    /// Discards what is kept for another attempt.
    pub(super) fn discard_kept(&mut self) {
        self.kept.everything = false;
        if self.has_sent_head() {
            self.discard_sent();
        }
    }

    fn discard_sent(&mut self) {
        if self.kept.sent > GATHER {
            // Free the memory of a large head.
            self.small = BytesMut::from(&self.small[self.kept.sent..]);
        } else {
            self.small.advance(self.kept.sent);
        }
        (self.kept.head, self.kept.sent) = (0, 0);
    }

    /// Ready when all of it was sent, or as much as ever will be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        let Some(wire) = self.wire.clone() else { return Poll::Ready(Ok(())) };
        loop {
            if self.broken.is_none() {
                self.broken = self.fill(cx).err();
            }
            if self.small.len() == self.kept.sent && self.large.is_empty() {
                ready!(wire.poll_flush(cx)).map_err(Unsent::Rest)?;
                if let Some(error) = self.broken.take() {
                    // Send nothing more of the body, in particular no end.
                    self.wire = None;
                    return Poll::Ready(Err(Unsent::Broken(error)));
                }
                if !self.has_ended {
                    return Poll::Pending;
                }
                wire.request_sent();
                self.wire = None;
                return Poll::Ready(Ok(()));
            }
            let pieces = [IoSlice::new(&self.small[self.kept.sent..]), IoSlice::new(&self.large)];
            let pieces = if self.large.is_empty() { &pieces[..1] } else { &pieces[..] };
            match ready!(wire.poll_write(cx, pieces)) {
                Ok(0) => return Poll::Ready(Err(self.unsent(io::ErrorKind::WriteZero.into()))),
                Ok(sent) => self.sent(sent),
                Err(error) => return Poll::Ready(Err(self.unsent(error))),
            }
        }
    }

    /// Drives what is left of it, while it is answered. Resolves when the application takes nothing more, or the visitor
    /// gives nothing more. Cancel-safe.
    pub(in crate::agent) async fn go_on(&mut self) {
        // The application has answered: how its request ended is nobody's concern any more.
        let _ = poll_fn(|cx| self.poll(cx)).await;
        self.wire = None;
    }

    /// The same when the answer is over. Resolves also when the application ends the connection, or has said that it
    /// will (RFC 9112, section 9.6).
    pub(in crate::agent) async fn finish(&mut self) {
        let Some(wire) = self.wire.clone().filter(|wire| wire.is_answered()) else { return };
        poll_fn(|cx| {
            if self.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // Nothing may come any more but the end.
            wire.poll_read(cx, &mut ReadBuf::new(&mut [0])).map(drop)
        })
        .await;
        self.wire = None;
    }

    fn unsent(&mut self, error: io::Error) -> Unsent {
        if self.has_sent_head() { Unsent::Rest(error) } else { Unsent::Nothing(error) }
    }

    fn sent(&mut self, bytes: usize) {
        let small = bytes.min(self.small.len() - self.kept.sent);
        self.kept.sent += small;
        if !self.has_sent_head() {
            return;
        }
        if !self.kept.everything {
            self.discard_sent();
        }
        self.large.advance(bytes - small);
        if self.large.is_empty() && std::mem::take(&mut self.owes_line) {
            self.small.extend_from_slice(b"\r\n");
        }
    }

    /// Takes from the body what is there.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), BackendError> {
        while !self.has_ended && self.large.is_empty() && self.small.len() - self.kept.sent < GATHER {
            if self.body.is_end_stream() {
                return self.end(None);
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return self.end(None),
                Poll::Ready(Some(frame)) => {
                    frame.map_err(|error| BackendError::new(Reset::Cancelled, error.to_string()))?
                }
            };
            match frame.into_data() {
                Ok(data) => self.piece(data)?,
                Err(frame) => return self.end(frame.into_trailers().ok()),
            }
        }
        Ok(())
    }

    fn piece(&mut self, data: Bytes) -> Result<(), BackendError> {
        if data.is_empty() {
            return Ok(());
        }
        if self.kept.everything && self.small.len() + data.len() > GATHER {
            self.discard_kept();
        }
        match &mut self.framing {
            Framing::Length(rest) => {
                *rest = rest.checked_sub(data.len() as u64).ok_or_else(|| wrong_length("longer"))?;
            }
            Framing::Chunked | Framing::UntilClose => chunked::put_length(&mut self.small, data.len()),
        }
        let is_chunked = self.framing == Framing::Chunked;
        if self.small.len() + data.len() > GATHER {
            self.large = data;
            self.owes_line = is_chunked;
        } else {
            self.small.extend_from_slice(&data);
            if is_chunked {
                self.small.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), BackendError> {
        match self.framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Err(wrong_length("shorter")),
            Framing::Chunked | Framing::UntilClose => {
                chunked::put_end(&mut self.small, trailers.as_ref());
            }
        }
        self.has_ended = true;
        // It has given the stream back.
        self.body = RequestBody::Empty;
        Ok(())
    }
}

fn wrong_length(how: &str) -> BackendError {
    BackendError::new(Reset::Protocol, format!("the request's body is {how} than its Content-Length"))
}
