//! The body of a visitor's request: still on its way, or held until it is known whether it may go on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::limits::Share;
use crate::protocol::fields::{clean_request_trailers, with_clean_trailers};
use crate::transport::body::Idle;
use crate::transport::whole::{IncompleteError, WholeBody};

/// The size of the first piece of a held body, and of the largest, in bytes.
const PIECES: (usize, usize) = (4 * 1024, 64 * 1024);

/// A request's body.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// Passed on as it comes.
    Coming(WholeBody),
    /// Here in full.
    Held(Box<HeldBody>),
    /// Somebody else has it.
    Taken,
}

/// A body in memory, in pieces that were counted before they were made. What a visitor sends in crumbs is put together,
/// so that it takes no more than it is.
#[derive(Debug)]
pub(super) struct HeldBody {
    pieces: VecDeque<BytesMut>,
    trailers: Option<HeaderMap>,
    length: usize,
    /// Somebody has begun to take it. An empty one is a body all the same before that.
    begun: bool,
    /// Its part of each budget, until it is dropped.
    shares: [Share; 2],
}

/// Why a body could not be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldError {
    /// It is larger than it may be.
    TooLarge,
    /// One of the budgets has no room for it now.
    NoRoom,
    /// Nothing of it came for too long.
    Idle,
    /// It broke off.
    Broken,
}

impl HeldBody {
    fn new(shares: [Share; 2]) -> Self {
        Self { pieces: VecDeque::new(), trailers: None, length: 0, begun: false, shares }
    }

    fn push(&mut self, mut data: Bytes, most: usize) -> Result<(), HoldError> {
        if data.len() > most - self.length {
            return Err(HoldError::TooLarge);
        }
        while !data.is_empty() {
            let last = match self.pieces.back_mut() {
                Some(last) if last.len() < last.capacity() => last,
                _ => {
                    let size = self.length.clamp(PIECES.0, PIECES.1).min(most - self.length);
                    if !self.shares.iter_mut().all(|share| share.grow(size)) {
                        return Err(HoldError::NoRoom);
                    }
                    self.pieces.push_back(BytesMut::with_capacity(size));
                    continue;
                }
            };
            let fitting = data.len().min(last.capacity() - last.len());
            last.extend_from_slice(&data[..fitting]);
            data.advance(fitting);
            self.length += fitting;
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        self.begun = true;
        let data = self.pieces.pop_front().map(|piece| Frame::data(piece.freeze()));
        data.or_else(|| self.trailers.take().map(Frame::trailers))
    }
}

impl RequestBody {
    /// The body, for whoever sends it.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Taken)
    }

    /// Reads the body to its end and keeps it, trailers included; `look` sees each piece. Reading it is what asks a
    /// visitor for it that waits (`Expect: 100-continue`). `idle` bounds the time between two pieces.
    ///
    /// # Errors
    /// It is not held, and what was read of it is lost.
    pub(super) async fn hold(
        &mut self,
        most: usize,
        shares: [Share; 2],
        idle: Duration,
        mut look: impl FnMut(&[u8]),
    ) -> Result<(), HoldError> {
        let (mut held, mut idle) = (HeldBody::new(shares), Idle::new(idle));
        while let Some(frame) = idle.watch(self.frame()).await.ok_or(HoldError::Idle)? {
            match frame.map_err(|_| HoldError::Broken)?.into_data() {
                Ok(data) => {
                    look(&data);
                    held.push(data, most)?;
                }
                Err(frame) => held.trailers = frame.into_trailers().ok(),
            }
        }
        *self = Self::Held(Box::new(held));
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = IncompleteError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncompleteError>>> {
        match &mut *self {
            Self::Coming(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| Ok(with_clean_trailers(frame?, clean_request_trailers))))
            }
            Self::Held(body) => Poll::Ready(body.next().map(Ok)),
            Self::Taken => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Coming(body) => body.is_end_stream(),
            Self::Held(body) => body.begun && body.pieces.is_empty() && body.trailers.is_none(),
            Self::Taken => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Coming(body) => body.size_hint(),
            Self::Held(body) => SizeHint::with_exact(body.pieces.iter().map(|piece| piece.len() as u64).sum()),
            Self::Taken => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Budget;

    fn held(budget: &Budget, other: &Budget) -> HeldBody {
        HeldBody::new([budget.share(), other.share()])
    }

    fn taken(body: &mut HeldBody) -> (Vec<u8>, bool) {
        let (mut data, mut has_trailers) = (Vec::new(), false);
        while let Some(frame) = body.next() {
            match frame.into_data() {
                Ok(piece) => {
                    assert!(!piece.is_empty() && piece.len() <= PIECES.1 && !has_trailers);
                    data.extend_from_slice(&piece);
                }
                Err(_) => has_trailers = true,
            }
        }
        (data, has_trailers)
    }

    #[test]
    fn what_is_held_comes_out_as_it_went_in() {
        let (budget, other) = (Budget::new(10 << 20), Budget::new(10 << 20));
        let shapes = [(1, 1), (5_000, 1), (4_096, 4_096), (300_000, 7), (1_000_000, 100_000)];
        for ((length, piece), spare) in shapes.into_iter().flat_map(|shape| [(shape, 0), (shape, 1 << 20)]) {
            let most = length + spare;
            let sent: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
            let mut body = held(&budget, &other);
            for piece in sent.chunks(piece) {
                body.push(Bytes::copy_from_slice(piece), most).unwrap();
            }
            body.trailers = Some(HeaderMap::new());
            assert!(
                (length..=most.min(length.max(PIECES.0) + PIECES.1)).contains(&budget.in_use()),
                "{length} of {most}"
            );
            assert_eq!(other.in_use(), budget.in_use());
            let capacity: usize = body.pieces.iter().map(BytesMut::capacity).sum();
            assert_eq!(capacity, budget.in_use(), "what it takes is what was counted");
            assert_eq!(body.push(Bytes::from(vec![0; spare + 1]), most), Err(HoldError::TooLarge));
            assert_eq!(taken(&mut body), (sent, true));
            let body = RequestBody::Held(Box::new(body));
            assert!(body.is_end_stream() && body.size_hint().exact() == Some(0));
            drop(body);
            assert_eq!((budget.in_use(), other.in_use()), (0, 0));
        }
    }

    #[test]
    fn a_budget_without_room_leaves_the_other_as_it_was() {
        let (small, large) = (Budget::new(PIECES.0), Budget::new(1 << 20));
        for (one, two) in [(&small, &large), (&large, &small)] {
            let mut body = held(one, two);
            assert_eq!(body.push(Bytes::from(vec![0; PIECES.0]), 1 << 20), Ok(()));
            assert_eq!(body.push(Bytes::from_static(b"!"), 1 << 20), Err(HoldError::NoRoom));
            drop(body);
            assert_eq!((small.in_use(), large.in_use()), (0, 0));
        }
    }

    #[test]
    fn an_empty_body_is_one_until_it_is_taken() {
        let budget = Budget::new(0);
        let mut body = RequestBody::Held(Box::new(held(&budget, &budget)));
        assert!(!body.is_end_stream());
        let RequestBody::Held(inner) = &mut body else { panic!("it was held") };
        assert!(inner.next().is_none());
        assert!(body.is_end_stream());
    }
}
