//! Answers over HTTP/2 that stand still because the visitor opens no window for them (RFC 9113, section 5.2).
//!
//! Over HTTP/1.1 the socket notices a visitor that takes nothing. Over HTTP/2 the socket is idle then, and nobody asks the
//! body for more: it has no moment of its own to look at a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::server::http_connection::in_flight::InFlight;

/// How often a connection is looked at in the time that it may stand still.
const LOOKS: u32 = 4;

/// What is known of the answers on one connection.
#[derive(Debug, Default)]
pub(crate) struct StallDetector {
    /// Answers of which a piece, or the head, is with the visitor, and that were not asked for more since.
    with_visitor: AtomicU64,
    /// Counts how often one was asked for more.
    asked: AtomicU64,
}

impl StallDetector {
    /// An answer has given its head or a piece away.
    pub(crate) fn give(&self) {
        self.with_visitor.fetch_add(1, Ordering::Relaxed);
    }

    /// That answer is asked for more, or has ended.
    pub(crate) fn take_back(&self) {
        self.with_visitor.fetch_sub(1, Ordering::Relaxed);
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Ready when, for `limit` and up to half as long again, the visitor has asked for nothing of any of its requests,
    /// though there was something of each of them for it.
    pub(crate) async fn stalled(&self, in_flight: &InFlight, limit: Duration) {
        let mut clock = interval(limit / LOOKS);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut quiet) = (0, 0);
        while quiet <= LOOKS {
            clock.tick().await;
            let (asked, open) = (self.asked.load(Ordering::Relaxed), in_flight.count());
            let stands = open > 0 && self.with_visitor.load(Ordering::Relaxed) >= open && asked == seen;
            quiet = if stands { quiet + 1 } else { 0 };
            seen = asked;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    #[tokio::test(start_paused = true)]
    async fn a_connection_stands_still_when_all_of_its_answers_do() {
        let (stall, in_flight) = (StallDetector::default(), InFlight::default());
        let stalled = || tokio::time::timeout(10 * LIMIT, stall.stalled(&in_flight, LIMIT));
        assert!(stalled().await.is_err(), "nothing is open");
        let _one = in_flight.begin();
        assert!(stalled().await.is_err(), "the application is to say something");
        stall.give();
        let since = Instant::now();
        assert!(stalled().await.is_ok());
        assert!((LIMIT..=LIMIT * 3 / 2).contains(&since.elapsed()), "{:?}", since.elapsed());
        let two = in_flight.begin();
        assert!(stalled().await.is_err(), "another one waits for the application");
        drop(two);
        let moves = async {
            for _ in 0..20 {
                tokio::time::sleep(LIMIT / 2).await;
                stall.take_back();
                stall.give();
            }
        };
        tokio::select! {
            () = moves => {}
            () = stall.stalled(&in_flight, LIMIT) => panic!("it moves"),
        }
    }
}
