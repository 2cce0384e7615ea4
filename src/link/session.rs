//! Sessions and streams, whatever carries them. Code outside of `link` uses only these types for them, and
//! names a carrier only where a session begins.
//!
//! A carrier provides three things: a session that opens streams and can be closed, a driver that moves the bytes and
//! passes on the streams that the peer opens, and the streams themselves. [`mux`] lays them over one byte
//! pipe. A carrier with native streams (QUIC) adds a variant to each of the three enumerations here.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

#[cfg(test)]
use super::carriers::in_process;
use super::carriers::mux;
use super::pulse::Pulse;
use crate::values::SessionId;

/// Why a stream could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The session has ended.
    #[error("the session has ended")]
    Closed,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// This side closed it.
    Closed,
    /// The other side closed it.
    ByPeer,
    /// The connection broke, or the peer violated the carrier's protocol.
    Broken(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::ByPeer => f.write_str("closed by the other side"),
            Self::Broken(why) => write!(f, "broken: {why}"),
        }
    }
}

/// Calls a method of the carrier's own type.
macro_rules! carried {
    ($value:expr, $carrier:ident => $call:expr) => {
        match $value {
            Self::Mux($carrier) => $call,
            #[cfg(test)]
            Self::InProcess($carrier) => $call,
        }
    };
}

/// A handle to a session: opens streams, and can close the session. Clones refer to the same session.
#[derive(Debug, Clone)]
pub enum Session {
    /// Multiplexed over one byte pipe.
    Mux(mux::MuxSession),
    /// Within one process.
    #[cfg(test)]
    InProcess(in_process::LocalSession),
}

impl Session {
    /// Returns the session's number, unique in this process.
    pub fn id(&self) -> SessionId {
        carried!(self, session => session.id())
    }

    /// Opens a stream and sends `first` on it: up to 64 KiB leave in one frame.
    ///
    /// May wait for the peer: callers set a deadline. Cancel-safe: an opener that is dropped while it waits has opened
    /// nothing.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn open(&self, first: &[u8]) -> Result<Stream, OpenError> {
        match self {
            Self::Mux(session) => session.open(first).await.map(Stream::Mux),
            #[cfg(test)]
            Self::InProcess(session) => session.open(first).await.map(Stream::InProcess),
        }
    }

    /// Returns when bytes last moved.
    pub fn pulse(&self) -> &Arc<Pulse> {
        carried!(self, session => session.pulse())
    }

    /// Returns how many streams this end has opened so far.
    pub fn opened(&self) -> u64 {
        carried!(self, session => session.opened())
    }

    /// Asks the driver to say goodbye and end. Open streams are cut.
    pub fn close(&self) {
        carried!(self, session => session.close());
    }

    /// Returns whether the session is over, or about to be.
    pub fn is_closed(&self) -> bool {
        carried!(self, session => session.is_closed())
    }

    /// Waits for the end of the session.
    pub async fn ended(&self) {
        carried!(self, session => session.ended().await);
    }
}

/// The task that moves a session's bytes. Dropping it ends the session.
#[must_use = "a session moves nothing unless its driver runs"]
pub enum Driver {
    /// Multiplexed over one byte pipe.
    Mux(mux::MuxDriver),
    /// Within one process.
    #[cfg(test)]
    InProcess(in_process::LocalDriver),
}

impl Driver {
    /// Moves bytes until the session ends, and passes each stream that the peer opens to `inbound`.
    ///
    /// A goodbye (after [`Session::close`]) has the time `goodbye` to reach the peer.
    pub async fn run(self, goodbye: Duration, mut inbound: impl FnMut(Stream)) -> Ended {
        match self {
            Self::Mux(driver) => driver.run(goodbye, move |stream| inbound(Stream::Mux(stream))).await,
            #[cfg(test)]
            Self::InProcess(driver) => driver.run(move |stream| inbound(Stream::InProcess(stream))).await,
        }
    }
}

/// One stream of a session, shared by its reader and its writer.
///
/// It is closed properly when both directions have ended. If the last handle is dropped before that, the peer sees a
/// reset.
#[derive(Debug, Clone)]
pub enum Stream {
    /// Multiplexed over one byte pipe.
    Mux(mux::MuxStream),
    /// Within one process.
    #[cfg(test)]
    InProcess(in_process::LocalStream),
}

impl Stream {
    /// Returns the next bytes as they came, without a copy. `None`: finished, reset or lost; a carrier may not say which.
    pub fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        carried!(self, stream => stream.poll_read(cx))
    }

    /// Queues some of `bytes` (they are copied) and returns how many. Waits for room at the peer and in the session's send
    /// queue.
    ///
    /// # Errors
    /// The stream or its session is gone.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        carried!(self, stream => stream.poll_write(cx, bytes))
    }

    /// Queues some of `bytes` without waiting, even if others wait, and returns how many.
    ///
    /// # Errors
    /// The stream or its session is gone.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        carried!(self, stream => stream.write_now(bytes))
    }

    /// Records that the peer has sent everything.
    pub fn read_ended(&self) {
        carried!(self, stream => stream.read_ended());
    }

    /// Records that this side has sent everything.
    pub fn write_ended(&self) {
        carried!(self, stream => stream.write_ended());
    }

    /// Returns whether the peer has sent everything.
    pub fn is_read_ended(&self) -> bool {
        carried!(self, stream => stream.is_read_ended())
    }

    /// Returns whether both directions have ended properly.
    pub fn is_complete(&self) -> bool {
        carried!(self, stream => stream.is_complete())
    }

    /// Cuts the stream now, for every handle: the peer sees a reset after what was already queued.
    pub fn abort(&self) {
        carried!(self, stream => stream.abort());
    }

    /// Returns whether the stream is gone: complete, reset by either side, or its session has ended.
    pub fn is_closed(&self) -> bool {
        carried!(self, stream => stream.is_closed())
    }
}

#[cfg(test)]
impl Session {
    /// Returns the multiplexed session, for the tests of the multiplexer.
    pub(crate) fn mux(&self) -> &mux::MuxSession {
        let Self::Mux(session) = self else { panic!("another carrier") };
        session
    }
}

#[cfg(test)]
impl Stream {
    /// Returns the multiplexed stream, for the tests of the multiplexer.
    pub(crate) fn mux(&self) -> &mux::MuxStream {
        let Self::Mux(stream) = self else { panic!("another carrier") };
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Pair, pattern, read, read_to_end, stays_pending, within, write};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_carrier_moves_bytes_in_both_directions_and_holds_back_a_fast_writer() {
        for mut pair in Pair::of_each_carrier() {
            let (near, far) = pair.stream().await;
            let sent = pattern(3_000_000);
            stays_pending(write(&near, &sent)).await;
            near.abort();
            let got = read_to_end(&far).await;
            assert!(!got.is_empty() && got.len() < sent.len() && sent.starts_with(&got), "{}", got.len());

            let (near, far) = pair.stream().await;
            let (forth, back) = tokio::join!(write(&near, &sent[..40_000]), write(&far, &sent[..50_000]));
            assert!(forth.is_ok() && back.is_ok());
            near.write_ended();
            far.write_ended();
            let (mut there, mut here) = (Vec::new(), Vec::new());
            while there.len() < 40_000 {
                there.extend_from_slice(&read(&far).await.unwrap());
            }
            while here.len() < 50_000 {
                here.extend_from_slice(&read(&near).await.unwrap());
            }
            assert!(there == sent[..40_000] && here == sent[..50_000]);
            assert!(!near.is_complete() && !near.is_closed());
            near.read_ended();
            assert!(near.is_complete() && near.is_closed() && near.is_read_ended());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_carrier_cuts_the_streams_of_a_session_that_ends() {
        for mut pair in Pair::of_each_carrier() {
            let (near, far) = pair.stream().await;
            assert_eq!(pair.server.session.opened(), 1);
            pair.agent.session.close();
            assert!(pair.agent.session.is_closed());
            assert_eq!((read(&near).await, read(&far).await), (None, None));
            within(pair.server.session.ended()).await;
            assert!(pair.server.session.is_closed());
            assert_eq!(within(pair.server.session.open(b"!")).await.err(), Some(OpenError::Closed));
            assert!(near.write_now(b"x").is_err());
            let mut ends = [within(pair.drivers.join_next()).await, within(pair.drivers.join_next()).await]
                .map(|end| end.unwrap().unwrap().to_string());
            ends.sort();
            assert_eq!(ends, ["closed", "closed by the other side"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_carrier_resets_a_stream_whose_last_handle_is_dropped() {
        for mut pair in Pair::of_each_carrier() {
            let (near, far) = pair.stream().await;
            let other = near.clone();
            write(&near, b"last").await.unwrap();
            drop(near);
            assert_eq!(read(&far).await.as_deref(), Some(&b"last"[..]));
            drop(other);
            assert_eq!(read(&far).await, None);
            assert!(!far.is_complete());
        }
    }
}
