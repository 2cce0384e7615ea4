//! The socket of an HTTP connection, with the deadlines that the HTTP library lacks.
//!
//! - **Head**: a request head must arrive within `timeouts.head` on a new connection, and within that time after its
//!   first byte on any. A kept-alive connection may wait `timeouts.keep_alive` for that byte. Over HTTP/2, where bytes
//!   are not only heads, a connection without requests gets the same times: it is told to close (GOAWAY), then closed.
//! - **Write**: a peer that reads nothing for `timeouts.idle` while data waits is dropped. The HTTP library would not
//!   notice: it does not poll a body while the socket is full.
//! - **Lingering close**: a peer that was answered before it sent its whole request may go on sending for a while, so
//!   that it receives the response (`lingering_close`).
//! - **Reset**: a response without length or chunks (HTTP/1.0) and an upgraded connection end with the connection. If
//!   they break off, a normal close would make them look complete, so the socket ends with a reset.
//! - Data written before a response broke off is sent before the connection ends (`close`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use crate::link::body::Idle;
use crate::server::http_connection::close::CloseState;
use crate::server::http_connection::head_deadline::HeadDeadline;
use crate::server::http_connection::in_flight::InFlight;
use crate::server::http_connection::interim::{InterimWriter, Interims};
use crate::server::http_connection::lingering_close::{Linger, UnreadBody};
use crate::server::http_connection::maybe_tls::MaybeTlsStream;
use crate::server::http_connection::request_target::{Http1Targets, Http2Targets, Marks, Requests};
use crate::server::http_connection::unreadable::{AnswerUnreadable, UnreadableHead, own_answer};
use crate::server::options::TimeoutOptions;
use crate::transport::delivery::AllSent;
use crate::transport::streams::ResetCodes;
use crate::transport::unsent;

/// Unsent bytes that the kernel may hold. Without a bound it holds megabytes, and reports the socket writable again only
/// when a third of them is sent: a slow reader would look like one that reads nothing.
const UNSENT: u32 = 128 * 1024;

/// Bounds the unsent bytes in the kernel.
///
/// # Errors
/// The system refuses the option.
pub(crate) fn bound_unsent(socket: &TcpStream) -> io::Result<()> {
    unsent::bound_unsent(socket, UNSENT)
}

/// What the requests of a connection tell its socket.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionSignals {
    /// How the connection must end.
    pub(crate) close: Arc<CloseState>,
    /// Which requests are in flight.
    pub(crate) in_flight: InFlight,
    /// Whether the peer may still be sending a body.
    pub(crate) unread: UnreadBody,
}

/// A socket that HTTP is served on.
#[derive(Debug)]
pub(crate) struct HttpSocket {
    stream: MaybeTlsStream,
    close: Arc<CloseState>,
    clock: HeadDeadline,
    /// Runs while data waits to be sent.
    stuck: Idle,
    unread: UnreadBody,
    /// Set when everything was sent.
    linger: Option<Linger>,
    targets: Targets,
    /// Over HTTP/1.1: answers a head that the HTTP library cannot read.
    unreadable: Option<UnreadableHead>,
    /// What only HTTP/2 needs.
    http2: Option<Http2Wire>,
    /// Delays a reset until the data before it is sent.
    all_sent: Option<AllSent>,
}

/// What an HTTP/2 connection changes in its bytes.
#[derive(Debug)]
struct Http2Wire {
    /// Normalizes reset codes that come.
    codes: ResetCodes,
    /// Adds interim answers.
    interim: InterimWriter,
}

/// The reader that inspects incoming bytes.
#[derive(Debug)]
enum Targets {
    None,
    Http1(Http1Targets),
    Http2(Box<Http2Targets>),
}

impl HttpSocket {
    /// Wraps `stream`. The requests of the connection report through `signals`.
    pub(crate) fn new(stream: MaybeTlsStream, signals: ConnectionSignals, timeouts: &TimeoutOptions) -> Self {
        let ConnectionSignals { close, in_flight, unread } = signals;
        let TimeoutOptions { head, keep_alive, idle, .. } = *timeouts;
        let clock = HeadDeadline::new(in_flight, head, keep_alive);
        let stuck = Idle::new(idle);
        let targets = Targets::None;
        Self {
            stream,
            close,
            clock,
            stuck,
            unread,
            linger: None,
            targets,
            unreadable: None,
            http2: None,
            all_sent: None,
        }
    }

    /// Applies the write deadline to a pending write.
    fn unless_stuck<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck.moved();
            self.close.set_full(false);
            return written;
        }
        self.close.set_full(true);
        self.stuck.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Switches to HTTP/2: an idle connection is announced through the returned token before it is closed.
    pub(crate) fn announce_idle(&mut self) -> CancellationToken {
        self.http2 = Some(Http2Wire { codes: ResetCodes::of_client(), interim: InterimWriter::default() });
        self.clock.announce()
    }

    /// Over HTTP/2: returns the streams whose visitors wait to be asked for a body.
    pub(crate) fn interims(&self) -> Interims {
        self.http2.as_ref().map(|http2| http2.interim.interims()).unwrap_or_default()
    }

    /// Switches to HTTP/1.1 and inspects the targets of its requests.
    pub(crate) fn watch_http1(&mut self) -> Requests {
        let targets = Http1Targets::new();
        let requests = targets.requests();
        self.targets = Targets::Http1(targets);
        requests
    }

    /// Over HTTP/1.1: answers a head that the HTTP library cannot read with `answers`.
    pub(crate) fn answer_unreadable(&mut self, answers: Arc<dyn AnswerUnreadable>) {
        self.unreadable = Some(UnreadableHead::new(answers));
    }

    /// Writes the answer to a head that cannot be read in place of `bytes`, if these are the library's own answer.
    fn poll_unreadable(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        let Self { stream, unreadable: Some(unreadable), targets: Targets::Http1(targets), .. } = self else {
            return None;
        };
        if unreadable.rest.is_empty() {
            let status = own_answer(bytes)?;
            // An application's answer belongs to a request that was begun.
            if !targets.has_unread_head() {
                return None;
            }
            unreadable.begin(status);
        }
        while !unreadable.rest.is_empty() {
            let written = Pin::new(&mut *stream).poll_write(cx, &unreadable.rest);
            let Poll::Ready(Ok(written @ 1..)) = written else { return Some(self.unless_stuck(cx, written)) };
            let _ = unreadable.rest.split_to(written);
        }
        self.unreadable = None;
        Some(self.unless_stuck(cx, Poll::Ready(Ok(bytes.len()))))
    }

    /// Inspects the targets of HTTP/2 requests with heads of up to `head_size` bytes.
    pub(crate) fn watch_http2(&mut self, head_size: usize) -> Marks {
        let targets = Box::new(Http2Targets::new(head_size));
        let marks = targets.marks();
        self.targets = Targets::Http2(targets);
        marks
    }

    /// Reads from the stream through the target inspection.
    fn poll_stream(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, targets, .. } = self;
        let targets = match targets {
            Targets::None => return Pin::new(stream).poll_read(cx, buffer),
            Targets::Http1(targets) => {
                if targets.ready.is_empty() {
                    let before = buffer.filled().len();
                    ready!(Pin::new(stream).poll_read(cx, buffer))?;
                    let upto = targets.read(&buffer.filled()[before..]);
                    buffer.set_filled(before + upto);
                }
                take_ready(&mut targets.ready, buffer);
                return Poll::Ready(Ok(()));
            }
            Targets::Http2(targets) => targets,
        };
        loop {
            if !targets.ready.is_empty() {
                take_ready(&mut targets.ready, buffer);
                return Poll::Ready(Ok(()));
            }
            if targets.held.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut *stream).poll_read(cx, buffer))?;
                let upto = targets.read(&buffer.filled()[before..]);
                let has_ended = buffer.filled().len() == before;
                buffer.set_filled(before + upto);
                if upto > 0 || has_ended {
                    return Poll::Ready(Ok(()));
                }
            } else if !targets.read_held() && ready!(poll_read_buf(Pin::new(&mut *stream), cx, &mut targets.held))? == 0
            {
                targets.end();
            }
        }
    }

    /// Over HTTP/2: ready when all interim answers that are due were written.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, http2: Some(Http2Wire { interim, .. }), .. } = self else { return Poll::Ready(Ok(())) };
        interim.prepare(cx);
        while !interim.ready.is_empty() {
            let written = Pin::new(&mut *stream).poll_write(cx, &interim.ready);
            let Poll::Ready(Ok(written @ 1..)) = written else { return self.unless_stuck(cx, written.map_ok(drop)) };
            interim.ready.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Over HTTP/2: follows what was `written` of these pieces.
    fn follow(&mut self, written: &Poll<io::Result<usize>>, pieces: &[io::IoSlice<'_>]) {
        if let (Some(http2), Poll::Ready(Ok(written))) = (&mut self.http2, written) {
            let mut rest = *written;
            for piece in pieces {
                let length = rest.min(piece.len());
                http2.interim.wrote(&piece[..length]);
                rest -= length;
            }
        }
    }

    fn is_cut(&self) -> bool {
        self.close.is_cut()
    }

    /// Ready when all written data will reach the visitor and the connection is ended. If a normal close already shows that
    /// data is missing, it is used; otherwise waits until the kernel has sent everything, and resets the connection.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_cut() {
            return Pin::new(self).poll_shutdown(cx);
        }
        if self.all_sent.is_none() {
            // Without a descriptor to watch it by, the reset comes at once.
            self.all_sent = AllSent::of(self.stream.tcp()).ok();
        }
        let sent = self.all_sent.as_ref().map_or(Poll::Ready(()), |sent| sent.poll(cx));
        self.unless_stuck(cx, sent.map(Ok))
    }
}

/// Moves as much of `ready` as there is room for.
fn take_ready(ready: &mut BytesMut, buffer: &mut ReadBuf<'_>) {
    if !ready.is_empty() {
        let length = ready.len().min(buffer.remaining());
        buffer.put_slice(&ready.split_to(length));
    }
}

impl Drop for HttpSocket {
    fn drop(&mut self) {
        if self.is_cut() {
            // If the system refuses, the peer sees a normal close; there is no alternative.
            let _ = SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for HttpSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match self.poll_stream(cx, buffer) {
            Poll::Ready(read) => {
                if buffer.filled().len() > before {
                    self.clock.read();
                    if let Some(http2) = &mut self.http2 {
                        http2.codes.pass(&mut buffer.filled_mut()[before..]);
                    }
                }
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(self.clock.poll(cx));
                // As if the peer had closed; the rest of its head is not awaited.
                self.clock.give_up();
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for HttpSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(written) = self.poll_unreadable(cx, bytes) {
            return written;
        }
        ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.follow(&written, &[io::IoSlice::new(bytes)]);
        self.unless_stuck(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [bytes] = bytes
            && let Some(written) = self.poll_unreadable(cx, bytes)
        {
            return written;
        }
        ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.follow(&written, bytes);
        self.unless_stuck(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        // TLS holds what the socket did not take.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        ready!(self.unless_stuck(cx, flushed))?;
        if self.close.is_asked() {
            ready!(self.poll_last_words(cx))?;
            self.close.sent();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Shutting down would say "complete" before the reset can say "cut".
        if self.is_cut() {
            return Poll::Ready(Ok(()));
        }
        if self.linger.is_none() {
            let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.unless_stuck(cx, shut))?;
        }
        if !self.unread.is_some() && !self.clock.is_in_a_head() {
            return Poll::Ready(Ok(()));
        }
        let Self { stream, linger, .. } = &mut *self;
        linger.get_or_insert_with(Linger::new).poll(cx, stream.tcp_mut())
    }
}
