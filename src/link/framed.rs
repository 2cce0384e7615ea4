//! Frames over a stream: one reader and one writer, which may live in different tasks.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::session::Stream;
use crate::protocol::WireError;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::frame::{self, MAX_DATA, Reset};

/// Frames up to this size are gathered into one write; larger data goes straight to the stream, without that copy.
const GATHER: usize = 16 * 1024;

/// Room for what is gathered first.
const FIRST: usize = 512;

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
    stream: Stream,
    decoder: Decoder,
    input: Bytes,
}

impl FrameReader {
    /// Reads `stream` by the rules of `decoder`.
    pub fn new(stream: Stream, decoder: Decoder) -> Self {
        Self { stream, decoder, input: Bytes::new() }
    }

    /// The next event. Cancel-safe: what was read stays here.
    ///
    /// # Errors
    /// The stream was cut, or the peer broke the protocol, which also cuts the stream.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, ReadError>> {
        loop {
            match self.buffered() {
                Ok(None) => {}
                Ok(Some(event)) => return Poll::Ready(Ok(event)),
                Err(error) => return Poll::Ready(Err(error.into())),
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
    pub fn buffered(&mut self) -> Result<Option<Event>, WireError> {
        let event = self.decoder.next(&mut self.input);
        if self.input.is_empty() {
            // Move the buffer into the event; otherwise the reader would hold it while it waits for more.
            self.input = Bytes::new();
        }
        match &event {
            Ok(Some(Event::End)) => self.stream.read_ended(),
            Ok(_) => {}
            Err(_) => self.stream.abort(),
        }
        event
    }

    /// Whether the direction is complete, or was reset.
    pub fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// The stream that is read.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

/// Writes the frames of one direction.
#[derive(Debug)]
pub struct FrameWriter {
    stream: Stream,
    /// Frames gathered for the next write.
    gathered: BytesMut,
    /// How many bytes of an announced data frame were not sent yet. Whatever is written now would be taken for them.
    owed: usize,
}

impl FrameWriter {
    /// Writes on `stream`.
    pub fn new(stream: Stream) -> Self {
        Self { stream, gathered: BytesMut::new(), owed: 0 }
    }

    /// Where small frames are gathered until [`FrameWriter::flush`].
    pub fn gather(&mut self) -> &mut BytesMut {
        if self.gathered.capacity() == 0 {
            // Most heads fit, so that it grows once.
            self.gathered.reserve(FIRST);
        }
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
            self.owed = piece.len();
            self.flush().await?;
            while !piece.is_empty() {
                let n = poll_fn(|cx| self.stream.poll_write(cx, &piece)).await?;
                piece.advance(n);
                self.owed = piece.len();
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

    /// Breaks the exchange off and says why, if there is room to say so at once and no data frame is half-way out. The
    /// stream is cut either way.
    pub fn reset(&mut self, reason: Reset) {
        if self.owed == 0 {
            frame::put_reset(&mut self.gathered, reason);
            self.send_now();
        }
        self.stream.abort();
    }

    /// Like [`FrameWriter::reset`], after sending all buffered data: waits for the peer's window. If the future is dropped
    /// early, the caller must still cut the stream.
    pub async fn break_off(&mut self, reason: Reset) {
        if self.owed == 0 {
            frame::put_reset(&mut self.gathered, reason);
            // A peer that is gone needs no reset.
            let _ = self.flush().await;
        }
        self.stream.abort();
    }

    /// Sends what there is room for, without waiting.
    fn send_now(&mut self) {
        while !self.gathered.is_empty()
            && let Ok(n @ 1..) = self.stream.write_now(&self.gathered)
        {
            self.gathered.advance(n);
        }
    }

    /// The stream that is written.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Pair, answer, pattern, stays_pending, within};
    use super::*;

    /// All data up to the next other event.
    async fn data(reader: &mut FrameReader) -> (Vec<u8>, Result<Event, ReadError>) {
        let mut all = Vec::new();
        loop {
            match within(reader.event()).await {
                Ok(Event::Data(data)) => all.extend_from_slice(&data),
                other => return (all, other),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn data_of_every_size_arrives_as_it_was() {
        let mut pair = Pair::with(super::super::testing::CONFIG, 10_000);
        for size in [0, 1, GATHER - 5, GATHER - 4, GATHER, GATHER + 1, MAX_DATA - 1, MAX_DATA, MAX_DATA + 1, 1 << 20] {
            let (mut writer, mut reader) = answer(&mut pair).await;
            let sent = Bytes::from(pattern(size));
            let write = async {
                writer.data(Bytes::from_static(b"before")).await.unwrap();
                writer.data(sent.clone()).await.unwrap();
                writer.data(Bytes::from_static(b"after")).await.unwrap();
                writer.end().await.unwrap();
                assert!(writer.is_flushed());
            };
            let ((), (got, end)) = tokio::join!(write, data(&mut reader));
            assert_eq!(end, Ok(Event::End), "{size}");
            assert!(got == [b"before", &*sent, b"after"].concat(), "{size}");
            assert!(reader.is_done() && reader.stream().is_read_ended() && !reader.stream().is_complete());
            reader.stream().write_ended();
            assert!(reader.stream().is_complete());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_arrives_after_what_was_queued() {
        for mut pair in Pair::of_each_carrier() {
            let (mut writer, mut reader) = answer(&mut pair).await;
            writer.data(Bytes::from(pattern(100_000))).await.unwrap();
            writer.data(Bytes::from_static(b"gathered")).await.unwrap();
            writer.reset(Reset::LocalBroken);
            let (got, end) = data(&mut reader).await;
            assert!(got == [&*pattern(100_000), b"gathered"].concat());
            assert_eq!(end, Ok(Event::Reset(Reset::LocalBroken)));
            assert!(reader.is_done());
            assert!(writer.data(Bytes::from_static(b"x")).await.is_ok() && writer.flush().await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn breaking_off_waits_for_room_and_loses_nothing() {
        let mut pair = Pair::new();
        let (mut writer, mut reader) = answer(&mut pair).await;
        // The second piece is gathered and does not fit the window.
        let (first, second) = (pattern(255_000), pattern(9_000));
        writer.data(Bytes::from(first.clone())).await.unwrap();
        writer.data(Bytes::from(second.clone())).await.unwrap();
        assert!(!writer.is_flushed());
        let ((), (got, end)) = tokio::join!(writer.break_off(Reset::LocalBroken), data(&mut reader));
        assert!(got == [first, second].concat());
        assert_eq!(end, Ok(Event::Reset(Reset::LocalBroken)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_after_the_end_arrives() {
        for mut pair in Pair::of_each_carrier() {
            let (mut writer, mut reader) = answer(&mut pair).await;
            writer.end().await.unwrap();
            assert_eq!(within(reader.event()).await, Ok(Event::End));
            writer.reset(Reset::Cancelled);
            assert_eq!(within(reader.event()).await, Ok(Event::Reset(Reset::Cancelled)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_is_never_taken_for_the_rest_of_a_frame() {
        let mut pair = Pair::new();
        let (mut writer, mut reader) = answer(&mut pair).await;
        let sent = Bytes::from(pattern(1 << 20));
        stays_pending(writer.data(sent.clone())).await;
        // Now there is room again, in the middle of a frame.
        let mut got = Vec::new();
        while got.len() < 250_000 {
            let Ok(Event::Data(data)) = within(reader.event()).await else { panic!("no data") };
            got.extend_from_slice(&data);
        }
        stays_pending(std::future::pending::<()>()).await;
        writer.reset(Reset::Idle);
        let (rest, end) = data(&mut reader).await;
        got.extend_from_slice(&rest);
        assert_eq!(end, Err(ReadError::Cut));
        assert!(sent.starts_with(&got), "{} bytes and something else", got.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_never_an_end() {
        for cut in [
            |writer: FrameWriter, _: &Pair| drop(writer),
            |writer: FrameWriter, _: &Pair| writer.stream().abort(),
            |_: FrameWriter, pair: &Pair| pair.agent.session.close(),
            |_: FrameWriter, pair: &Pair| pair.server.session.close(),
            |_: FrameWriter, pair: &Pair| pair.agent.driver.abort(),
        ] {
            for mut pair in Pair::of_each_carrier() {
                let (mut writer, mut reader) = answer(&mut pair).await;
                writer.data(Bytes::from_static(b"some")).await.unwrap();
                writer.flush().await.unwrap();
                assert_eq!(within(reader.event()).await, Ok(Event::Data(Bytes::from_static(b"some"))));
                cut(writer, &pair);
                assert_eq!(within(reader.event()).await, Err(ReadError::Cut));
                assert!(!reader.is_done() && !reader.stream().is_read_ended());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_breaks_the_protocol_is_cut() {
        for mut pair in Pair::of_each_carrier() {
            let (mut writer, mut reader) = answer(&mut pair).await;
            writer.gather().extend_from_slice(&[99, 0, 0, 0]);
            writer.flush().await.unwrap();
            assert_eq!(within(reader.event()).await, Err(ReadError::Wire(WireError::Invalid("frame kind"))));
            within(async { while writer.data(Bytes::from(pattern(20_000))).await.is_ok() {} }).await;
            assert!(writer.stream().is_closed());
        }
    }
}
