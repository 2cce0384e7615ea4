//! The headers of yamux's frames.

/// Bytes of a frame's header: version, kind, flags (2), stream (4), length (4).
pub(super) const HEADER: usize = crate::link::write::FRAME_HEADER;
pub(super) const DATA: u8 = 0;
pub(super) const WINDOW_UPDATE: u8 = 1;
pub(super) const PING: u8 = 2;
pub(super) const GO_AWAY: u8 = 3;
pub(super) const SYN: u16 = 1;
pub(super) const ACK: u16 = 2;
pub(super) const RST: u16 = 8;

/// The header of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u16,
    pub(super) stream: u32,
    /// Bytes of data that follow, if it is a data frame.
    pub(super) length: usize,
}

impl Frame {
    pub(super) fn of(header: &[u8; HEADER]) -> Self {
        let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        Self { kind, flags: u16::from_be_bytes([f0, f1]), stream: u32::from_be_bytes([s0, s1, s2, s3]), length }
    }

    /// Returns the bytes of its body.
    pub(super) fn body(&self) -> usize {
        if self.kind == DATA { self.length } else { 0 }
    }
}

/// Returns the answer to a ping.
pub(super) fn pong(ping: u32) -> [u8; HEADER] {
    let [p0, p1, p2, p3] = ping.to_be_bytes();
    let [f0, f1] = ACK.to_be_bytes();
    [0, PING, f0, f1, 0, 0, 0, 0, p0, p1, p2, p3]
}
