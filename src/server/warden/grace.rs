//! The time that a change of the clients file gets before it closes most of the tunnels.
//!
//! Files are written in several steps, and the first half of one is often valid: it lists the first clients alone. A
//! reload that would close more than half of the open tunnels, and more than two, therefore closes none of them at first.
//! Each is looked at again 5 s after it was first due, and is closed then if that still applies.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::Change;

/// How long a tunnel stays open that such a reload would close.
pub(super) const DELAY: Duration = Duration::from_secs(5);

/// As many may be closed at once, whatever part of all they are.
const FEW: usize = 2;

/// The tunnels that wait for the end of their time.
#[derive(Debug)]
pub(super) struct Grace<K> {
    waiting: HashMap<K, Waiting>,
    /// The latest change that was looked at.
    seen: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    until: Instant,
    /// The change by which it became due.
    revision: u64,
}

/// A tunnel that may not be as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due<K> {
    pub(super) tunnel: K,
    /// Whether it is to be closed; otherwise it loses some of its services.
    pub(super) closes: bool,
}

/// What comes of a look at all tunnels.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(super) struct Verdict<K: Eq + Hash> {
    /// These are dealt with now.
    pub(super) now: HashSet<K>,
    /// So many more got time.
    pub(super) delayed: usize,
    /// So many that had time are fine again.
    pub(super) spared: usize,
}

impl<K> Default for Grace<K> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), seen: 0 }
    }
}

impl<K: Copy + Eq + Hash> Grace<K> {
    /// Decides about all tunnels that may not be as they are after `change`, out of `open` that serve.
    ///
    /// Only a change by hand that was not looked at before gives time: what a command or the API does, and what expires,
    /// takes effect at once. Nothing prolongs the time that a tunnel has.
    pub(super) fn decide(&mut self, due: &[Due<K>], open: usize, change: Change, now: Instant) -> Verdict<K> {
        let before = self.waiting.len();
        let still_due: HashSet<K> = due.iter().map(|due| due.tunnel).collect();
        self.waiting.retain(|tunnel, _| still_due.contains(tunnel));
        let spared = before - self.waiting.len();
        let is_news = std::mem::replace(&mut self.seen, change.revision) != change.revision;
        let closing = due.iter().filter(|due| due.closes).count();
        let gives_time = is_news && !change.by_command && closing > FEW && closing * 2 > open;
        let (mut at_once, mut delayed) = (HashSet::new(), 0);
        for Due { tunnel, .. } in due {
            let is_over =
                |waiting: &Waiting| waiting.until <= now || (change.by_command && waiting.revision == change.revision);
            match self.waiting.get(tunnel) {
                Some(waiting) if !is_over(waiting) => {}
                None if gives_time => {
                    self.waiting.insert(*tunnel, Waiting { until: now + DELAY, revision: change.revision });
                    delayed += 1;
                }
                _ => {
                    self.waiting.remove(tunnel);
                    at_once.insert(*tunnel);
                }
            }
        }
        Verdict { now: at_once, delayed, spared }
    }

    /// Whether the tunnel stays as it is for now: it has time, or `change` was not looked at yet.
    pub(super) fn covers(&self, tunnel: K, change: Change) -> bool {
        change.revision != self.seen || self.waiting.contains_key(&tunnel)
    }

    /// When the first tunnel's time is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn by_hand(revision: u64) -> Change {
        Change { revision, by_command: false }
    }

    fn by_command(revision: u64) -> Change {
        Change { revision, by_command: true }
    }

    fn closing(tunnels: impl IntoIterator<Item = u32>) -> Vec<Due<u32>> {
        tunnels.into_iter().map(|tunnel| Due { tunnel, closes: true }).collect()
    }

    fn verdict(now: &[u32], delayed: usize, spared: usize) -> Verdict<u32> {
        Verdict { now: now.iter().copied().collect(), delayed, spared }
    }

    #[test]
    fn few_tunnels_and_no_more_than_half_are_closed_at_once() {
        let now = Instant::now();
        for (closes, open, delayed) in [(1, 1, 0), (2, 2, 0), (2, 3, 0), (3, 3, 3), (3, 6, 0), (3, 5, 3), (50, 100, 0)]
        {
            let decided = Grace::default().decide(&closing(0..closes), open, by_hand(1), now);
            assert_eq!(
                (decided.delayed, decided.now.len()),
                (delayed, closes as usize - delayed),
                "{closes} of {open}"
            );
        }
    }

    #[test]
    fn the_second_half_of_a_file_spares_everybody_and_nothing_prolongs_the_time() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&closing(0..4), 5, by_hand(1), start), verdict(&[], 4, 0));
        assert!(grace.covers(0, by_hand(1)) && !grace.covers(9, by_hand(1)) && grace.covers(9, by_hand(2)));
        assert_eq!(grace.next(), Some(start + DELAY));
        // Another change that mends one of them, and is no reason to wait any longer.
        let later = start + Duration::from_secs(3);
        assert_eq!(grace.decide(&closing(0..3), 5, by_hand(2), later), verdict(&[], 0, 1));
        assert_eq!(grace.next(), Some(start + DELAY));
        assert_eq!(grace.decide(&closing(0..3), 5, by_hand(2), start + DELAY), verdict(&[0, 1, 2], 0, 0));
        assert_eq!(grace.next(), None);
        assert_eq!(grace.decide(&closing(0..4), 5, by_hand(3), start + DELAY), verdict(&[], 4, 0));
        assert_eq!(grace.decide(&[], 5, by_hand(4), start + DELAY + STEP), verdict(&[], 0, 4));
    }

    #[test]
    fn commands_and_what_expires_take_effect_at_once() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&closing(0..4), 4, by_command(1), now), verdict(&[0, 1, 2, 3], 0, 0));
        // No change at all: something has expired.
        assert_eq!(grace.decide(&closing(0..4), 4, by_command(1), now), verdict(&[0, 1, 2, 3], 0, 0));
        let mut grace = Grace::default();
        assert_eq!(grace.decide(&closing(0..4), 6, by_hand(1), now), verdict(&[], 4, 0));
        assert_eq!(
            grace.decide(&closing(0..5), 6, by_command(2), now + STEP),
            verdict(&[4], 0, 0),
            "the rest has its time"
        );
        assert_eq!(grace.decide(&closing(0..6), 6, by_command(2), now + STEP), verdict(&[4, 5], 0, 0), "expired");
    }

    #[test]
    fn a_change_that_turns_out_to_be_a_command_waits_no_more() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&closing(0..4), 4, by_hand(1), now).delayed, 4);
        assert_eq!(grace.decide(&closing(0..4), 4, by_command(1), now), verdict(&[0, 1, 2, 3], 0, 0));
    }

    #[test]
    fn services_wait_with_the_tunnels() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        let mut due = closing(0..3);
        due.push(Due { tunnel: 7, closes: false });
        assert_eq!(grace.decide(&due, 4, by_hand(1), now), verdict(&[], 4, 0));
        let alone = [Due { tunnel: 7, closes: false }];
        assert_eq!(Grace::default().decide(&alone, 1, by_hand(1), now), verdict(&[7], 0, 0));
    }

    proptest! {
        /// Whatever changes: a tunnel that is due without a break is dealt with at once or 5 s after it was first due, and
        /// one that is not due never is.
        #[test]
        fn nobody_waits_longer_than_the_delay(
            steps in proptest::collection::vec((proptest::collection::vec(any::<bool>(), 6), any::<bool>(), any::<bool>()), 1..60),
        ) {
            let (mut grace, start) = (Grace::default(), Instant::now());
            let mut due_since = HashMap::<u32, Instant>::new();
            let mut revision = 0;
            for (step, (due, is_news, is_command)) in steps.into_iter().enumerate() {
                let now = start + STEP * step as u32;
                revision += u64::from(is_news);
                let change = Change { revision, by_command: is_command };
                let due: Vec<u32> = (0..6).filter(|at| due[*at as usize]).collect();
                due_since.retain(|tunnel, _| due.contains(tunnel));
                for tunnel in &due {
                    due_since.entry(*tunnel).or_insert(now);
                }
                let verdict = grace.decide(&closing(due.clone()), 6, change, now);
                prop_assert!(verdict.now.iter().all(|tunnel| due.contains(tunnel)));
                for tunnel in &verdict.now {
                    due_since.remove(tunnel);
                }
                for (tunnel, since) in &due_since {
                    prop_assert!(now.duration_since(*since) < DELAY, "{tunnel} is due since {since:?}");
                    prop_assert!(grace.covers(*tunnel, change));
                }
                prop_assert!(grace.next().is_none_or(|next| next > now && next <= now + DELAY));
            }
        }
    }
}
