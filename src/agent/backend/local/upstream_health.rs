//! Reports the failures of one local application without repeating itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long the same failure is not reported again. The interval doubles with each report.
const FIRST_REMINDER: Duration = Duration::from_secs(60);
const LAST_REMINDER: Duration = Duration::from_secs(60 * 60);

/// The most failures of one application that are told apart. Further ones are not reported for a while.
const MAX_FAILURES: usize = 4;

/// The health of one application, and which of its failures were reported.
#[derive(Debug, Default)]
pub(in crate::agent) struct UpstreamHealth {
    is_down: AtomicBool,
    reported: Mutex<Reported>,
}

#[derive(Debug, Default)]
struct Reported {
    each: Vec<ReportedFailure>,
    /// A failure was reported, and the recovery was not.
    recovery_is_due: bool,
}

#[derive(Debug)]
struct ReportedFailure {
    text: String,
    at: Instant,
    wait: Duration,
}

impl UpstreamHealth {
    /// Records a failure. Returns whether to report it.
    pub(in crate::agent) fn report_failure(&self, text: &str, now: Instant) -> bool {
        let mut reported = self.reported.lock();
        reported.each.retain(|failure| now.duration_since(failure.at) < LAST_REMINDER * 2);
        let is_news = match reported.each.iter_mut().find(|failure| failure.text == text) {
            Some(failure) if now.duration_since(failure.at) < failure.wait => false,
            Some(failure) => {
                (failure.at, failure.wait) = (now, (failure.wait * 2).min(LAST_REMINDER));
                true
            }
            None => reported.remember(text, now),
        };
        reported.recovery_is_due |= is_news;
        // Last: a task that sees it and reports the recovery waits for the lock.
        self.is_down.store(true, Ordering::Relaxed);
        is_news
    }

    /// Records a success. Returns whether to report the recovery. Costs one atomic load if there was no failure.
    pub(in crate::agent) fn report_success(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
            && self.is_down.swap(false, Ordering::Relaxed)
            && std::mem::take(&mut self.reported.lock().recovery_is_due)
    }
}

impl Reported {
    /// Remembers a new failure. If there are too many, it replaces the oldest one, unless that was reported recently.
    fn remember(&mut self, text: &str, now: Instant) -> bool {
        if self.each.len() >= MAX_FAILURES {
            let oldest = self
                .each
                .iter()
                .enumerate()
                .min_by_key(|(_, failure)| failure.at)
                .map(|(at, failure)| (at, failure.at));
            match oldest {
                Some((at, reported)) if now.duration_since(reported) >= FIRST_REMINDER => {
                    drop(self.each.swap_remove(at))
                }
                _ => return false,
            }
        }
        self.each.push(ReportedFailure { text: text.to_owned(), at: now, wait: FIRST_REMINDER });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_once_and_then_seldom_however_often_it_comes_and_goes() {
        let (health, start) = (UpstreamHealth::default(), Instant::now());
        assert!(!health.report_success(), "nothing was wrong");
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for second in 0..1_000 {
            if health.report_failure("refused", start + Duration::from_secs(second)) {
                begun.push(second);
            }
            if health.report_success() {
                ended.push(second);
            }
        }
        assert_eq!(begun, [0, 60, 180, 420, 900]);
        assert_eq!(ended, begun, "whoever hears of it hears of its end");
    }

    #[test]
    fn another_trouble_is_news_but_not_without_end() {
        let (health, start) = (UpstreamHealth::default(), Instant::now());
        let news = |text: &str, second| health.report_failure(text, start + Duration::from_secs(second));
        assert!(news("refused", 0) && news("no TLS", 0) && !news("refused", 1) && !news("no TLS", 1));
        let reported = (0..1_000).filter(|number| news(&format!("trouble {number}"), 2)).count();
        assert_eq!(reported, MAX_FAILURES - 2);
        assert!(news("something else", 61), "later there is room again");
        assert!(health.report_success() && !health.report_success());
    }
}
