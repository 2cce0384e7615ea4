//! Ends a visitor's HTTP/1 connection when its response is incomplete: after the data that arrived, and in a way that
//! shows the visitor that the rest is missing.
//!
//! hyper discards its write buffer as soon as a body fails. So the body delays its error until the socket has sent
//! everything: it requests that here and waits, and hyper writes and flushes in the meantime.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

const OPEN: u8 = 0;
const ASKED: u8 = 1;
const SENT: u8 = 2;

/// State that a connection's requests and its socket share to end the connection.
#[derive(Debug, Default)]
pub(crate) struct CloseState {
    /// A close-delimited response or an upgraded connection is in progress or incomplete: a normal close would make it look
    /// complete.
    cut: AtomicBool,
    state: AtomicU8,
    /// The socket accepts no more data at the moment.
    is_full: AtomicBool,
    /// The task that waits for the socket.
    waker: AtomicWaker,
}

impl CloseState {
    /// Sets whether the connection must end with a reset if it ends now.
    pub(crate) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Release);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Sets whether the socket accepts no more data at the moment.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Release);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// Asks the socket to send everything. Ready when it has; nothing may be written after that.
    pub(crate) fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        let _ = self.state.compare_exchange(OPEN, ASKED, Ordering::AcqRel, Ordering::Acquire);
        if self.state.load(Ordering::Acquire) == SENT { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns whether the socket is to send everything. The socket checks this when hyper has flushed its buffer.
    pub(crate) fn is_asked(&self) -> bool {
        self.state.load(Ordering::Acquire) == ASKED
    }

    /// Records that the socket has sent everything.
    pub(crate) fn sent(&self) {
        self.state.store(SENT, Ordering::Release);
        self.waker.wake();
    }
}
