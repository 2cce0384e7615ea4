//! The body of a visitor's request: still on its way, or held until it is known whether it may go on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

use crate::limits::Portion;
use crate::protocol::fields::{clean_request_trailers, with_clean_trailers};
use crate::server::http_connection::interim::Interim;
use crate::server::ingress::pipeline::min_rate::MinRate;
use crate::transport::whole::{IncompleteError, WholeBody};

/// The size of the first piece of a held body, and of the largest, in bytes.
const PIECES: (usize, usize) = (4 * 1024, 64 * 1024);

/// A request's body.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// Passed on as it comes.
    Coming(WholeBody),
    /// Over HTTP/2: passed on as it comes. The visitor waits to be asked for it (`Expect: 100-continue`).
    Unasked(Box<Unasked>),
    /// Here in full.
    Held(Box<HeldBody>),
    /// Somebody else has it.
    Taken,
}

/// A body that the visitor does not send before it is asked for it.
#[derive(Debug)]
pub(crate) struct Unasked {
    interim: Interim,
    body: WholeBody,
}

/// A body in memory, in pieces that were counted before they were made. What a visitor sends in crumbs is put together,
/// so that it takes no more than it is.
#[derive(Debug)]
pub(crate) struct HeldBody {
    pieces: VecDeque<BytesMut>,
    trailers: Option<HeaderMap>,
    length: usize,
    /// Somebody has begun to take it. An empty one is a body all the same before that.
    begun: bool,
    /// What of it is counted. It gets smaller as the body is taken.
    portion: Portion,
}

/// Why a body could not be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldError {
    /// It is larger than it may be.
    TooLarge,
    /// There is no room for it now, or its room is needed for others.
    NoRoom,
    /// Too little of it came for too long.
    Slow,
    /// It broke off.
    Broken,
}

impl HeldBody {
    fn new(portion: Portion) -> Self {
        Self { pieces: VecDeque::new(), trailers: None, length: 0, begun: false, portion }
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
                    if !self.portion.grow(size) {
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
        let data = self.pieces.pop_front().map(|piece| {
            self.portion.shrink(piece.capacity());
            Frame::data(piece.freeze())
        });
        data.or_else(|| self.trailers.take().map(Frame::trailers))
    }
}

impl RequestBody {
    /// The body, for whoever sends it.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Taken)
    }

    /// Cancelled when the room of a held body is needed for others; `None` if it is not held.
    pub(crate) fn evicted(&self) -> Option<CancellationToken> {
        match self {
            Self::Held(body) => Some(body.portion.evicted().clone()),
            Self::Coming(_) | Self::Unasked(_) | Self::Taken => None,
        }
    }

    /// Says that the visitor waits to be asked for the body. Reading it is what asks.
    pub(crate) fn wait_to_be_asked(&mut self, interim: &Interim) {
        *self = match self.take() {
            Self::Coming(body) => Self::Unasked(Box::new(Unasked { interim: interim.clone(), body })),
            other => other,
        };
    }

    /// Returns whether the visitor waits to be asked for the body, over HTTP/2.
    pub(crate) fn is_unasked(&self) -> bool {
        matches!(self, Self::Unasked(_))
    }

    /// Returns the body as one that is read without asking for it.
    pub(crate) fn without_asking(self) -> Self {
        match self {
            Self::Unasked(unasked) => Self::Coming(unasked.body),
            other => other,
        }
    }

    /// Reads the body to its end and keeps it, trailers included; `look` sees each piece. Reading it is what asks a
    /// visitor for it that waits (`Expect: 100-continue`). It has to come at a [`MinRate`].
    ///
    /// # Errors
    /// It is not held, and what was read of it is lost.
    pub(crate) async fn hold(
        &mut self,
        most: usize,
        portion: Portion,
        mut min_rate: MinRate,
        mut look: impl FnMut(&[u8]),
    ) -> Result<(), HoldError> {
        let evicted = portion.evicted().clone();
        let mut held = HeldBody::new(portion);
        loop {
            let frame = tokio::select! {
                biased;
                () = evicted.cancelled() => return Err(HoldError::NoRoom),
                frame = min_rate.watch(self.frame()) => frame.ok_or(HoldError::Slow)?,
            };
            let Some(frame) = frame else { break };
            match frame.map_err(|_| HoldError::Broken)?.into_data() {
                Ok(data) => {
                    min_rate.moved(data.len());
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
        if let Self::Unasked(unasked) = &*self {
            unasked.interim.ask();
            *self = self.take().without_asking();
        }
        match &mut *self {
            Self::Coming(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| Ok(with_clean_trailers(frame?, clean_request_trailers))))
            }
            Self::Held(body) => Poll::Ready(body.next().map(Ok)),
            Self::Unasked(_) | Self::Taken => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Coming(body) => body.is_end_stream(),
            Self::Unasked(unasked) => unasked.body.is_end_stream(),
            Self::Held(body) => body.begun && body.pieces.is_empty() && body.trailers.is_none(),
            Self::Taken => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Coming(body) => body.size_hint(),
            Self::Unasked(unasked) => unasked.body.size_hint(),
            Self::Held(body) => SizeHint::with_exact(body.pieces.iter().map(|piece| piece.len() as u64).sum()),
            Self::Taken => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{AddressKey, Owner, SharedBudget};

    fn held(budget: &SharedBudget) -> HeldBody {
        HeldBody::new(budget.portion(holder("alice", 1)))
    }

    fn holder(client: &str, address: u8) -> Owner {
        let address = AddressKey::new([192, 0, 2, address].into(), 64);
        Owner { client: client.parse().unwrap(), service: client.parse().unwrap(), address }
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
        let budget = SharedBudget::new(10 << 20);
        let shapes = [(1, 1), (5_000, 1), (4_096, 4_096), (300_000, 7), (1_000_000, 100_000)];
        for ((length, piece), spare) in shapes.into_iter().flat_map(|shape| [(shape, 0), (shape, 1 << 20)]) {
            let most = length + spare;
            let sent: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
            let mut body = held(&budget);
            for piece in sent.chunks(piece) {
                body.push(Bytes::copy_from_slice(piece), most).unwrap();
            }
            body.trailers = Some(HeaderMap::new());
            assert!(
                (length..=most.min(length.max(PIECES.0) + PIECES.1)).contains(&budget.in_use()),
                "{length} of {most}"
            );
            let capacity: usize = body.pieces.iter().map(BytesMut::capacity).sum();
            assert_eq!(capacity, budget.in_use(), "what it takes is what was counted");
            assert_eq!(body.push(Bytes::from(vec![0; spare + 1]), most), Err(HoldError::TooLarge));
            assert_eq!(taken(&mut body), (sent, true));
            assert_eq!(budget.in_use(), 0, "what was taken is not counted any more");
            let body = RequestBody::Held(Box::new(body));
            assert!(body.is_end_stream() && body.size_hint().exact() == Some(0));
        }
    }

    #[test]
    fn a_body_without_room_leaves_the_budget_as_it_was() {
        let budget = SharedBudget::new(PIECES.0);
        let mut body = held(&budget);
        assert_eq!(body.push(Bytes::from(vec![0; PIECES.0]), 1 << 20), Ok(()));
        assert_eq!(body.push(Bytes::from_static(b"!"), 1 << 20), Err(HoldError::NoRoom));
        drop(body);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn a_held_body_hears_that_its_room_is_needed() {
        let budget = SharedBudget::new(90_000);
        let mut body = held(&budget);
        body.push(Bytes::from(vec![0; 40_000]), 1 << 20).unwrap();
        let body = RequestBody::Held(Box::new(body));
        let evicted = body.evicted().unwrap();
        let mut other = HeldBody::new(budget.portion(holder("bob", 2)));
        assert!(!evicted.is_cancelled());
        other.push(Bytes::from(vec![0; 20_000]), 1 << 20).unwrap();
        assert!(evicted.is_cancelled());
    }

    #[test]
    fn an_empty_body_is_one_until_it_is_taken() {
        let budget = SharedBudget::new(0);
        let mut body = RequestBody::Held(Box::new(held(&budget)));
        assert!(!body.is_end_stream());
        let RequestBody::Held(inner) = &mut body else { panic!("it was held") };
        assert!(inner.next().is_none());
        assert!(body.is_end_stream());
    }
}
