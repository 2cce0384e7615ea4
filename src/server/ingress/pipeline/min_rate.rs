//! The minimum rate of a body that is held until its signature is verified.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// In each interval this many bytes have to arrive: 13 kbit/s, which is slower than any mobile line. So a slow or silent
/// sender is dropped within seconds and not only at its deadline.
const WINDOW: Duration = Duration::from_secs(5);
const LEAST: usize = 8 * 1024;

/// The minimum average rate of a body, in bytes per second, after the time allowed for a head.
const RATE: u64 = 256 * 1024;

/// The deadlines of one body: for its next bytes, and for all of it.
#[derive(Debug)]
pub(crate) struct MinRate {
    window: Duration,
    since: Instant,
    came: usize,
    end: Instant,
}

impl MinRate {
    /// Begins now. A body of `length` bytes has `head` and a second for each 256 KiB, and is never silent for longer than
    /// `idle`.
    pub(crate) fn new(length: u64, head: Duration, idle: Duration) -> Self {
        let since = Instant::now();
        Self { window: idle.min(WINDOW), since, came: 0, end: since + head + Duration::from_secs(length / RATE) }
    }

    /// Records that this many bytes have arrived.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.came += bytes;
        // A shorter time is one without a single byte.
        if self.came >= LEAST || self.window < WINDOW {
            (self.since, self.came) = (Instant::now(), 0);
        }
    }

    /// Waits for what comes next; `None` if it comes too late. Dropping the future leaves the deadlines as they are.
    pub(crate) async fn watch<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.end.min(self.since + self.window), next).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{advance, sleep};

    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(300);

    /// How long a body of `length` lasts of which `bytes` come each `pause`.
    async fn lasts(mut min_rate: MinRate, bytes: usize, pause: Duration) -> Duration {
        let start = Instant::now();
        while min_rate.watch(sleep(pause)).await.is_some() {
            min_rate.moved(bytes);
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_sender_is_given_up_at_once_and_not_at_its_deadline() {
        for length in [0, 1 << 20, 25 << 20] {
            let mut min_rate = MinRate::new(length, HEAD, IDLE);
            // All but the last bytes, at once.
            min_rate.moved(length as usize);
            let start = Instant::now();
            assert!(min_rate.watch(pending::<()>()).await.is_none());
            assert!(start.elapsed() <= WINDOW, "{length}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_drips_is_given_up_after_a_window() {
        let drips = [(1, Duration::from_millis(1)), (1, Duration::from_secs(1)), (1_500, Duration::from_secs(1))];
        for (bytes, pause) in drips {
            let lasted = lasts(MinRate::new(25 << 20, HEAD, IDLE), bytes, pause).await;
            assert!(lasted <= 2 * WINDOW, "{bytes} each {pause:?}: {lasted:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_line_has_until_the_deadline() {
        let deadline = HEAD + Duration::from_secs(4);
        for (bytes, pause) in [(1_700, Duration::from_secs(1)), (8_192, Duration::from_millis(4_900))] {
            assert_eq!(
                lasts(MinRate::new(1 << 20, HEAD, IDLE), bytes, pause).await,
                deadline,
                "{bytes} each {pause:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_idle_time_counts_from_the_last_byte() {
        let mut min_rate = MinRate::new(1 << 20, HEAD, Duration::from_millis(200));
        for _ in 0..20 {
            advance(Duration::from_millis(100)).await;
            min_rate.moved(1);
        }
        let start = Instant::now();
        assert!(min_rate.watch(pending::<()>()).await.is_none());
        assert_eq!(start.elapsed(), Duration::from_millis(200));
    }
}
