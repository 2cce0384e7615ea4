//! When a peer that should speak from time to time has been silent for too long.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Listens for a peer's silence.
///
/// A process that stood still (stopped, or on a machine that is too busy) finds the time over and what the peer has said
/// meanwhile still unread. So there is a last look of a quarter of a heartbeat, which begins when the time is seen to be
/// over.
#[derive(Debug)]
pub struct Silence {
    patience: Duration,
    look: Duration,
    until: Instant,
    is_last: bool,
}

impl Silence {
    /// The peer, which speaks once for each `heartbeat`, may be silent for so many of them from now on.
    pub fn new(heartbeat: Duration, beats: u32) -> Self {
        let patience = heartbeat * beats;
        Self { patience, look: heartbeat / 4, until: Instant::now() + patience, is_last: false }
    }

    /// The peer has said something.
    pub fn heard(&mut self) {
        (self.until, self.is_last) = (Instant::now() + self.patience, false);
    }

    /// Ends when the peer was silent for too long. Cancel-safe.
    pub async fn is_too_long(&mut self) {
        sleep_until(self.until).await;
        if !self.is_last {
            (self.until, self.is_last) = (Instant::now() + self.look, true);
            sleep_until(self.until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::{advance, timeout};

    use super::*;

    const BEAT: Duration = Duration::from_secs(4);

    #[tokio::test(start_paused = true)]
    async fn it_is_too_long_after_so_many_heartbeats_and_a_last_look() {
        let mut silence = Silence::new(BEAT, 3);
        for _ in 0..10 {
            assert!(timeout(BEAT * 3, silence.is_too_long()).await.is_err());
            silence.heard();
        }
        let since = Instant::now();
        // Other things happen meanwhile.
        while timeout(BEAT / 7, silence.is_too_long()).await.is_err() {}
        assert!((BEAT * 3..=BEAT * 13 / 4 + Duration::from_millis(10)).contains(&since.elapsed()), "{since:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_this_process_is_no_silence_of_the_peers() {
        let mut silence = Silence::new(BEAT, 3);
        for _ in 0..3 {
            advance(BEAT * 100).await;
            assert!(silence.is_too_long().now_or_never().is_none(), "what it has said is still to be read");
            silence.heard();
            assert!(timeout(BEAT * 2, silence.is_too_long()).await.is_err());
        }
    }
}
