//! One direction of a link, without I/O and without a clock: packets go in with the time, and come out when they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::flow::flow_of;
use crate::queue::{Queue, Waiting};

/// What a direction is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    /// Bits a second; 0 is as fast as it goes.
    pub(crate) rate: f64,
    /// On the way, after the rate.
    pub(crate) delay: Duration,
    /// Bytes that wait for the rate.
    pub(crate) queue: usize,
    /// Whether each flow waits in a queue of its own.
    pub(crate) fair: bool,
    /// The share that is dropped, 0 to 1.
    pub(crate) loss: f64,
    /// The share that is not delayed, 0 to 1.
    pub(crate) reorder: f64,
    /// Whether nothing comes through.
    pub(crate) cut: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { rate: 0.0, delay: Duration::ZERO, queue: 256_000, fair: false, loss: 0.0, reorder: 0.0, cut: false }
    }
}

/// A packet on its way: when it is due, and its number, so that equals keep their order.
type OnTheWay = Reverse<(Instant, u64, Vec<u8>)>;

/// One direction.
pub(crate) struct Shaper {
    shape: Shape,
    queue: Queue,
    /// When the last packet has left the queue to its last bit.
    busy_until: Option<Instant>,
    way: BinaryHeap<OnTheWay>,
    sent: u64,
    dice: Dice,
}

impl Shaper {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape, queue: Queue::default(), busy_until: None, way: BinaryHeap::new(), sent: 0, dice: Dice(1) }
    }

    /// Changes it for what comes from now on; what is on its way arrives as it would have.
    pub(crate) fn set(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// A packet comes.
    pub(crate) fn push(&mut self, now: Instant, packet: Vec<u8>) {
        if self.shape.cut || self.dice.falls_below(self.shape.loss) {
            return;
        }
        self.advance(now);
        let flow = if self.shape.fair { flow_of(&packet) } else { 0 };
        self.queue.push(flow, Waiting { since: now, packet }, self.shape.queue);
    }

    /// A packet that is due, if there is one.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.advance(now);
        while self.way.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Reverse((.., packet)) = self.way.pop()?;
            if !self.shape.cut {
                return Some(packet);
            }
        }
        None
    }

    /// When to look again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let arrives = self.way.peek().map(|Reverse((due, ..))| *due);
        let leaves = if self.queue.is_empty() { None } else { self.busy_until };
        [arrives, leaves].into_iter().flatten().min()
    }

    /// Sends from the queue what could have been sent until now, each at its own time, however late somebody looks.
    fn advance(&mut self, now: Instant) {
        while self.busy_until.is_none_or(|busy| busy <= now) {
            let Some(Waiting { since, packet }) = self.queue.pop() else { return };
            let start = self.busy_until.map_or(since, |busy| busy.max(since));
            let left = start + self.time_of(packet.len());
            self.busy_until = Some(left);
            let overtakes = self.dice.falls_below(self.shape.reorder);
            let due = if overtakes { left } else { left + self.shape.delay };
            self.sent += 1;
            self.way.push(Reverse((due, self.sent, packet)));
        }
    }

    fn time_of(&self, bytes: usize) -> Duration {
        if self.shape.rate > 0.0 {
            Duration::from_secs_f64(bytes as f64 * 8.0 / self.shape.rate)
        } else {
            Duration::ZERO
        }
    }
}

/// Chance that is the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn falls_below(&mut self, share: f64) -> bool {
        if share <= 0.0 {
            return false;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = (mixed ^ (mixed >> 31)) >> 11;
        (number as f64) < share * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
