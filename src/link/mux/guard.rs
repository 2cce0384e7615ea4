//! What a peer may make this end hold. Between the pipe and yamux, it reads along what comes, frame by frame.
//!
//! yamux counts the bytes that wait on a stream, and they fit its window. But it keeps each frame by itself, and a frame
//! of one byte takes forty; it goes on filling streams that are gone as long as the peer takes nothing; and whoever
//! breaks its rules is told so and goes on. Here all of that has an end.
//!
//! Reading never waits for writing. yamux stops reading while its answer to a ping, or its GoAway, waits to be written;
//! two ends in that state deadlock (rust-yamux issue 227). So the guard answers pings itself, and yamux never sees one
//! ([`Guard::answer_pings`]); and a session whose yamux has a pending GoAway ends immediately
//! ([`Ledger::is_reading`]).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::coalesce::Coalesce;
use super::stream::Halves;
use super::{SPLIT_SEND, Side};
use outgoing::{Outgoing, Owed};

mod outgoing;

/// A frame's header: version, kind, flags (2), stream (4), length (4).
const HEADER: usize = 12;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;
const SYN: u16 = 1;
const ACK: u16 = 2;
const RST: u16 = 8;

/// What yamux needs for a frame that waits, beside its bytes: a place in a queue and an allocation.
const FRAME_COST: usize = 64;

/// So many frames smaller than [`FRAME_COST`] may wait on one stream. A window is full before, unless they carry less
/// than 16 bytes each.
const MAX_SMALL: usize = 16 * 1024;

/// So much may wait on a stream even if there is too much in all: who reads what comes goes on.
pub const SPARED: usize = 64 * 1024;

/// The log hears of cut streams once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// So many streams may an agent open in the life of a session. One is its control stream.
const AGENT_STREAMS: u32 = 16;

/// The error of a session whose yamux sends a GoAway.
pub(crate) const BROKEN: &str = "the peer violated the multiplexer's protocol";

/// What waits to be read on the streams of several sessions together: bytes, and [`FRAME_COST`] for each frame.
///
/// Beyond the limit, which may change at any time, streams on which more than [`SPARED`] wait are cut as soon as more
/// comes for them.
#[derive(Debug)]
pub struct Unread {
    limit: AtomicUsize,
    bytes: AtomicUsize,
    /// When the log was last told of that.
    told: Mutex<Option<Instant>>,
}

impl Unread {
    /// At most `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(limit), bytes: AtomicUsize::new(0), told: Mutex::new(None) })
    }

    /// At most `limit` bytes from now on.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Something was cut because too much waits in all.
    fn tell(&self) {
        let mut told = self.told.lock();
        if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
            *told = Some(Instant::now());
            let (unread, limit) = (self.bytes(), self.limit());
            tracing::warn!(unread, limit, "too much waits for slow readers: those who hold most of it are cut");
        }
    }

    /// How much waits now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What waits to be read on one stream. It comes back to the [`Unread`] of all of them in [`Ledger::read`] and
/// [`Ledger::gone`].
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: usize,
    small: usize,
}

impl Held {
    /// Whether anything waits.
    pub(crate) fn is_some(&self) -> bool {
        self.bytes > 0
    }
}

/// The streams of a session that somebody may read.
pub(crate) struct Ledger {
    unread: Arc<Unread>,
    streams: Mutex<Streams>,
    /// yamux has read all there is, in this turn of the driver's.
    reading: AtomicBool,
}

#[derive(Default)]
struct Streams {
    open: HashMap<u32, Weak<Halves>, BuildHasherDefault<Spread>>,
    /// The stream that the peer has begun last, and what came along with its beginning.
    begun: Option<(u32, usize)>,
}

/// Spreads stream numbers, which count up in steps of two. Cheap: it runs for each frame. A peer that chooses its numbers gains
/// nothing, it has few.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

impl Ledger {
    pub(crate) fn new(unread: Arc<Unread>) -> Arc<Self> {
        Arc::new(Self { unread, streams: Mutex::default(), reading: AtomicBool::new(false) })
    }

    /// The driver begins a turn.
    pub(crate) fn begin_turn(&self) {
        self.reading.store(false, Ordering::Relaxed);
    }

    /// Returns whether yamux has read all available data and waits for more. If it is idle but does not wait, it has a
    /// pending GoAway that it cannot send: the peer has violated the protocol, and yamux reads no more.
    pub(crate) fn is_reading(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }

    /// A stream is open. Under the connection's lock, so that nothing comes for it before.
    pub(crate) fn opened(&self, id: u32, stream: &Arc<Halves>) {
        let mut streams = self.streams.lock();
        streams.open.insert(id, Arc::downgrade(stream));
        let first = streams.begun.take_if(|(begun, _)| *begun == id);
        drop(streams);
        if let Some((_, length)) = first {
            stream.arrived(|held| self.add(held, length));
        }
    }

    /// Nobody reads it any more. What has not been read is not counted any more either.
    pub(crate) fn gone(&self, id: u32, held: &mut Held) {
        self.streams.lock().open.remove(&id);
        self.unread.bytes.fetch_sub(held.bytes, Ordering::Relaxed);
        *held = Held::default();
    }

    /// A frame with `length` bytes was read.
    pub(crate) fn read(&self, held: &mut Held, length: usize) {
        let cost = (length + FRAME_COST).min(held.bytes);
        held.bytes -= cost;
        if length < FRAME_COST {
            held.small = held.small.saturating_sub(1);
        }
        self.unread.bytes.fetch_sub(cost, Ordering::Relaxed);
    }

    /// Counts a frame that will wait; says whether that is not too much.
    fn add(&self, held: &mut Held, length: usize) -> bool {
        if length == 0 {
            return true;
        }
        let cost = length + FRAME_COST;
        held.bytes += cost;
        if length < FRAME_COST {
            held.small += 1;
        }
        let all = self.unread.bytes.fetch_add(cost, Ordering::Relaxed) + cost;
        held.small <= MAX_SMALL && (all <= self.unread.limit() || held.bytes <= SPARED)
    }

    /// Whether a frame that comes for stream `id` may wait to be read. A stream that holds too much is cut.
    fn may_wait(&self, id: u32, length: usize) -> bool {
        let stream = self.streams.lock().open.get(&id).and_then(Weak::upgrade);
        let Some(stream) = stream else { return false };
        match stream.arrived(|held| self.add(held, length)) {
            Some(true) => true,
            Some(false) => {
                tracing::debug!(stream = id, "more waits on a stream than may: it is cut");
                if self.unread.bytes() > self.unread.limit() {
                    self.unread.tell();
                }
                stream.cut();
                false
            }
            None => false,
        }
    }
}

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
    layer: Coalesce,
    ledger: Arc<Ledger>,
    side: Side,
    header: [u8; HEADER],
    incoming: Incoming,
    /// What follows the header that is passed on.
    then: Incoming,
    begun: u32,
    outgoing: Outgoing,
    owed: Owed,
}

impl Guard {
    pub(crate) fn new(layer: Coalesce, ledger: Arc<Ledger>, side: Side) -> Self {
        let start = Incoming::Header(0);
        let (outgoing, owed) = (Outgoing::default(), Owed::default());
        Self { layer, ledger, side, header: [0; HEADER], incoming: start, then: start, begun: 0, outgoing, owed }
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
            self.ledger.streams.lock().begun = Some((stream, first));
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

    /// A ping is answered here, and never passed on.
    fn is_ping(&mut self) -> bool {
        let Frame { kind, flags, stream, length } = Frame::of(&self.header);
        let is_ping = self.header[0] == 0 && kind == PING && flags & ACK == 0;
        // One about a stream is nothing that yamux sends.
        if is_ping && stream == 0 {
            self.owed.add(length as u32);
        }
        is_ping
    }

    /// Sends the answers to pings before yamux's next frame, if there is room and no frame is half sent.
    fn answer_pings(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outgoing.is_between_frames()
            && let Some(pong) = self.owed.next()
        {
            ready!(self.layer.poll_push(cx, &pong))?;
            self.owed.sent();
        }
        Poll::Ready(Ok(()))
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
                    if self.is_ping() {
                        self.incoming = Incoming::Header(0);
                        // A later turn sends the rest: see `poll_flush`.
                        if let Poll::Ready(Err(error)) = self.answer_pings(cx) {
                            return Poll::Ready(Err(error));
                        }
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
        if this.outgoing.said_goodbye {
            return Poll::Ready(Err(broken(BROKEN)));
        }
        let read = this.poll_incoming(cx, buffer);
        if read.is_pending() {
            this.ledger.reading.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Guard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.answer_pings(cx))?;
        let n = ready!(Pin::new(&mut this.layer).poll_write(cx, bytes))?;
        this.outgoing.sent(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // yamux comes here in each turn in which it has no frame to send; there may be room by now. It does not wait.
        if let Poll::Ready(Err(error)) = this.answer_pings(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.layer).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().layer).poll_close(cx)
    }
}

struct Frame {
    kind: u8,
    flags: u16,
    stream: u32,
    length: usize,
}

impl Frame {
    fn of(header: &[u8; HEADER]) -> Self {
        let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        Self { kind, flags: u16::from_be_bytes([f0, f1]), stream: u32::from_be_bytes([s0, s1, s2, s3]), length }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
