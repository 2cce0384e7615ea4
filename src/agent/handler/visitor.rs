//! The visitor's side of an exchange.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Refusal;
use crate::link::body::FrameBody;
use crate::link::framed::FrameReader;
use crate::link::mux::MuxStream;
use crate::protocol::decode::Event;
use crate::protocol::frame::Reset;

/// How often a request whose body is not being read looks whether anybody still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A visitor, listened to for the whole of its exchange: a visitor that leaves must not be served on.
#[derive(Debug)]
pub(super) enum Visitor {
    /// Nobody else reads the stream.
    Listened(FrameReader),
    /// The request's body is being read, and gives the reader back at its end.
    Lent(oneshot::Receiver<FrameReader>, MuxStream),
    /// The request broke off.
    Gone,
}

impl Visitor {
    /// Lends the reader to the body of the request.
    pub(super) fn lend(&mut self) -> Result<FrameBody, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let Self::Listened(reader) = self else { return Err(Refusal::Reset(Reset::Protocol)) };
        let stream = reader.stream().clone();
        match std::mem::replace(self, Self::Lent(receiver, stream)) {
            Self::Listened(reader) => Ok(FrameBody::lent(reader, sender)),
            Self::Lent(..) | Self::Gone => Err(Refusal::Reset(Reset::Protocol)),
        }
    }

    /// Reads the end of a request that has no body: it came with the head.
    pub(super) fn read_end(&mut self, upgrades: bool) -> Result<(), Refusal> {
        match self {
            Self::Listened(reader) if !upgrades => match reader.buffered() {
                Ok(Some(Event::End) | None) => Ok(()),
                _ => Err(Refusal::Reset(Reset::Protocol)),
            },
            _ => Ok(()),
        }
    }

    /// Resolves when nobody waits for the answer any more. Cancel-safe.
    pub(super) async fn gone(&mut self) {
        loop {
            match self {
                Self::Listened(reader) => match reader.event().await {
                    // What the application did not want of the body, and its end.
                    Ok(Event::Data(_) | Event::Trailers(_) | Event::End) => {}
                    // Cut, reset, or something that has no place here.
                    _ => return,
                },
                // While the application does not read the body, nobody hears of a reset: look again from time to time.
                Self::Lent(back, stream) => match tokio::time::timeout(LOOK_AGAIN, back).await {
                    Ok(Ok(reader)) => *self = Self::Listened(reader),
                    // The body broke off.
                    Ok(Err(_)) => *self = Self::Gone,
                    Err(_) if stream.is_closed() => *self = Self::Gone,
                    Err(_) => {}
                },
                Self::Gone => return,
            }
        }
    }
}
