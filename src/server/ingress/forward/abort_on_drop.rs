//! Resets a stream whose response nobody reads any more.

use crate::link::session::Stream;

/// The response side of a stream. Dropping it before the response has ended resets the stream, for the upload too.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) Stream);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if !self.0.is_read_ended() {
            self.0.abort();
        }
    }
}
