//! The buffers that gather what the multiplexer writes, until the pipe takes it.

use std::collections::VecDeque;

/// Free bytes at the beginning of each buffer, for the header of a record around its content.
pub(super) const HEADER_ROOM: usize = 12;

/// Bytes of content in a full buffer.
pub(super) const SEGMENT: usize = 64 * 1024;

/// Bytes that an idle session keeps allocated for its next writes.
const IDLE_CAPACITY: usize = 4 * 1024;

/// One buffer: [`HEADER_ROOM`] free bytes, then content.
#[derive(Debug, Default)]
pub(super) struct Segment {
    bytes: Vec<u8>,
    /// Bytes of control frames in it.
    control: usize,
}

impl Segment {
    fn is_empty(&self) -> bool {
        self.bytes.len() <= HEADER_ROOM
    }

    /// Appends what fits of `bytes` and returns how many do.
    fn fill(&mut self, bytes: &[u8]) -> usize {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_ROOM, 0);
        }
        let n = bytes.len().min(HEADER_ROOM + SEGMENT - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..n]);
        n
    }
}

/// Gathered bytes in order: the buffer that is being sent, full ones, and the one that is filled.
#[derive(Debug, Default)]
pub(super) struct Segments {
    sending: Segment,
    /// Where the unsent rest of `sending` begins.
    at: usize,
    full: VecDeque<Segment>,
    open: Segment,
    /// Bytes of control frames that are not sent yet.
    control: usize,
}

impl Segments {
    /// Appends `bytes`, which belong to control frames or to data frames.
    pub(super) fn push(&mut self, mut bytes: &[u8], is_control: bool) {
        loop {
            let n = self.open.fill(bytes);
            if is_control {
                self.open.control += n;
                self.control += n;
            }
            bytes = &bytes[n..];
            if bytes.is_empty() {
                return;
            }
            self.full.push_back(std::mem::take(&mut self.open));
        }
    }

    /// Returns the next bytes to send, all of one buffer. Nothing is appended to a buffer that is being sent, so it can be
    /// sealed and kept as a whole.
    pub(super) fn unsent(&mut self) -> Option<&[u8]> {
        if self.sending.is_empty() {
            if let Some(full) = self.full.pop_front() {
                self.sending = full;
            } else if self.open.is_empty() {
                return None;
            } else {
                std::mem::swap(&mut self.sending, &mut self.open);
            }
            self.at = HEADER_ROOM;
        }
        Some(&self.sending.bytes[self.at..])
    }

    /// Notes that the pipe has taken `n` of the unsent bytes. When it has taken a whole buffer, returns how many bytes of
    /// data frames were in it.
    pub(super) fn taken(&mut self, n: usize) -> usize {
        self.at += n;
        if self.at < self.sending.bytes.len() {
            return 0;
        }
        let content = self.sending.bytes.len() - HEADER_ROOM;
        let control = std::mem::take(&mut self.sending.control);
        self.control -= control;
        self.recycle();
        content - control
    }

    /// Keeps the allocation of the sent buffer for the next writes, but little of it for an idle session.
    fn recycle(&mut self) {
        let used = self.sending.bytes.len();
        self.sending.bytes.clear();
        if self.open.bytes.capacity() < self.sending.bytes.capacity() && self.open.is_empty() {
            std::mem::swap(&mut self.sending, &mut self.open);
            self.sending.bytes = Vec::new();
        } else if self.open.bytes.capacity() > 0 {
            self.sending.bytes = Vec::new();
        }
        let kept = &mut self.open.bytes;
        if used < HEADER_ROOM + IDLE_CAPACITY && kept.is_empty() && kept.capacity() > HEADER_ROOM + IDLE_CAPACITY {
            kept.shrink_to(HEADER_ROOM + IDLE_CAPACITY);
        }
    }

    /// Returns how many bytes stay allocated.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        let full: usize = self.full.iter().map(|segment| segment.bytes.capacity()).sum();
        self.sending.bytes.capacity() + full + self.open.bytes.capacity()
    }

    /// Returns how many bytes of control frames wait to be sent.
    pub(super) fn control(&self) -> usize {
        self.control
    }
}
