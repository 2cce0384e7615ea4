//! Handles aborted HTTP/2 streams where the HTTP library does not.
//!
//! - A stream that is reset loses the frames that the library has not encoded yet. Data is counted piece by piece
//!   ([`Queued`](super::delivery::Queued)): it may wait for the peer's window. Everything else, like the head of a response,
//!   leaves at the next pass of the connection's task ([`Passes`]).
//! - A stream that has become a connection (RFC 8441) ends in order however it is dropped, and the library takes a reset
//!   without an error, and a cancelled stream, for an orderly end. [`UpgradeTask`] resets one, [`ResetCodes`] make the
//!   library see each reset for what it is.

use std::cell::RefCell;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// Counts the polls ("passes") of a task, so that other tasks can wait until it has processed what was queued before.
#[derive(Debug, Default)]
pub struct Passes {
    asked: AtomicU64,
    done: AtomicU64,
    task: AtomicWaker,
    waiters: Mutex<Vec<Waker>>,
}

impl Passes {
    /// Requests a new pass and returns its number.
    pub fn ask(&self) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.task.wake();
        number
    }

    /// Ready when the pass with this number, or a later one, is over.
    pub fn poll_done(&self, number: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.waiters.lock();
        if self.done.load(Ordering::Acquire) >= number {
            return Poll::Ready(());
        }
        // As many as there are streams that break off on one connection at once.
        waiters.retain(|waker| !waker.will_wake(cx.waker()));
        waiters.push(cx.waker().clone());
        Poll::Pending
    }

    /// A pass begins: gives what is to be told to [`Passes::end`].
    pub fn begin(&self, cx: &mut Context<'_>) -> u64 {
        self.task.register(cx.waker());
        self.asked.load(Ordering::Acquire)
    }

    /// The pass is over, and did all it could.
    pub fn end(&self, asked: u64) {
        if asked > self.done.load(Ordering::Relaxed) {
            let mut waiters = self.waiters.lock();
            self.done.store(asked, Ordering::Release);
            let woken = std::mem::take(&mut *waiters);
            drop(waiters);
            woken.into_iter().for_each(Waker::wake);
        }
    }
    /// Ends all waits: there are no more passes.
    pub fn close(&self) {
        self.end(u64::MAX);
    }

    /// Waits for a pass that begins from now on.
    pub async fn next(&self) {
        let number = self.ask();
        poll_fn(|cx| self.poll_done(number, cx)).await;
    }
}

/// The time between the last bytes of a stream that breaks off and its reset. Peers such as curl and Node.js discard what
/// they have not processed when they read a reset, and nothing tells when they have processed it.
pub const BEFORE_RESET: Duration = Duration::from_millis(200);

/// Pieces that were written and may wait: two on their way to the task that sends, one with it, and one that is sent.
const WAITING: usize = 4;

/// Closes the passes of a task that is over: nobody waits for another one.
#[derive(Debug)]
pub struct CloseOnDrop<P: Deref<Target: AsRef<Passes>>>(pub P);

impl<P: Deref<Target: AsRef<Passes>>> Drop for CloseOnDrop<P> {
    fn drop(&mut self) {
        self.0.as_ref().close();
    }
}

impl AsRef<Passes> for Passes {
    fn as_ref(&self) -> &Passes {
        self
    }
}

thread_local! {
    /// What the next task is that the library starts from within the task that is polled now.
    static NEXT: RefCell<Option<Arc<UpgradeTask>>> = const { RefCell::new(None) };
}

/// The task by which the library sends what is written on a stream that has become a connection.
///
/// Whoever agrees to the upgrade announces it ([`UpgradeTask::announce`]). The library starts the task before it gives the
/// thread back, by the executor that it was given, which then runs it by [`run`].
#[derive(Debug, Default)]
pub struct UpgradeTask {
    passes: Passes,
    is_cut: AtomicBool,
}

impl AsRef<Passes> for UpgradeTask {
    fn as_ref(&self) -> &Passes {
        &self.passes
    }
}

impl UpgradeTask {
    /// Says that this is the next task that is started from within the task that is polled now.
    pub fn announce(self: &Arc<Self>) {
        NEXT.with_borrow_mut(|next| *next = Some(Arc::clone(self)));
    }

    /// Has the stream end with a reset, once both its ends are dropped, after what was written: that is given `limit` to
    /// leave by passes of the connection's tasks. What the peer's window keeps back then is lost. The peer then has
    /// [`BEFORE_RESET`] to read it.
    pub async fn cut(&self, connection: &[&Passes], limit: Duration) {
        let leave = async {
            for _ in 0..WAITING {
                self.passes.next().await;
                for passes in connection {
                    passes.next().await;
                }
            }
        };
        let _ = tokio::time::timeout(limit, leave).await;
        tokio::time::sleep(BEFORE_RESET).await;
        self.cut_now();
    }

    /// As [`UpgradeTask::cut`], without waiting for what was written.
    pub fn cut_now(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.passes.task.wake();
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }
}

/// The task that was announced, if the one that is started now is it. For an executor.
pub fn announced() -> Option<Arc<UpgradeTask>> {
    NEXT.with_borrow_mut(Option::take)
}

/// Runs a task of the library, in a box: one that was announced so that it can be cut, any other one so that what is
/// announced in it does not outlive its poll.
pub fn run<T>(task: impl Future<Output = T>, announced: Option<Arc<UpgradeTask>>) -> impl Future<Output = ()> + Unpin {
    let mut task = Box::pin(task);
    let upgrade = announced.map(CloseOnDrop);
    poll_fn(move |cx| match &upgrade {
        None => {
            let polled = task.as_mut().poll(cx);
            drop(self::announced());
            polled.map(drop)
        }
        Some(CloseOnDrop(upgrade)) => {
            let asked = upgrade.passes.begin(cx);
            if upgrade.is_cut() {
                return Poll::Ready(());
            }
            let polled = task.as_mut().poll(cx);
            upgrade.passes.end(asked);
            polled.map(drop)
        }
    })
}

/// The length of a frame's header, and where the kind is in it.
const HEADER: usize = 9;
const KIND: usize = 3;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

const NO_ERROR: u8 = 0;
const INTERNAL_ERROR: u8 = 2;
const CANCEL: u8 = 8;

/// What a client says first.
const PREFACE: usize = 24;

/// Inspects the incoming bytes of an HTTP/2 connection and rewrites resets that the library would treat as a normal end, so
/// that it sees an error. A reset with any code leaves a message incomplete (RFC 9113, section 8.1); a reset after the end
/// has no effect.
#[derive(Debug)]
pub struct ResetCodes {
    header: [u8; HEADER],
    have: usize,
    /// So many bytes of a payload, or of the preface, are still to come.
    left: usize,
    /// So many bytes before the last one of an error code.
    code: Option<usize>,
    /// A goodbye ends streams, too.
    with_goodbyes: bool,
    /// A message has begun.
    has_begun: bool,
}

impl ResetCodes {
    /// For what a client sends.
    pub fn of_client() -> Self {
        Self { left: PREFACE, ..Self::of_server() }
    }

    /// For what a server sends.
    pub fn of_server() -> Self {
        Self { header: [0; HEADER], have: 0, left: 0, code: None, with_goodbyes: false, has_begun: false }
    }

    /// For what a server sends on a connection with a single stream: once it has begun to answer, a goodbye that leaves
    /// that stream out resets it.
    pub fn of_server_with_one_stream() -> Self {
        Self { with_goodbyes: true, ..Self::of_server() }
    }

    /// Passes the next bytes on.
    pub fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let wanted = if self.left > 0 { self.left } else { HEADER - self.have };
            let (now, rest) = bytes.split_at_mut(wanted.min(bytes.len()));
            if self.left > 0 {
                self.payload(now);
            } else {
                self.header[self.have..self.have + now.len()].copy_from_slice(now);
                self.have += now.len();
                if self.have == HEADER {
                    self.begin();
                }
            }
            bytes = rest;
        }
    }

    /// A header is whole.
    fn begin(&mut self) {
        let ([l0, l1, l2, ..], kind) = (self.header, self.header[KIND]);
        self.left = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        self.have = 0;
        self.has_begun |= kind == HEADERS;
        self.code = match kind {
            RST_STREAM => Some(3),
            GOAWAY if self.with_goodbyes && self.has_begun => Some(7),
            _ => None,
        };
    }

    /// More of a payload.
    fn payload(&mut self, bytes: &mut [u8]) {
        self.left -= bytes.len();
        let Some(before) = self.code else { return };
        match bytes.get_mut(before) {
            // The other bytes are zero in every code that there is.
            Some(code) if matches!(*code, NO_ERROR | CANCEL) => {
                *code = INTERNAL_ERROR;
                self.code = None;
            }
            Some(_) => self.code = None,
            None => self.code = Some(before - bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker_ref;
    use proptest::prelude::*;
    use tokio::task::JoinSet;

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

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_cut_ends_where_it_is() {
        let upgrade = Arc::new(UpgradeTask::default());
        let mut tasks = JoinSet::new();
        // As the library does: a task that is polled starts another one.
        tasks.spawn(run(
            {
                let upgrade = Arc::clone(&upgrade);
                async move {
                    upgrade.announce();
                    assert!(announced().is_some() && announced().is_none());
                    upgrade.announce();
                }
            },
            None,
        ));
        tasks.join_next().await;
        assert!(announced().is_none(), "it is announced for one poll alone");
        tasks.spawn(run(std::future::pending::<()>(), Some(Arc::clone(&upgrade))));
        let connection = Passes::default();
        connection.close();
        let began = tokio::time::Instant::now();
        upgrade.cut(&[&connection], Duration::from_secs(60)).await;
        assert!(began.elapsed() >= BEFORE_RESET, "the peer has that long to read");
        tasks.join_next().await;
        // Who waits for it then need not.
        upgrade.passes.next().await;
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
        [&[l0, l1, l2, kind, 0, 0, 0, 0, 1], payload].concat()
    }

    proptest! {
        /// Whatever else is on the connection, and wherever it is cut, resets alone are changed, and each into one that is no
        /// orderly end.
        #[test]
        fn resets_alone_are_changed(
            frames: Vec<(u8, Vec<u8>)>,
            with_goodbyes: bool,
            codes in proptest::collection::vec(0_u32..20, 1..5),
            of_client: bool,
            cuts: Vec<prop::sample::Index>,
        ) {
            let others = frames.into_iter().filter(|(kind, _)| ![HEADERS, RST_STREAM, GOAWAY].contains(kind)).map(|(kind, payload)| frame(kind, &payload));
            let mut others = others.collect::<Vec<_>>().into_iter();
            let mut sent = if of_client { vec![RST_STREAM; PREFACE] } else { Vec::new() };
            let mut expected = sent.clone();
            for code in codes {
                let other = others.next().unwrap_or_default();
                sent.extend_from_slice(&other);
                expected.extend_from_slice(&other);
                sent.extend(frame(RST_STREAM, &code.to_be_bytes()));
                let seen = if [0, 8].contains(&code) { 2 } else { code };
                expected.extend(frame(RST_STREAM, &seen.to_be_bytes()));
                let goodbye = |code: u32| frame(GOAWAY, &[&[0; 4][..], &code.to_be_bytes(), b"why"].concat());
                let head = frame(HEADERS, b"head");
                for (to, seen) in [(&mut sent, code), (&mut expected, if with_goodbyes { seen } else { code })] {
                    to.extend_from_slice(&head);
                    to.extend(goodbye(seen));
                }
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(sent.len())).chain([0, sent.len()]).collect();
            cuts.sort_unstable();
            let mut codes = if of_client { ResetCodes::of_client() } else { ResetCodes::of_server() };
            codes.with_goodbyes = with_goodbyes;
            for cut in cuts.windows(2) {
                codes.pass(&mut sent[cut[0]..cut[1]]);
            }
            prop_assert_eq!(sent, expected);
        }
    }
}
