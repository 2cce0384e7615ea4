//! Follows what yamux writes, frame by frame.

use std::io;

use super::frame::{Frame, GO_AWAY, HEADER};

/// Tells the control frames of yamux from data, and recognizes a GoAway.
///
/// yamux sends a GoAway if the peer has violated the protocol, and would continue to read afterwards. This end sends none
/// for other reasons.
#[derive(Default)]
pub(super) struct Outgoing {
    header: [u8; HEADER],
    have: usize,
    /// Remaining bytes of a body.
    body: usize,
    pub(super) sent_go_away: bool,
}

impl Outgoing {
    /// Passes `bytes` on to `push`, in parts that belong to control frames (`true`) or to data frames (`false`). A header
    /// that comes in parts is passed on as a whole.
    ///
    /// # Errors
    /// Those of `push`.
    pub(super) fn written(
        &mut self,
        mut bytes: &[u8],
        mut push: impl FnMut(&[u8], bool) -> io::Result<()>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.body > 0 {
                let n = self.body.min(bytes.len());
                self.body -= n;
                push(&bytes[..n], false)?;
                bytes = &bytes[n..];
                continue;
            }
            let n = bytes.len().min(HEADER - self.have);
            self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have == HEADER {
                self.have = 0;
                let frame = Frame::of(&self.header);
                self.sent_go_away |= frame.kind == GO_AWAY;
                self.body = frame.body();
                push(&self.header, self.body == 0)?;
            }
        }
        Ok(())
    }
}
