//! Detects lost peers: nothing is received from them, or nothing can be sent to them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::pulse::Pulse;
use crate::protocol::control::MISSED_HEARTBEATS;

/// After this many heartbeats in which no waiting byte could be sent, the peer is lost, even if it still sends.
pub const STUCK_HEARTBEATS: u32 = 10;

/// After this many heartbeats an unsent control message fails the lane, even if other data moves.
pub const UNTAKEN_HEARTBEATS: u32 = 60;

/// Why a peer counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// No byte was received from it.
    Silent,
    /// None of the waiting data could be sent to it.
    Stuck,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => write!(f, "{MISSED_HEARTBEATS} heartbeats were missed"),
            Self::Stuck => write!(f, "no data could be sent for {STUCK_HEARTBEATS} heartbeats"),
        }
    }
}

/// Watches whether a peer that sends at every heartbeat is still alive.
///
/// Every received byte counts, not only heartbeats: on a slow link they wait behind bulk transfers. A peer that sends but
/// does not read is lost, too, but later.
///
/// A process that was suspended, or runs on an overloaded machine, finds the deadline passed although it has not yet read
/// the peer's data or offered its own. So a final check of a quarter of a heartbeat begins when the deadline is noticed.
#[derive(Debug)]
pub struct Silence {
    pulse: Arc<Pulse>,
    patience: Duration,
    stuck: Duration,
    look: Duration,
    until: Instant,
    is_last: bool,
}

impl Silence {
    /// Watches the session of `pulse` from now on.
    pub fn new(pulse: &Arc<Pulse>, heartbeat: Duration) -> Self {
        let patience = heartbeat * MISSED_HEARTBEATS;
        Self {
            pulse: Arc::clone(pulse),
            patience,
            stuck: heartbeat * STUCK_HEARTBEATS,
            look: heartbeat / 4,
            until: Instant::now() + patience,
            is_last: false,
        }
    }

    /// Ends when the peer is lost. Cancel-safe.
    pub async fn is_too_long(&mut self) -> Lost {
        loop {
            sleep_until(self.until).await;
            let silent = self.pulse.last_heard() + self.patience;
            let stuck = self.pulse.stuck_since().map(|since| since + self.stuck);
            let due = stuck.map_or(silent, |stuck| stuck.min(silent));
            let now = Instant::now();
            if due > now {
                (self.until, self.is_last) = (due, false);
            } else if self.is_last {
                return if silent <= now { Lost::Silent } else { Lost::Stuck };
            } else {
                (self.until, self.is_last) = (now + self.look, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::{advance, timeout};

    use super::*;

    const BEAT: Duration = Duration::from_secs(4);
    const TICK: Duration = Duration::from_millis(10);

    fn watched() -> (Arc<Pulse>, Silence) {
        let pulse = Arc::new(Pulse::new());
        let silence = Silence::new(&pulse, BEAT);
        (pulse, silence)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_too_long_after_so_many_heartbeats_and_a_last_look() {
        let (pulse, mut silence) = watched();
        for _ in 0..10 {
            assert!(timeout(BEAT * 3, silence.is_too_long()).await.is_err());
            pulse.received();
        }
        let since = Instant::now();
        // Other things happen meanwhile.
        let lost = loop {
            if let Ok(lost) = timeout(BEAT / 7, silence.is_too_long()).await {
                break lost;
            }
        };
        assert_eq!(lost, Lost::Silent);
        assert!((BEAT * 3..=BEAT * 13 / 4 + TICK).contains(&since.elapsed()), "{since:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_this_process_is_no_silence_of_the_peers() {
        let (pulse, mut silence) = watched();
        for _ in 0..3 {
            advance(BEAT * 100).await;
            assert!(silence.is_too_long().now_or_never().is_none(), "what it has said is still to be read");
            pulse.received();
            assert!(timeout(BEAT * 2, silence.is_too_long()).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_that_it_lives_and_takes_nothing_is_lost_later() {
        let (pulse, mut silence) = watched();
        pulse.offered(true, true);
        let since = Instant::now();
        let lost = loop {
            pulse.received();
            pulse.offered(false, true);
            if let Ok(lost) = timeout(BEAT, silence.is_too_long()).await {
                break lost;
            }
        };
        assert_eq!(lost, Lost::Stuck);
        assert!((BEAT * 10..=BEAT * 41 / 4 + TICK).contains(&since.elapsed()), "{since:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_a_little_now_and_then_is_not_lost() {
        let (pulse, mut silence) = watched();
        for at in 0..100 {
            pulse.received();
            // Nothing to send at times, so the peer is not at fault.
            pulse.offered(at % 8 == 0, at % 16 != 0);
            assert!(timeout(BEAT, silence.is_too_long()).await.is_err());
        }
        pulse.offered(true, false);
        for _ in 0..100 {
            pulse.received();
            assert!(timeout(BEAT, silence.is_too_long()).await.is_err(), "nothing waits");
        }
    }
}
