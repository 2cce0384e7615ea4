//! Frames over a stream: one reader and one writer, which may live in different tasks.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::mux::MuxStream;
use crate::protocol::WireError;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::frame::{self, MAX_DATA, Reset};

/// Frames up to this size are gathered into one write; larger data goes straight to the stream, without that copy.
const GATHER: usize = 16 * 1024;

/// Why reading stopped before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The stream stopped without an end frame: the peer, its session or the lane is gone.
    #[error("the stream was cut")]
    Cut,
    /// The peer does not follow the protocol.
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
}

/// Reads the frames of one direction.
#[derive(Debug)]
pub struct FrameReader {
    stream: MuxStream,
    decoder: Decoder,
    input: Bytes,
}

impl FrameReader {
    /// Reads `stream` by the rules of `decoder`.
    pub fn new(stream: MuxStream, decoder: Decoder) -> Self {
        Self { stream, decoder, input: Bytes::new() }
    }

    /// The next event. Cancel-safe: what was read stays here.
    ///
    /// # Errors
    /// The stream was cut, or the peer broke the protocol, which also cuts the stream.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, ReadError>> {
        loop {
            if let Some(event) = self.buffered()? {
                return Poll::Ready(Ok(event));
            }
            match ready!(self.stream.poll_read(cx)) {
                Some(bytes) => self.input = bytes,
                None => return Poll::Ready(Err(ReadError::Cut)),
            }
        }
    }

    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// As [`FrameReader::poll_event`].
    pub async fn event(&mut self) -> Result<Event, ReadError> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The next event that needs no further input, if there is one.
    ///
    /// # Errors
    /// The peer broke the protocol, which also cuts the stream.
    pub fn buffered(&mut self) -> Result<Option<Event>, ReadError> {
        let event = self.decoder.next(&mut self.input).inspect_err(|_| self.stream.abort())?;
        if matches!(event, Some(Event::End)) {
            self.stream.read_ended();
        }
        Ok(event)
    }

    /// Whether the direction is complete, or was reset.
    pub fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// The stream that is read.
    pub fn stream(&self) -> &MuxStream {
        &self.stream
    }
}

/// Writes the frames of one direction.
#[derive(Debug)]
pub struct FrameWriter {
    stream: MuxStream,
    /// Frames gathered for the next write.
    gathered: BytesMut,
}

impl FrameWriter {
    /// Writes on `stream`.
    pub fn new(stream: MuxStream) -> Self {
        Self { stream, gathered: BytesMut::new() }
    }

    /// Where small frames are gathered until [`FrameWriter::flush`].
    pub fn gather(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    /// Whether nothing waits to be flushed.
    pub fn is_flushed(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Sends what was gathered. Cancel-safe: what was not sent stays gathered.
    ///
    /// # Errors
    /// The stream or its session is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.gathered.is_empty() {
            let n = poll_fn(|cx| self.stream.poll_write(cx, &self.gathered)).await?;
            self.gathered.advance(n);
        }
        Ok(())
    }

    /// Sends `data`, cut into frames; a little of it may wait for the next flush.
    /// Not cancel-safe: if it is dropped half-way, the stream must be given up.
    ///
    /// # Errors
    /// The stream or its session is gone.
    pub async fn data(&mut self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let mut piece = data.split_to(data.len().min(MAX_DATA));
            self.gathered.extend_from_slice(&frame::data_header(piece.len()));
            if self.gathered.len() + piece.len() <= GATHER {
                self.gathered.extend_from_slice(&piece);
                continue;
            }
            self.flush().await?;
            while !piece.is_empty() {
                let n = poll_fn(|cx| self.stream.poll_write(cx, &piece)).await?;
                piece.advance(n);
            }
        }
        Ok(())
    }

    /// Says that this direction is complete, and sends what was gathered.
    ///
    /// # Errors
    /// The stream or its session is gone.
    pub async fn end(&mut self) -> io::Result<()> {
        frame::put_end(&mut self.gathered);
        self.flush().await?;
        self.stream.write_ended();
        Ok(())
    }

    /// Breaks the exchange off and says why, if there is room to say so at once. The stream is cut either way.
    pub fn reset(&mut self, reason: Reset) {
        frame::put_reset(&mut self.gathered, reason);
        let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
        while !self.gathered.is_empty() {
            match self.stream.poll_write(&mut cx, &self.gathered) {
                Poll::Ready(Ok(n)) => self.gathered.advance(n),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        self.stream.abort();
    }

    /// The stream that is written.
    pub fn stream(&self) -> &MuxStream {
        &self.stream
    }
}
