//! What leaves this end: where one frame ends and the next begins, and the answers to the peer's pings.

use super::{DATA, Frame, GO_AWAY, HEADER, PING};

/// Follows what yamux sends, frame by frame.
///
/// A goodbye from yamux means that the peer has broken the rules; yamux would go on listening afterwards. This end says
/// none for other reasons.
#[derive(Default)]
pub(super) struct Outgoing {
    header: [u8; HEADER],
    have: usize,
    /// So many bytes of a body are still to come.
    body: usize,
    pub(super) said_goodbye: bool,
}

impl Outgoing {
    /// yamux has sent `bytes`.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
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

    /// Whether the last frame is complete and no other has begun, so that a frame of the guard's own fits in.
    pub(super) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.body == 0
    }
}

/// So many answers to pings may wait. yamux itself pings again only after the answer, so from another adit one waits at
/// most.
pub(super) const MAX_OWED: usize = 8;

/// Pings that are not answered yet, the oldest first.
#[derive(Default)]
pub(super) struct Owed {
    pings: [u32; MAX_OWED],
    count: usize,
}

impl Owed {
    /// A ping has come. One too many stays unanswered: reading never waits for what is to be written.
    pub(super) fn add(&mut self, ping: u32) {
        if let Some(free) = self.pings.get_mut(self.count) {
            *free = ping;
            self.count += 1;
        }
    }

    /// The answer that is next.
    pub(super) fn next(&self) -> Option<[u8; HEADER]> {
        self.pings[..self.count].first().map(|ping| pong(*ping))
    }

    /// The next answer was sent.
    pub(super) fn sent(&mut self) {
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
