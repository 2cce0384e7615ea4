//! The body of an answer, or the connection that it becomes.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunked::{Chunked, Part};
use super::codec::{Framing, NotHttp};
use super::wire::Wire;
use crate::agent::backend::error::BackendError;
use crate::link::copy::{LEAST, MOST, next_piece};

/// Read at once while nobody knows how much will come: into the stack, so that whoever waits for an application holds no
/// memory for what it will say.
const FIRST: usize = 16 * 1024;

/// Adds to `input` what has come; the number of bytes is 0 at the end of the connection.
pub(super) fn poll_first(wire: &Wire, input: &mut Bytes, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut space = [const { MaybeUninit::uninit() }; FIRST];
    let mut buffer = ReadBuf::uninit(&mut space);
    ready!(wire.poll_read(cx, &mut buffer))?;
    let came = buffer.filled();
    *input = if input.is_empty() { Bytes::copy_from_slice(came) } else { [input, came].concat().into() };
    Poll::Ready(Ok(came.len()))
}

#[derive(Debug)]
enum Decoder {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// The body of an answer.
#[derive(Debug)]
pub(in crate::agent) struct Http1Body {
    /// Gone when the body has ended.
    wire: Option<Arc<Wire>>,
    /// What has come and was not given out.
    input: Bytes,
    decoder: Decoder,
    space: BytesMut,
    /// How much is read at once.
    piece: usize,
    /// The connection may be used again behind it.
    keeps_alive: bool,
    /// It is not empty.
    has_bytes: bool,
}

impl Http1Body {
    /// What follows a head on `wire`, of which `input` has come already.
    pub(super) fn new(wire: Arc<Wire>, input: Bytes, framing: Framing, keeps_alive: bool) -> Self {
        let decoder = match framing {
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Chunked::default()),
            Framing::UntilClose => Decoder::UntilClose,
        };
        // The end of the connection is the end of such a body.
        let keeps_alive = keeps_alive && framing != Framing::UntilClose;
        let has_bytes = framing != Framing::Length(0);
        Self { wire: Some(wire), input, decoder, space: BytesMut::new(), piece: LEAST, keeps_alive, has_bytes }
    }

    /// The same, if no connection begins with it: then a body of no bytes has ended.
    pub(super) fn settle(&mut self) {
        if matches!(self.decoder, Decoder::Length(0)) {
            self.end();
        }
    }

    /// It cannot go on.
    fn broken(&mut self, text: &str) -> BackendError {
        self.wire = None;
        BackendError::broken(text)
    }

    /// The connection itself, with what has come on it. There is none behind a body that has ended.
    pub(in crate::agent) fn into_connection(self) -> Option<Connection> {
        Some(Connection { wire: self.wire?, input: self.input })
    }

    /// The body was read to its end.
    fn end(&mut self) {
        // What comes behind an answer belongs to no request.
        if let Some(wire) = self.wire.take().filter(|_| self.keeps_alive && self.input.is_empty()) {
            wire.answer_read(self.has_bytes);
        }
    }

    /// What there is of the body; `None` if nothing is.
    fn next(&mut self) -> Result<Option<Part>, NotHttp> {
        match &mut self.decoder {
            Decoder::Chunked(chunked) => chunked.next(&mut self.input),
            Decoder::Length(0) => Ok(Some(Part::End)),
            _ if self.input.is_empty() => Ok(None),
            Decoder::UntilClose => Ok(Some(Part::Data(std::mem::take(&mut self.input)))),
            Decoder::Length(rest) => {
                let length = usize::try_from(*rest).map_or(self.input.len(), |rest| rest.min(self.input.len()));
                *rest -= length as u64;
                Ok(Some(Part::Data(self.input.split_to(length))))
            }
        }
    }

    /// Adds to what has come; `false` at the end of the connection.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Some(wire) = &self.wire else { return Poll::Ready(Ok(false)) };
        let piece = match self.decoder {
            // So much will come: it may be asked for at once.
            Decoder::Length(rest) => usize::try_from(rest).map_or(MOST, |rest| rest.min(MOST)),
            _ => self.piece,
        };
        // The beginning of something whose rest is missing.
        self.space.extend_from_slice(&std::mem::take(&mut self.input));
        self.space.reserve(piece);
        let came = ready!(wire.poll_read_buf(cx, &mut (&mut self.space).limit(piece)))?;
        self.piece = next_piece(self.piece, came);
        self.input = self.space.split().freeze();
        Poll::Ready(Ok(came > 0))
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = BackendError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BackendError>>> {
        let this = &mut *self;
        while this.wire.is_some() {
            let frame = match this.next().map_err(BackendError::from) {
                Ok(Some(Part::Data(data))) => Frame::data(data),
                Ok(Some(Part::Trailers(trailers))) => Frame::trailers(trailers),
                Ok(Some(Part::End)) => {
                    this.end();
                    break;
                }
                Ok(None) => match ready!(this.poll_more(cx)) {
                    Ok(true) => continue,
                    Ok(false) if matches!(this.decoder, Decoder::UntilClose) => {
                        this.end();
                        break;
                    }
                    Ok(false) => return Poll::Ready(Some(Err(this.broken("it closed in the middle of its answer")))),
                    Err(error) => return Poll::Ready(Some(Err(this.broken(&error.to_string())))),
                },
                Err(error) => return Poll::Ready(Some(Err(this.broken(&error.text)))),
            };
            if matches!(this.decoder, Decoder::Length(0)) {
                this.end();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.wire.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.decoder {
            Decoder::Length(rest) => SizeHint::with_exact(rest),
            Decoder::Chunked(_) | Decoder::UntilClose => SizeHint::default(),
        }
    }
}

/// What an exchange has become: a connection that is nobody else's.
#[derive(Debug)]
pub(in crate::agent) struct Connection {
    wire: Arc<Wire>,
    /// What has come behind the head.
    input: Bytes,
}

impl Connection {
    /// As [`Stream::reset`](crate::agent::backend::local::dial::Stream::reset).
    pub(in crate::agent) async fn reset(&self, limit: Duration) {
        self.wire.reset(limit).await;
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return self.wire.poll_read(cx, buffer);
        }
        let length = self.input.len().min(buffer.remaining());
        buffer.put_slice(&self.input.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wire.poll_write(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_shutdown(cx)
    }
}
