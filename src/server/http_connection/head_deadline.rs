//! The deadline of a request head.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::link::body::Idle;
use crate::server::http_connection::in_flight::InFlight;

/// The deadline of the next head.
#[derive(Debug)]
pub(crate) struct HeadDeadline {
    in_flight: InFlight,
    /// The counter when last read: any change restarts the deadline.
    seen: u64,
    /// Part of the head has arrived.
    begun: bool,
    head: Duration,
    keep_alive: Duration,
    idle: Idle,
    /// HTTP/2: bytes need not belong to a head, and the close is announced first.
    announce: Option<CancellationToken>,
}

impl HeadDeadline {
    /// Allows `head` for a head, and `keep_alive` before its first byte on a connection that has had one.
    pub(crate) fn new(in_flight: InFlight, head: Duration, keep_alive: Duration) -> Self {
        Self { in_flight, seen: 0, begun: false, head, keep_alive, idle: Idle::new(head), announce: None }
    }

    /// Switches to HTTP/2. Returns the token that announces the close.
    pub(crate) fn announce(&mut self) -> CancellationToken {
        self.announce.get_or_insert_default().clone()
    }

    /// Records that the rest of a head is not awaited.
    pub(crate) fn give_up(&mut self) {
        self.begun = false;
    }

    /// Returns whether the connection waits for a head.
    fn is_running(&mut self) -> bool {
        let (now, is_idle) = self.in_flight.snapshot();
        if now != self.seen {
            self.seen = now;
            self.begun = false;
            self.idle.moved();
        }
        is_idle
    }

    /// Returns whether part of a head has arrived that is no request yet.
    pub(crate) fn is_in_a_head(&mut self) -> bool {
        self.is_running() && self.begun
    }

    /// Records that bytes have arrived.
    pub(crate) fn read(&mut self) {
        if self.announce.is_none() && self.is_running() && !self.begun {
            self.begun = true;
            self.idle.moved();
        }
    }

    /// Ready when the head has taken too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_running() {
            // Nothing wakes this task when the last request ends, so it polls; the timeout may take up to twice as long.
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
