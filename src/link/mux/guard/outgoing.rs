//! Tracks outgoing frame boundaries, and queues the answers to the peer's pings.

use super::{DATA, Frame, GO_AWAY, HEADER, PING};

/// Follows what yamux sends, frame by frame.
///
/// A GoAway from yamux means that the peer has violated the protocol; yamux would continue to read afterwards. This end
/// sends no GoAway for other reasons.
#[derive(Default)]
pub(crate) struct Outgoing {
    header: [u8; HEADER],
    have: usize,
    /// The number of remaining bytes of a body.
    body: usize,
    pub(crate) said_goodbye: bool,
}

impl Outgoing {
    /// yamux has sent `bytes`.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.body > 0 {
                let n = self.body.min(bytes.len());
                self.body -= n;
                bytes = &bytes[n..];
                continue;
            }
            let n = bytes.len().min(HEADER - self.have);
            self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have == HEADER {
                self.have = 0;
                let Frame { kind, length, .. } = Frame::of(&self.header);
                self.said_goodbye |= kind == GO_AWAY;
                self.body = if kind == DATA { length } else { 0 };
            }
        }
    }

    /// Returns whether no frame is half sent, so that the guard can insert its own frame.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.body == 0
    }
}

/// Maximum number of queued answers to pings. yamux sends the next ping only after the answer, so another adit causes at
/// most one.
pub(crate) const MAX_OWED: usize = 8;

/// Pings that are not answered yet, the oldest first.
#[derive(Default)]
pub(crate) struct Owed {
    pings: [u32; MAX_OWED],
    count: usize,
}

impl Owed {
    /// Queues the answer to a ping. Drops it if the queue is full: reading never waits for writing.
    pub(crate) fn add(&mut self, ping: u32) {
        if let Some(free) = self.pings.get_mut(self.count) {
            *free = ping;
            self.count += 1;
        }
    }

    /// Returns the next answer.
    pub(crate) fn next(&self) -> Option<[u8; HEADER]> {
        self.pings[..self.count].first().map(|ping| pong(*ping))
    }

    /// Removes the next answer after it was sent.
    pub(crate) fn sent(&mut self) {
        if self.count > 0 {
            self.pings.copy_within(1..self.count, 0);
            self.count -= 1;
        }
    }
}

fn pong(ping: u32) -> [u8; HEADER] {
    let [p0, p1, p2, p3] = ping.to_be_bytes();
    let [f0, f1] = super::ACK.to_be_bytes();
    [0, PING, f0, f1, 0, 0, 0, 0, p0, p1, p2, p3]
}
