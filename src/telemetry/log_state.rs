//! How the log itself is: what of it was lost, and whether its files make room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing_appender::non_blocking::ErrorCounter;

/// A loss is a problem for so long.
const LATELY: Duration = Duration::from_secs(600);

/// How the log of this process is. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct LogState(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Lines for which there was no room among those that wait.
    left_out: OnceLock<ErrorCounter>,
    /// Lines that could not be written.
    unwritten: AtomicU64,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// So many lines were left out when somebody looked last.
    left_out: u64,
    /// When lines were lost last, and why.
    last: Option<(Instant, String)>,
    /// Why no other file can be begun.
    stuck: Option<String>,
}

impl LogState {
    /// Lines that were lost since the start.
    pub fn lost_lines(&self) -> u64 {
        self.left_out() + self.0.unwritten.load(Ordering::Relaxed)
    }

    /// What is wrong now, or was a moment ago.
    pub fn problems(&self) -> Vec<String> {
        self.problems_at(Instant::now())
    }

    fn problems_at(&self, now: Instant) -> Vec<String> {
        self.look_at(now);
        let lost = self.lost_lines();
        let noted = self.0.noted.lock();
        let last = noted.last.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < LATELY);
        let last = last.map(|(_, why)| format!("lines of the log are lost, {lost} since the start: {why}"));
        last.into_iter().chain(noted.stuck.clone()).collect()
    }

    /// Who counts the lines that are left out.
    pub(super) fn counts_with(&self, counter: ErrorCounter) {
        // There is one queue in the life of a log.
        let _ = self.0.left_out.set(counter);
    }

    fn left_out(&self) -> u64 {
        self.0.left_out.get().map_or(0, |counter| counter.dropped_lines() as u64)
    }

    /// So many lines could not be written.
    pub(super) fn lost(&self, lines: u64, why: String) {
        self.0.unwritten.fetch_add(lines, Ordering::Relaxed);
        self.0.noted.lock().last = Some((Instant::now(), why));
    }

    /// Notes when lines were left out: only those that write look often enough.
    pub(super) fn look(&self) {
        self.look_at(Instant::now());
    }

    fn look_at(&self, now: Instant) {
        let left_out = self.left_out();
        let mut noted = self.0.noted.lock();
        if left_out > noted.left_out {
            noted.left_out = left_out;
            noted.last = Some((now, "more came than could be written".to_owned()));
        }
    }

    /// No other file can be begun, or it can again.
    pub(super) fn stuck(&self, why: Option<String>) {
        self.0.noted.lock().stuck = why;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_problem_for_ten_minutes_and_is_counted_for_ever() {
        let state = LogState::default();
        assert_eq!((state.lost_lines(), state.problems()), (0, Vec::new()));
        state.lost(3, "the disk is full".to_owned());
        assert_eq!(state.problems(), ["lines of the log are lost, 3 since the start: the disk is full"]);
        assert_eq!(state.problems_at(Instant::now() + LATELY), Vec::<String>::new());
        assert_eq!(state.lost_lines(), 3);
    }
}
