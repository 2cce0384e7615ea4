//! What a peer may make this end hold. Between the pipe and yamux, the guard follows what comes, frame by frame.
//!
//! yamux counts the bytes that wait on a stream, and they fit its window. But it keeps each frame by itself, and a frame
//! of one byte takes forty; it goes on filling streams that are gone; and it answers a violation of its protocol and goes
//! on. The guard bounds all of that. In the other direction it tells control frames from data (`link::write`), and ends a
//! session whose yamux sends a GoAway.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};

use super::{SPLIT_SEND, Side};
use crate::link::write::Layer;
use frame::{ACK, DATA, Frame, HEADER, PING, RST, SYN, WINDOW_UPDATE, pong};
use outgoing::Outgoing;

mod frame;
mod ledger;
mod outgoing;

pub(super) use ledger::{Held, Ledger};
pub use ledger::{SPARED, Unread};

/// How many streams an agent may open in the life of a session. One is its control stream.
const AGENT_STREAMS: u32 = 16;

/// The error of a session whose yamux sends a GoAway.
const BROKEN: &str = "the peer violated the multiplexer's protocol";

/// Where the reading of a frame stands.
#[derive(Clone, Copy)]
enum Incoming {
    /// So many bytes of a header have come.
    Header(usize),
    /// So many bytes of a header were passed on.
    Passing(usize),
    /// So many bytes of a body are still to come.
    Body(usize),
    /// The same of a body that nobody may read.
    Unwanted(usize),
}

/// The end of the pipe that yamux sees.
pub(crate) struct Guard {
    layer: Layer,
    ledger: Arc<Ledger>,
    side: Side,
    header: [u8; HEADER],
    incoming: Incoming,
    /// What follows the header that is passed on.
    then: Incoming,
    begun: u32,
    outgoing: Outgoing,
}

impl Guard {
    pub(crate) fn new(layer: Layer, ledger: Arc<Ledger>, side: Side) -> Self {
        let start = Incoming::Header(0);
        let outgoing = Outgoing::default();
        Self { layer, ledger, side, header: [0; HEADER], incoming: start, then: start, begun: 0, outgoing }
    }

    /// Looks at a whole header.
    fn check(&mut self) -> io::Result<()> {
        let Frame { kind, flags, stream, length } = Frame::of(&self.header);
        let begins = matches!(kind, DATA | WINDOW_UPDATE) && flags & SYN != 0;
        self.then = Incoming::Header(0);
        if begins {
            self.begun = self.begun.saturating_add(1);
            if self.side == Side::Server && self.begun > AGENT_STREAMS {
                return Err(broken("the agent opens streams"));
            }
            let first = if kind == DATA { length } else { 0 };
            self.ledger.begins(stream, first);
        }
        if kind != DATA || length == 0 {
            return Ok(());
        }
        if length > SPLIT_SEND {
            return Err(broken("a frame is too large"));
        }
        // yamux does not look at what comes along with a reset.
        let wanted = flags & RST == 0 && (begins || self.ledger.may_wait(stream, length));
        if wanted {
            self.then = Incoming::Body(length);
        } else {
            // Its flags still count.
            self.header[8..].fill(0);
            self.then = Incoming::Unwanted(length);
        }
        Ok(())
    }

    /// Answers a ping, which yamux never sees: its own answer to one would take the place of the next frame that it reads.
    fn answer_ping(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Frame { kind, flags, stream, length } = Frame::of(&self.header);
        let is_ping = self.header[0] == 0 && kind == PING && flags & ACK == 0;
        // yamux sends no ping about a stream. It writes each frame as a whole before it reads, so this is between two.
        if is_ping && stream == 0 {
            self.layer.push(cx, &pong(length as u32), true)?;
        }
        Ok(is_ping)
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.incoming {
                Incoming::Header(have) => {
                    let n = ready!(Pin::new(&mut self.layer).poll_read(cx, &mut self.header[have..]))?;
                    if n == 0 {
                        return Poll::Ready(Ok(0));
                    }
                    self.incoming = Incoming::Header(have + n);
                    if have + n < HEADER {
                        continue;
                    }
                    if self.answer_ping(cx)? {
                        self.incoming = Incoming::Header(0);
                        continue;
                    }
                    self.check()?;
                    self.incoming = Incoming::Passing(0);
                }
                Incoming::Passing(given) => {
                    let n = buffer.len().min(HEADER - given);
                    buffer[..n].copy_from_slice(&self.header[given..given + n]);
                    self.incoming = if given + n == HEADER { self.then } else { Incoming::Passing(given + n) };
                    return Poll::Ready(Ok(n));
                }
                Incoming::Body(left) => {
                    let most = buffer.len().min(left);
                    let n = ready!(self.poll_pipe(cx, &mut buffer[..most]))?;
                    self.incoming = if n == left { Incoming::Header(0) } else { Incoming::Body(left - n) };
                    return Poll::Ready(Ok(n));
                }
                Incoming::Unwanted(left) => {
                    let mut scratch = [0; 1024];
                    let most = scratch.len().min(left);
                    let n = ready!(self.poll_pipe(cx, &mut scratch[..most]))?;
                    if n == 0 {
                        return Poll::Ready(Ok(0));
                    }
                    self.incoming = if n == left { Incoming::Header(0) } else { Incoming::Unwanted(left - n) };
                }
            }
        }
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.layer).poll_read(cx, buffer)
    }
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.outgoing.sent_go_away {
            return Poll::Ready(Err(broken(BROKEN)));
        }
        this.poll_incoming(cx, buffer)
    }
}

impl AsyncWrite for Guard {
    /// Accepts all of `bytes`.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { outgoing, layer, .. } = self.get_mut();
        outgoing.written(bytes, |part, is_control| layer.push(cx, part, is_control))?;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Ready at once: the session driver sends everything together.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().layer.poll_close(cx)
    }
}

/// Returns why yamux has ended with `error`: the guard's own words, if it was the guard.
pub(super) fn reason(error: &yamux::ConnectionError) -> String {
    match error {
        yamux::ConnectionError::Decode(yamux::FrameDecodeError::Io(io))
            if io.kind() == io::ErrorKind::InvalidData && io.get_ref().is_some() =>
        {
            io.to_string()
        }
        other => other.to_string(),
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
