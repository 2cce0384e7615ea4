//! A visitor's socket, with the deadlines that HTTP alone does not have.
//!
//! - A head must come: within `timeouts.head` on a new connection, and that long after its first byte on any; a
//!   connection that is kept for the next request may wait `timeouts.keep_alive` for that byte. HTTP/2 sends more than
//!   heads: a connection without a request is given the same times, told that it ends, and ended.
//! - A visitor that takes nothing for `timeouts.idle` while something waits to be sent is given up: nobody else would
//!   notice, because a body is not asked for more while the socket is full.
//! - A visitor that was answered before it had sent everything may go on for a while after its connection has ended, so
//!   that it gets the answer (`rest`).
//! - An answer that neither has a length nor is chunked (HTTP/1.0) ends with its connection, and so does what became of
//!   an upgrade. If it breaks off, an orderly end would show the visitor half of it as the whole: then the socket ends
//!   with a reset.
//! - What was written before a response broke off is sent before the connection ends (`ending`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use super::ending::Ending;
use super::wire::Wire;
use crate::link::body::Idle;
use crate::server::ingress::entry::lingering_close::{Rest, Unread};
use crate::server::ingress::entry::request_target::{FirstBad, Http1Targets, Http2Targets, Marks};
use crate::server::options::TimeoutOptions;
use crate::transport::delivery::AllSent;
use crate::transport::streams::ResetCodes;

/// Bytes that may wait in the kernel to be sent to a visitor. Without a bound the kernel takes megabytes, and calls a
/// socket writable again only when a third of that has gone: a slow reader would look like one that takes nothing.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// Bounds what waits in the kernel.
///
/// # Errors
/// The system refuses.
#[cfg(target_os = "linux")]
pub(crate) fn bound_unsent(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_tcp_notsent_lowat(UNSENT)
}

/// Other systems have their own bounds.
#[cfg(not(target_os = "linux"))]
pub(crate) fn bound_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// Counts the requests of a connection, and which of them are under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<AtomicU64>);

/// One request that is under way.
#[derive(Debug)]
pub(crate) struct Turn(Arc<AtomicU64>);

/// One request more, in the upper half of the counter; the lower half counts those under way.
const ONE_MORE: u64 = 1 << 32;

impl Turns {
    /// A request has begun.
    pub(crate) fn begin(&self) -> Turn {
        self.0.fetch_add(ONE_MORE + 1, Ordering::AcqRel);
        Turn(Arc::clone(&self.0))
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> u64 {
        self.0.load(Ordering::Acquire) % ONE_MORE
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The deadline of the next head.
#[derive(Debug)]
struct HeadClock {
    turns: Turns,
    /// The counter when it was looked at last: any change starts the clock anew.
    seen: u64,
    /// Some of the head has come.
    begun: bool,
    head: Duration,
    keep_alive: Duration,
    idle: Idle,
    /// HTTP/2: bytes are no sign of a head, and the end is announced before it comes.
    announce: Option<CancellationToken>,
}

impl HeadClock {
    /// Whether a head is being waited for.
    fn is_running(&mut self) -> bool {
        let now = self.turns.0.load(Ordering::Acquire);
        if now != self.seen {
            self.seen = now;
            self.begun = false;
            self.idle.moved();
        }
        now.is_multiple_of(ONE_MORE)
    }

    /// Whether some of a head has come that has made no request yet, or cannot make one.
    fn is_in_a_head(&mut self) -> bool {
        self.is_running() && self.begun
    }

    /// Some bytes have come.
    fn read(&mut self) {
        if self.announce.is_none() && self.is_running() && !self.begun {
            self.begun = true;
            self.idle.moved();
        }
    }

    /// Ready when the head has taken too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_running() {
            // Nobody comes back when the last request ends: it is looked again, and a rest may last up to twice as long.
            self.idle.set_limit(self.keep_alive);
            while self.idle.poll(cx).is_ready() {
                self.idle.moved();
            }
            return Poll::Pending;
        }
        let is_first = self.seen == 0;
        let announced = self.announce.as_ref().is_some_and(CancellationToken::is_cancelled);
        self.idle.set_limit(if is_first || self.begun || announced { self.head } else { self.keep_alive });
        ready!(self.idle.poll(cx));
        let Some(announce) = self.announce.as_ref().filter(|_| !announced) else { return Poll::Ready(()) };
        announce.cancel();
        self.idle.moved();
        self.idle.set_limit(self.head);
        self.idle.poll(cx)
    }
}

/// A visitor's socket.
#[derive(Debug)]
pub(crate) struct VisitorSocket {
    wire: Wire,
    ending: Arc<Ending>,
    clock: HeadClock,
    /// Runs while something waits to be sent.
    stuck: Idle,
    unread: Unread,
    /// Runs when everything was said.
    rest: Option<Rest>,
    targets: Targets,
    /// Over HTTP/2: reads along.
    codes: Option<ResetCodes>,
    /// Runs before a reset.
    all_sent: Option<AllSent>,
}

/// The reader that inspects incoming bytes.
#[derive(Debug)]
enum Targets {
    None,
    Http1(Http1Targets),
    Http2(Box<Http2Targets>),
}

impl VisitorSocket {
    /// Watches whether an answer was cut and a request not read when the connection ends, and its turns while it lasts.
    pub(crate) fn new(wire: Wire, signs: (Arc<Ending>, Turns, Unread), timeouts: &TimeoutOptions) -> Self {
        let (ending, turns, unread) = signs;
        let TimeoutOptions { head, keep_alive, idle, .. } = *timeouts;
        let clock = HeadClock { turns, seen: 0, begun: false, head, keep_alive, idle: Idle::new(head), announce: None };
        let stuck = Idle::new(idle);
        Self { wire, ending, clock, stuck, unread, rest: None, targets: Targets::None, codes: None, all_sent: None }
    }

    /// Gives a write that waits its deadline.
    fn unless_stuck<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck.moved();
            self.ending.set_full(false);
            return written;
        }
        self.ending.set_full(true);
        self.stuck.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// From now on HTTP/2 is spoken: a connection without requests is not closed at once when its time is over, but
    /// first announced here.
    pub(crate) fn announce_idle(&mut self) -> CancellationToken {
        self.codes = Some(ResetCodes::of_client());
        self.clock.announce.get_or_insert_default().clone()
    }

    /// From now on HTTP/1.1 is spoken: the targets of its requests are looked at on their way.
    pub(crate) fn watch_http1(&mut self) -> FirstBad {
        let targets = Http1Targets::new();
        let first_bad = targets.first_bad();
        self.targets = Targets::Http1(targets);
        first_bad
    }

    /// The same for HTTP/2.
    pub(crate) fn watch_http2(&mut self) -> Marks {
        let targets = Box::new(Http2Targets::new());
        let marks = targets.marks();
        self.targets = Targets::Http2(targets);
        marks
    }

    /// Reads what the wire has.
    fn poll_wire(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { wire, targets, .. } = self;
        let targets = match targets {
            Targets::None => return Pin::new(wire).poll_read(cx, buffer),
            Targets::Http1(targets) => {
                let before = buffer.filled().len();
                ready!(Pin::new(wire).poll_read(cx, buffer))?;
                targets.read(&buffer.filled()[before..]);
                return Poll::Ready(Ok(()));
            }
            Targets::Http2(targets) => targets,
        };
        loop {
            if !targets.ready.is_empty() {
                let length = targets.ready.len().min(buffer.remaining());
                buffer.put_slice(&targets.ready.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if targets.held.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut *wire).poll_read(cx, buffer))?;
                let upto = targets.read(&mut buffer.filled_mut()[before..]);
                let has_ended = buffer.filled().len() == before;
                buffer.set_filled(before + upto);
                if upto > 0 || has_ended {
                    return Poll::Ready(Ok(()));
                }
            } else if !targets.read_held() && ready!(poll_read_buf(Pin::new(&mut *wire), cx, &mut targets.held))? == 0 {
                targets.end();
            }
        }
    }

    fn is_cut(&self) -> bool {
        self.ending.is_cut()
    }

    /// Ready when all written data will reach the visitor and the connection is ended. If a normal close already shows that
    /// data is missing, it is used; otherwise waits until the kernel has sent everything, and resets the connection.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_cut() {
            return Pin::new(self).poll_shutdown(cx);
        }
        if self.all_sent.is_none() {
            // Without a descriptor to watch it by, the reset comes at once.
            self.all_sent = AllSent::of(self.wire.tcp()).ok();
        }
        let sent = self.all_sent.as_ref().map_or(Poll::Ready(()), |sent| sent.poll(cx));
        self.unless_stuck(cx, sent.map(Ok))
    }
}

impl Drop for VisitorSocket {
    fn drop(&mut self) {
        if self.is_cut() {
            // If the system refuses, the visitor sees an ordinary end: there is nothing else to try.
            let _ = SockRef::from(self.wire.tcp()).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for VisitorSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match self.poll_wire(cx, buffer) {
            Poll::Ready(read) => {
                if buffer.filled().len() > before {
                    self.clock.read();
                    if let Some(codes) = &mut self.codes {
                        codes.pass(&mut buffer.filled_mut()[before..]);
                    }
                }
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(self.clock.poll(cx));
                // As if the visitor had left; of what it began nothing is waited for.
                self.clock.begun = false;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for VisitorSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.wire).poll_write(cx, bytes);
        self.unless_stuck(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.wire).poll_write_vectored(cx, bytes);
        self.unless_stuck(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS holds what the socket did not take.
        let flushed = Pin::new(&mut self.wire).poll_flush(cx);
        ready!(self.unless_stuck(cx, flushed))?;
        if self.ending.is_asked() {
            ready!(self.poll_last_words(cx))?;
            self.ending.sent();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Shutting down would say "complete" before the reset can say "cut".
        if self.is_cut() {
            return Poll::Ready(Ok(()));
        }
        if self.rest.is_none() {
            let shut = Pin::new(&mut self.wire).poll_shutdown(cx);
            ready!(self.unless_stuck(cx, shut))?;
        }
        if !self.unread.is_some() && !self.clock.is_in_a_head() {
            return Poll::Ready(Ok(()));
        }
        let Self { wire, rest, .. } = &mut *self;
        rest.get_or_insert_with(Rest::new).poll(cx, wire.tcp_mut())
    }
}
