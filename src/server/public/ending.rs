//! How a visitor's HTTP/1 connection ends when its response breaks off: after everything that came before, and so that
//! the visitor does not take what it has for the whole.
//!
//! hyper discards what it has not written as soon as a body fails. So the body does not fail before its socket has sent
//! everything: it asks for that here, waits, and hyper writes and flushes while it waits.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

const OPEN: u8 = 0;
const ASKED: u8 = 1;
const SENT: u8 = 2;

/// What a connection's requests and its socket tell each other about its end.
#[derive(Debug, Default)]
pub(in crate::server) struct Ending {
    /// A response without a length of its own, or an upgraded connection, is under way or broke off: an orderly end would
    /// show it as complete.
    cut: AtomicBool,
    state: AtomicU8,
    /// The socket takes no more at the moment.
    is_full: AtomicBool,
    /// Whoever waits for the socket.
    waker: AtomicWaker,
}

impl Ending {
    /// Says whether the connection must end with a reset if it ended now.
    pub(super) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Release);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Says whether the socket takes no more at the moment.
    pub(super) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Release);
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// Asks the socket to send everything and to say no more. Ready when it has; nothing must be written any more.
    pub(super) fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        let _ = self.state.compare_exchange(OPEN, ASKED, Ordering::AcqRel, Ordering::Acquire);
        if self.state.load(Ordering::Acquire) == SENT { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether the socket is asked to send everything. To be looked at when the library has flushed all it had.
    pub(super) fn is_asked(&self) -> bool {
        self.state.load(Ordering::Acquire) == ASKED
    }

    /// The socket has sent everything.
    pub(super) fn sent(&self) {
        self.state.store(SENT, Ordering::Release);
        self.waker.wake();
    }
}
