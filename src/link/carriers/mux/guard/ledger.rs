//! What waits to be read on the streams of a session, and how much may.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::link::carriers::mux::stream::Halves;
use crate::link::write::SendBudget;

/// Bytes that yamux needs for a waiting frame, beside its content: a place in a queue and an allocation.
pub(super) const FRAME_COST: usize = 64;

/// How many frames smaller than [`FRAME_COST`] may wait on one stream. A window is full before, unless they carry less than
/// 16 bytes each.
pub(super) const MAX_SMALL: usize = 16 * 1024;

/// Bytes that may wait on a stream even if too much waits in all: a reader that keeps up is not cut.
pub const SPARED: usize = 64 * 1024;

/// How often the log reports cut streams at most.
const TELL_AGAIN: Duration = Duration::from_secs(60);

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

/// The open streams of a session.
pub(crate) struct Ledger {
    unread: Arc<Unread>,
    /// What the streams queue to be sent.
    pub(crate) budget: Arc<SendBudget>,
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    open: HashMap<u32, Weak<Halves>, BuildHasherDefault<Spread>>,
    /// The stream that the peer has opened last, and the bytes that came with its first frame.
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
    pub(crate) fn new(unread: Arc<Unread>, budget: Arc<SendBudget>) -> Arc<Self> {
        Arc::new(Self { unread, budget, streams: Mutex::default() })
    }

    /// The peer opens stream `id`, with `length` bytes in its first frame.
    pub(super) fn begins(&self, id: u32, length: usize) {
        self.streams.lock().begun = Some((id, length));
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
    pub(super) fn may_wait(&self, id: u32, length: usize) -> bool {
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
