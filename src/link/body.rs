//! Between frames and HTTP bodies, in both directions and in constant memory.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::framed::{FrameReader, FrameWriter, ReadError};
use crate::protocol::decode::Event;
use crate::protocol::exchange;
use crate::protocol::frame::Reset;

/// Why a body stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The stream was cut, or the peer broke the protocol.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The peer broke the exchange off.
    #[error("the exchange was broken off: {}", .0.word())]
    Reset(Reset),
    /// Nothing came for longer than the idle limit.
    #[error("nothing came for longer than the idle limit")]
    Idle,
}

/// A deadline that moves with every sign of life and costs nothing until somebody has to wait.
#[derive(Debug)]
pub struct Idle {
    limit: Duration,
    last: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// Counts `limit` from the last sign of life.
    pub fn new(limit: Duration) -> Self {
        Self { limit, last: None, sleep: None }
    }

    /// Counts another limit from the last sign of life.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Something moved.
    pub fn moved(&mut self) {
        self.last = None;
    }

    /// Ready when nothing has moved for the limit. To be polled while waiting.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.last.get_or_insert_with(Instant::now) + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            // An older deadline rang: something has moved since.
            sleep.as_mut().reset(deadline);
        }
    }

    /// Waits for `future`, but no longer than the limit; `None` when it was exceeded.
    pub async fn watch<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        self.moved();
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await
    }
}

/// The body that comes over a stream.
#[derive(Debug)]
pub struct FrameBody {
    reader: Option<FrameReader>,
    /// What was read to see whether the body ends here. An error is kept too: the decoder says it only once.
    ahead: Option<Result<Event, ReadError>>,
    idle: Option<Idle>,
    /// Who wants the reader when the body is complete.
    back: Option<oneshot::Sender<FrameReader>>,
    /// Why the body broke off. Such a body never ends.
    broken: Option<BodyError>,
}

impl FrameBody {
    /// What follows the head that `reader` has just read. `idle` bounds the time between two pieces. How long it is
    /// stands in the head's own fields; nothing is added to them here.
    pub fn new(reader: FrameReader, idle: Option<Duration>) -> Self {
        let idle = idle.map(Idle::new);
        let mut body = Self { reader: Some(reader), ahead: None, idle, back: None, broken: None };
        body.look_ahead();
        body
    }

    /// As [`FrameBody::new`], without a limit; gives the reader to `back` when the body is complete or not wanted any
    /// more, so that somebody can go on listening for a reset. After an error there is nothing to give back.
    pub fn lent(reader: FrameReader, back: oneshot::Sender<FrameReader>) -> Self {
        let mut body = Self { reader: Some(reader), ahead: None, idle: None, back: Some(back), broken: None };
        body.look_ahead();
        body
    }

    /// Learns early whether the body ends here, if that needs no further input: whoever sends it on can then say so
    /// in the same write.
    fn look_ahead(&mut self) {
        if let Some(reader) = &mut self.reader {
            self.ahead = reader.buffered().map_err(ReadError::from).transpose();
            if self.ahead == Some(Ok(Event::End)) {
                self.complete();
            }
        }
    }

    fn complete(&mut self) {
        if let (Some(reader), Some(back)) = (self.reader.take(), self.back.take()) {
            // Nobody waits for it any more: then nobody needs it.
            let _ = back.send(reader);
        }
        self.ahead = None;
    }

    /// Drops the reader without completing the body: every further poll returns the same error.
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.reader = None;
        self.broken = Some(error);
        Poll::Ready(Some(Err(error)))
    }
}

impl Drop for FrameBody {
    /// Whoever reads by `Content-Length` never asks for the end.
    fn drop(&mut self) {
        self.complete();
    }
}

impl Body for FrameBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Some(reader) = &mut this.reader else { return Poll::Ready(this.broken.map(Err)) };
            let polled = match this.ahead.take() {
                Some(event) => Poll::Ready(event),
                None => reader.poll_event(cx),
            };
            let event = match polled {
                Poll::Ready(Ok(event)) => event,
                Poll::Ready(Err(error)) => return this.fail(error.into()),
                Poll::Pending => {
                    let Some(idle) = &mut this.idle else { return Poll::Pending };
                    ready!(idle.poll(cx));
                    reader.stream().abort();
                    return this.fail(BodyError::Idle);
                }
            };
            if let Some(idle) = &mut this.idle {
                idle.moved();
            }
            match event {
                Event::Data(data) => {
                    this.look_ahead();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Event::Trailers(trailers) => {
                    this.look_ahead();
                    return Poll::Ready(Some(Ok(Frame::trailers(*trailers))));
                }
                Event::End => this.complete(),
                Event::Reset(reason) => return this.fail(BodyError::Reset(reason)),
                // The decoder lets none of these follow a head.
                Event::Preface(_)
                | Event::Status(_)
                | Event::Request(_)
                | Event::Informational(_)
                | Event::Response(_) => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_none() && self.broken.is_none()
    }
}

/// Why a body could not be sent to its end.
#[derive(Debug, thiserror::Error)]
pub enum SendError<E> {
    /// The body itself broke off.
    #[error("the body broke off")]
    Body(E),
    /// Nothing moved for longer than the idle limit.
    #[error("nothing moved for longer than the idle limit")]
    Idle,
    /// The stream is gone: the peer is no longer interested, or lost.
    #[error("the stream is gone")]
    Stream(#[from] io::Error),
    /// The trailers are larger than the protocol allows.
    #[error("the trailers are too large")]
    Trailers,
}

/// Sends `body` to its end, each piece as soon as it is there. What is gathered in `writer` goes out with the first
/// piece, if that is there already. `idle` bounds the time without any movement.
///
/// # Errors
/// The stream has to be given up; nothing but a reset may follow.
pub async fn send_body<B>(
    mut body: Pin<&mut B>,
    writer: &mut FrameWriter,
    idle: Option<Duration>,
    mut meter: impl FnMut(usize),
) -> Result<(), SendError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    let mut idle = idle.map(Idle::new);
    while !body.is_end_stream() {
        // Pieces that are there at once share a write; nothing waits for a piece that is not there.
        let next = poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx))).await;
        let next = match next {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                watch(&mut idle, pin!(writer.flush())).await??;
                watch(&mut idle, poll_fn(|cx| body.as_mut().poll_frame(cx))).await?
            }
        };
        let Some(frame) = next else { break };
        let frame = match frame.map_err(SendError::Body)?.into_data() {
            Ok(data) => {
                meter(data.len());
                watch(&mut idle, pin!(writer.data(data))).await??;
                continue;
            }
            Err(frame) => frame,
        };
        if let Ok(trailers) = frame.into_trailers() {
            exchange::put_trailers(writer.gather(), &trailers).map_err(|_| SendError::Trailers)?;
            break;
        }
    }
    watch(&mut idle, pin!(writer.end())).await??;
    Ok(())
}

/// `future` is held several times: it had better be small.
async fn watch<T, E>(idle: &mut Option<Idle>, future: impl Future<Output = T>) -> Result<T, SendError<E>> {
    match idle {
        Some(idle) => idle.watch(future).await.ok_or(SendError::Idle),
        None => Ok(future.await),
    }
}

#[cfg(test)]
mod tests;
