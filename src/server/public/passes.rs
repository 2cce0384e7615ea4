//! Over HTTP/2: whether a connection has written what its requests gave to it.
//!
//! A stream that is reset loses the frames that the library has not encoded yet. Data is counted piece by piece
//! ([`Queued`](crate::transport::delivery::Queued)): it may wait for the visitor's window. Everything else, like the head of
//! a response, leaves at the next pass of the connection's task: the next time that it is polled and the socket takes what it
//! writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// The passes of a connection's task that its requests wait for.
#[derive(Debug, Default)]
pub(super) struct Passes {
    asked: AtomicU64,
    done: AtomicU64,
    connection: AtomicWaker,
    waiters: Mutex<Vec<Waker>>,
}

impl Passes {
    /// Asks for a pass that begins from now on; gives its number.
    pub(super) fn ask(&self) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.connection.wake();
        number
    }

    /// Ready when the pass with this number, or a later one, is over.
    pub(super) fn poll_done(&self, number: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.waiters.lock();
        if self.done.load(Ordering::Acquire) >= number {
            return Poll::Ready(());
        }
        // As many as there are responses that break off on one connection at once.
        waiters.retain(|waker| !waker.will_wake(cx.waker()));
        waiters.push(cx.waker().clone());
        Poll::Pending
    }

    /// A pass begins: gives what is to be told to [`Passes::end`].
    pub(super) fn begin(&self, cx: &mut Context<'_>) -> u64 {
        self.connection.register(cx.waker());
        self.asked.load(Ordering::Acquire)
    }

    /// The pass is over, and the socket has taken everything that was written in it.
    pub(super) fn end(&self, asked: u64) {
        if asked > self.done.load(Ordering::Relaxed) {
            let mut waiters = self.waiters.lock();
            self.done.store(asked, Ordering::Release);
            let woken = std::mem::take(&mut *waiters);
            drop(waiters);
            woken.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker_ref;

    use super::*;

    #[test]
    fn a_pass_that_began_before_it_was_asked_for_is_not_the_one() {
        let mut cx = Context::from_waker(noop_waker_ref());
        let passes = Passes::default();
        let early = passes.begin(&mut cx);
        let number = passes.ask();
        passes.end(early);
        assert!(passes.poll_done(number, &mut cx).is_pending());
        let next = passes.begin(&mut cx);
        // It did not get to its end: the socket was full.
        assert!(passes.poll_done(number, &mut cx).is_pending());
        passes.end(next);
        assert!(passes.poll_done(number, &mut cx).is_ready() && passes.waiters.lock().is_empty());
    }
}
