//! A carrier within one process, for tests: no multiplexer, no bytes on a pipe. What works over it and over [`mux`](super::mux)
//! depends on neither.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::link::pulse::Pulse;
use crate::link::session::{Driver, Ended, OpenError, Session};
use crate::values::SessionId;

/// How many bytes one direction of a stream holds.
const WINDOW: usize = 256 * 1024;

/// Streams that wait for the peer's driver.
const BACKLOG: usize = 64;

const READ_ENDED: u8 = 1;
const WRITE_ENDED: u8 = 2;

/// Returns the two ends of a session.
pub(crate) fn pair() -> ((Session, Driver), (Session, Driver)) {
    let over = CancellationToken::new();
    let ((to_far, from_near), (to_near, from_far)) = (mpsc::channel(BACKLOG), mpsc::channel(BACKLOG));
    let end = |opened, inbound| {
        let session = LocalSession {
            id: SessionId::next(),
            opened,
            count: Arc::default(),
            pulse: Arc::new(Pulse::new()),
            closing: CancellationToken::new(),
            over: over.clone(),
        };
        let driver = LocalDriver { session: session.clone(), inbound };
        (Session::InProcess(session), Driver::InProcess(driver))
    };
    (end(to_far, from_far), end(to_near, from_near))
}

#[derive(Debug, Clone)]
pub struct LocalSession {
    id: SessionId,
    opened: mpsc::Sender<LocalStream>,
    count: Arc<AtomicU64>,
    pulse: Arc<Pulse>,
    closing: CancellationToken,
    /// Both ends are over.
    over: CancellationToken,
}

pub struct LocalDriver {
    session: LocalSession,
    inbound: mpsc::Receiver<LocalStream>,
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct Direction {
    queue: VecDeque<Bytes>,
    held: usize,
    /// Nothing more is written or taken.
    cut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Direction {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

#[derive(Debug)]
struct Half {
    incoming: Arc<Mutex<Direction>>,
    outgoing: Arc<Mutex<Direction>>,
    ends: AtomicU8,
    session: LocalSession,
}

impl Half {
    fn cut(&self) {
        for direction in [&self.incoming, &self.outgoing] {
            let mut direction = direction.lock();
            direction.cut = true;
            direction.wake();
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.cut();
    }
}

#[derive(Debug, Clone)]
pub struct LocalStream(Arc<Half>);

impl LocalSession {
    pub fn id(&self) -> SessionId {
        self.id
    }

    pub async fn open(&self, first: &[u8]) -> Result<LocalStream, OpenError> {
        if self.is_closed() {
            return Err(OpenError::Closed);
        }
        let (there, back) = (Arc::<Mutex<Direction>>::default(), Arc::<Mutex<Direction>>::default());
        let half = |incoming: &Arc<_>, outgoing: &Arc<_>| {
            let (incoming, outgoing) = (Arc::clone(incoming), Arc::clone(outgoing));
            LocalStream(Arc::new(Half { incoming, outgoing, ends: AtomicU8::new(0), session: self.clone() }))
        };
        if !first.is_empty() {
            let mut direction = there.lock();
            direction.held = first.len();
            direction.queue.push_back(Bytes::copy_from_slice(first));
        }
        let (near, far) = (half(&back, &there), half(&there, &back));
        self.opened.send(far).await.map_err(|_| OpenError::Closed)?;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(near)
    }

    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    pub fn opened(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn close(&self) {
        self.closing.cancel();
    }

    pub fn is_closed(&self) -> bool {
        self.closing.is_cancelled() || self.over.is_cancelled()
    }

    pub async fn ended(&self) {
        self.over.cancelled().await;
    }
}

impl LocalDriver {
    pub async fn run(mut self, mut inbound: impl FnMut(LocalStream)) -> Ended {
        loop {
            tokio::select! {
                biased;
                () = self.session.closing.cancelled() => return Ended::Closed,
                () = self.session.over.cancelled() => return Ended::ByPeer,
                stream = self.inbound.recv() => match stream {
                    Some(stream) => inbound(stream),
                    None => return Ended::ByPeer,
                },
            }
        }
    }
}

impl Drop for LocalDriver {
    fn drop(&mut self) {
        self.session.over.cancel();
    }
}

impl LocalStream {
    fn is_over(&self) -> bool {
        self.0.session.over.is_cancelled()
    }

    pub fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut direction = self.0.incoming.lock();
        if let Some(bytes) = direction.queue.pop_front() {
            direction.held -= bytes.len();
            direction.writer.take().into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(bytes));
        }
        if direction.cut || self.is_over() {
            return Poll::Ready(None);
        }
        direction.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.write_now(bytes) {
            Ok(0) if !bytes.is_empty() => {
                self.0.outgoing.lock().writer = Some(cx.waker().clone());
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }

    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut direction = self.0.outgoing.lock();
        if direction.cut || self.is_over() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(WINDOW.saturating_sub(direction.held));
        if taken > 0 {
            direction.held += taken;
            direction.queue.push_back(Bytes::copy_from_slice(&bytes[..taken]));
            direction.reader.take().into_iter().for_each(Waker::wake);
        }
        Ok(taken)
    }

    pub fn read_ended(&self) {
        self.0.ends.fetch_or(READ_ENDED, Ordering::AcqRel);
    }

    pub fn write_ended(&self) {
        self.0.ends.fetch_or(WRITE_ENDED, Ordering::AcqRel);
    }

    pub fn is_read_ended(&self) -> bool {
        self.0.ends.load(Ordering::Acquire) & READ_ENDED != 0
    }

    pub fn is_complete(&self) -> bool {
        self.0.ends.load(Ordering::Acquire) == READ_ENDED | WRITE_ENDED
    }

    pub fn abort(&self) {
        self.0.cut();
    }

    pub fn is_closed(&self) -> bool {
        self.is_complete() || self.is_over() || self.0.outgoing.lock().cut
    }
}
