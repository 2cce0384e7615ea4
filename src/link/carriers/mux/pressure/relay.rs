//! A relay between two sessions: it bounds the rate, counts what passes, and adds pings.

use std::io;
use std::sync::atomic::AtomicUsize;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::*;

const PING_EVERY: Duration = Duration::from_millis(100);

/// Numbers of the relay's own pings begin here.
const OURS: u32 = 1 << 31;

/// Bytes per second each way: less than the readers take, so that writers wait for the pipe.
const RATE: usize = 1_000_000;

/// Bytes that the relay itself holds in one direction at most.
pub(super) const RELAY_BUFFER: usize = 8 * 1024;

/// Pings of the relay in one direction: like yamux's, one at a time, but far more often. yamux's own go by the real clock.
struct Pings {
    /// When the next is due; `None`: one is not answered yet.
    next: Mutex<Option<Instant>>,
    answered: AtomicUsize,
    again: Notify,
}

impl Pings {
    fn new() -> Arc<Self> {
        Arc::new(Self { next: Mutex::new(Some(Instant::now())), answered: AtomicUsize::new(0), again: Notify::new() })
    }

    fn is_due(&self) -> bool {
        self.next.lock().is_some_and(|next| next <= Instant::now())
    }

    async fn due(&self) {
        loop {
            let next = *self.next.lock();
            match next {
                Some(next) => return sleep_until(next).await,
                None => self.again.notified().await,
            }
        }
    }

    fn answer(&self) {
        *self.next.lock() = Some(Instant::now() + PING_EVERY);
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.again.notify_one();
    }
}

/// One direction of a relay.
struct Way {
    /// The pings that this way carries.
    mine: Arc<Pings>,
    /// Those of the other way, whose answers this way carries.
    theirs: Arc<Pings>,
    /// Bytes of data that have passed.
    carried: Arc<AtomicUsize>,
}

impl Way {
    /// Carries frames at [`RATE`], and adds pings between them.
    async fn run(self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
        let (mut buffer, mut body, mut number) = (BytesMut::with_capacity(4096), 0, OURS);
        let mut free = Instant::now();
        loop {
            while body > 0 && !buffer.is_empty() {
                let n = buffer.len().min(body);
                sleep_until(free).await;
                free = free.max(Instant::now()) + Duration::from_secs(1) * n as u32 / RATE as u32;
                to.write_all(&buffer[..n]).await?;
                self.carried.fetch_add(n, Ordering::Relaxed);
                buffer.advance(n);
                body -= n;
            }
            if body == 0 && buffer.len() >= 12 && !self.mine.is_due() {
                let (kind, flags) = (buffer[1], buffer[3]);
                let length = u32::from_be_bytes([buffer[8], buffer[9], buffer[10], buffer[11]]);
                if kind == 2 && flags == 2 && length >= OURS {
                    self.theirs.answer();
                } else {
                    to.write_all(&buffer[..12]).await?;
                    body = if kind == 0 { length as usize } else { 0 };
                }
                buffer.advance(12);
                continue;
            }
            tokio::select! {
                biased;
                () = self.mine.due(), if body == 0 => {
                    *self.mine.next.lock() = None;
                    let [n0, n1, n2, n3] = number.to_be_bytes();
                    to.write_all(&[0, 2, 0, 1, 0, 0, 0, 0, n0, n1, n2, n3]).await?;
                    number += 1;
                }
                read = from.read_buf(&mut buffer) => if read? == 0 { return Ok(()) },
            }
        }
    }
}

/// A relay that runs.
pub(super) struct Relay {
    pings: [Arc<Pings>; 2],
    /// Bytes of data that have passed from the left, and from the right.
    pub(super) carried: [Arc<AtomicUsize>; 2],
}

impl Relay {
    /// Relays between `left` and `right`.
    pub(super) fn between<T>(left: T, right: T, tasks: &mut JoinSet<()>) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let ((from_left, to_left), (from_right, to_right)) = (tokio::io::split(left), tokio::io::split(right));
        let [there, back] = [Pings::new(), Pings::new()];
        let carried: [Arc<AtomicUsize>; 2] = Default::default();
        let way = Way { mine: Arc::clone(&there), theirs: Arc::clone(&back), carried: Arc::clone(&carried[0]) };
        tasks.spawn(async move { drop(way.run(from_left, to_right).await) });
        let way = Way { mine: Arc::clone(&back), theirs: Arc::clone(&there), carried: Arc::clone(&carried[1]) };
        tasks.spawn(async move { drop(way.run(from_right, to_left).await) });
        Self { pings: [there, back], carried }
    }

    /// How many pings were answered in the direction that had fewer.
    pub(super) fn answered(&self) -> usize {
        self.pings.iter().map(|pings| pings.answered.load(Ordering::Relaxed)).min().unwrap()
    }
}

/// How many bytes were moved, one counter for each stream and end.
#[derive(Clone, Default)]
pub(super) struct Moved(Arc<Mutex<Vec<Arc<AtomicUsize>>>>);

impl Moved {
    pub(super) fn counter(&self) -> Arc<AtomicUsize> {
        let counter = Arc::new(AtomicUsize::new(0));
        self.0.lock().push(Arc::clone(&counter));
        counter
    }

    pub(super) fn each(&self) -> Vec<usize> {
        self.0.lock().iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
    }

    pub(super) fn total(&self) -> usize {
        self.each().into_iter().sum()
    }
}
