//! The visitor's side of an exchange.

use std::time::Duration;

use tokio::sync::oneshot;

use super::StreamFailure;
use crate::link::body::FrameBody;
use crate::link::framed::FrameReader;
use crate::link::session::Stream;
use crate::protocol::decode::Event;
use crate::protocol::frame::Reset;

/// How often a request whose body is not being read checks whether the visitor is still there.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The visitor, observed for the whole exchange: the exchange ends when the visitor leaves.
#[derive(Debug)]
pub(super) enum Visitor {
    /// The exchange itself reads the stream.
    Reading(FrameReader),
    /// The request's body reads the stream, and returns the reader at its end.
    Lent(oneshot::Receiver<FrameReader>, Stream),
    /// The request is incomplete.
    Gone,
}

impl Visitor {
    /// Lends the reader to the request's body.
    pub(super) fn lend_reader(&mut self) -> Result<FrameBody, StreamFailure> {
        let (sender, receiver) = oneshot::channel();
        let Self::Reading(reader) = self else { return Err(StreamFailure::Reset(Reset::Protocol)) };
        let stream = reader.stream().clone();
        match std::mem::replace(self, Self::Lent(receiver, stream)) {
            Self::Reading(reader) => Ok(FrameBody::lent(reader, sender)),
            Self::Lent(..) | Self::Gone => Err(StreamFailure::Reset(Reset::Protocol)),
        }
    }

    /// Reads the end of a request that has no body: it came with the head.
    pub(super) fn read_end(&mut self, upgrades: bool) -> Result<(), StreamFailure> {
        match self {
            Self::Reading(reader) if !upgrades => match reader.buffered() {
                Ok(Some(Event::End) | None) => Ok(()),
                _ => Err(StreamFailure::Reset(Reset::Protocol)),
            },
            _ => Ok(()),
        }
    }

    /// Resolves when the visitor has left. Cancel-safe.
    pub(super) async fn disconnected(&mut self) {
        loop {
            match self {
                Self::Reading(reader) => match reader.event().await {
                    // The part of the body that the backend did not read.
                    Ok(Event::Data(_) | Event::Trailers(_) | Event::End) => {}
                    // Closed, reset, or a violation of the protocol.
                    _ => return,
                },
                // While the backend does not read the body, a reset goes unnoticed: check at intervals.
                Self::Lent(back, stream) => match tokio::time::timeout(CHECK_INTERVAL, back).await {
                    Ok(Ok(reader)) => *self = Self::Reading(reader),
                    // The body is incomplete.
                    Ok(Err(_)) => *self = Self::Gone,
                    Err(_) if stream.is_closed() => *self = Self::Gone,
                    Err(_) => {}
                },
                Self::Gone => return,
            }
        }
    }
}
