//! What waits for the rate of a link: one queue, or one for each flow that take turns (deficit round robin).

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// Bytes that a flow may send when its turn comes.
const QUANTUM: usize = 1514;

/// A packet, and when it came.
pub(crate) struct Waiting {
    pub(crate) since: Instant,
    pub(crate) packet: Vec<u8>,
}

#[derive(Default)]
struct Flow {
    packets: VecDeque<Waiting>,
    bytes: usize,
    may_send: usize,
}

/// Packets in the order in which they leave.
#[derive(Default)]
pub(crate) struct Queue {
    flows: HashMap<u64, Flow>,
    /// Those with packets; the first has its turn.
    turns: VecDeque<u64>,
    bytes: usize,
}

impl Queue {
    /// Puts a packet behind those of its flow. If there are more than `limit` bytes then, the longest flow loses its
    /// latest.
    pub(crate) fn push(&mut self, flow: u64, waiting: Waiting, limit: usize) {
        let size = waiting.packet.len();
        let queue = self.flows.entry(flow).or_insert_with(|| {
            self.turns.push_back(flow);
            Flow { may_send: QUANTUM, ..Flow::default() }
        });
        queue.packets.push_back(waiting);
        queue.bytes += size;
        self.bytes += size;
        while self.bytes > limit && self.drop_one() {}
    }

    fn drop_one(&mut self) -> bool {
        let Some((&key, flow)) = self.flows.iter_mut().max_by_key(|(_, flow)| flow.bytes) else { return false };
        let size = flow.packets.pop_back().map_or(0, |waiting| waiting.packet.len());
        flow.bytes -= size;
        self.bytes -= size;
        if flow.packets.is_empty() {
            self.forget(key);
        }
        true
    }

    fn forget(&mut self, key: u64) {
        self.flows.remove(&key);
        self.turns.retain(|turn| *turn != key);
    }

    /// The packet that leaves next.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        loop {
            let key = *self.turns.front()?;
            let flow = self.flows.get_mut(&key)?;
            let size = flow.packets.front()?.packet.len();
            if flow.may_send < size {
                flow.may_send += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            flow.may_send -= size;
            flow.bytes -= size;
            self.bytes -= size;
            let waiting = flow.packets.pop_front();
            if flow.packets.is_empty() {
                self.forget(key);
            }
            return waiting;
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = 10_000;

    fn packet(byte: u8, size: usize) -> Waiting {
        Waiting { since: Instant::now(), packet: vec![byte; size] }
    }

    fn order(queue: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop()).map(|waiting| waiting.packet[0]).collect()
    }

    #[test]
    fn one_flow_keeps_its_order_and_loses_what_is_too_much() {
        let mut queue = Queue::default();
        (0..20).for_each(|byte| queue.push(1, packet(byte, 1000), FULL));
        assert_eq!(order(&mut queue), (0..10).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }

    #[test]
    fn a_small_flow_does_not_wait_for_a_large_one() {
        let mut queue = Queue::default();
        (0..5).for_each(|_| queue.push(1, packet(1, 1400), FULL));
        queue.push(2, packet(2, 100), FULL);
        assert_eq!(order(&mut queue).iter().position(|byte| *byte == 2), Some(1));
    }

    #[test]
    fn flows_share_bytes_and_not_packets() {
        let mut queue = Queue::default();
        (0..60).for_each(|_| queue.push(1, packet(1, 100), usize::MAX));
        (0..6).for_each(|_| queue.push(2, packet(2, 1000), usize::MAX));
        let half: Vec<u8> = std::iter::from_fn(|| queue.pop()).map(|waiting| waiting.packet[0]).take(33).collect();
        let large = half.iter().filter(|byte| **byte == 2).count();
        assert!((2..=4).contains(&large), "{large} of the large packets among the first 33");
    }

    #[test]
    fn the_longest_flow_pays_for_a_full_queue() {
        let mut queue = Queue::default();
        (0..10).for_each(|_| queue.push(1, packet(1, 1000), FULL));
        queue.push(2, packet(2, 1000), FULL);
        let left = order(&mut queue);
        assert_eq!(left.iter().filter(|byte| **byte == 1).count(), 9);
        assert_eq!(left.iter().filter(|byte| **byte == 2).count(), 1);
    }
}
