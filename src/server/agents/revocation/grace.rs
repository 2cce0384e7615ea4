//! Delays a change of the clients file that would close most of the tunnels.
//!
//! Files are often written in several steps, and the first half of a clients file is often valid: it lists only the first
//! clients. So a reload that would close more than half of the open tunnels, and more than two, closes none of them at
//! first. The server checks each one again 5 s after it was first due, and closes it if the file still requires that.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::tenants::clients::Change;

/// How long a tunnel stays open that such a reload would close.
pub(crate) const DELAY: Duration = Duration::from_secs(5);

/// As many may be closed at once, whatever part of all they are.
const FEW: usize = 2;

/// The tunnels that wait for the end of their time.
#[derive(Debug)]
pub(crate) struct Grace<K> {
    /// And until when.
    waiting: HashMap<K, Instant>,
    /// The latest change that was looked at.
    seen: u64,
}

/// A tunnel that may not be as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due<K> {
    pub(crate) tunnel: K,
    /// Whether it is to be closed; otherwise it loses some of its services.
    pub(crate) closes: bool,
    /// The latest change of its client.
    pub(crate) change: Option<Change>,
}

impl<K> Due<K> {
    /// Whether a command or the API changed its client last. Such a change is never half of one.
    fn is_by_command(&self) -> bool {
        self.change.is_some_and(|change| change.by_command)
    }

    /// Whether it may be due because of half a file, that was not looked at before `seen`.
    fn may_be_unmeant(&self, seen: u64) -> bool {
        self.change.is_some_and(|change| change.revision > seen && !change.by_command)
    }
}

/// What comes of a look at all tunnels.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct Verdict<K: Eq + Hash> {
    /// These are dealt with now.
    pub(crate) now: HashSet<K>,
    /// So many more got time.
    pub(crate) delayed: usize,
    /// These had time, and are fine again or gone.
    pub(crate) spared: HashSet<K>,
}

impl<K> Default for Grace<K> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), seen: 0 }
    }
}

impl<K: Copy + Eq + Hash> Grace<K> {
    /// Decides about all tunnels that may not be as they are after the change with this revision, out of `open` that serve.
    ///
    /// Only a change by hand that was not looked at before gives time: what a command or the API does, and what expires,
    /// takes effect at once. Nothing prolongs the time that a tunnel has, and a command ends it.
    pub(crate) fn decide(&mut self, due: &[Due<K>], open: usize, revision: u64, now: Instant) -> Verdict<K> {
        let still_due: HashSet<K> = due.iter().map(|due| due.tunnel).collect();
        let spared =
            self.waiting.extract_if(|tunnel, _| !still_due.contains(tunnel)).map(|(tunnel, _)| tunnel).collect();
        let seen = std::mem::replace(&mut self.seen, revision);
        let is_in_doubt = |due: &Due<K>| due.may_be_unmeant(seen) || self.waiting.contains_key(&due.tunnel);
        let closing = due.iter().filter(|due| due.closes && is_in_doubt(due)).count();
        let gives_time = closing > FEW && closing * 2 > open;
        let (mut at_once, mut delayed) = (HashSet::new(), 0);
        for due in due {
            match self.waiting.get(&due.tunnel) {
                Some(until) if *until > now && !due.is_by_command() => {}
                None if gives_time && due.may_be_unmeant(seen) => {
                    self.waiting.insert(due.tunnel, now + DELAY);
                    delayed += 1;
                }
                _ => {
                    self.waiting.remove(&due.tunnel);
                    at_once.insert(due.tunnel);
                }
            }
        }
        Verdict { now: at_once, delayed, spared }
    }

    /// Whether the tunnel stays as it is for now: it has time, or the change with this revision was not looked at yet.
    pub(crate) fn covers(&self, tunnel: K, revision: u64) -> bool {
        revision != self.seen || self.waiting.contains_key(&tunnel)
    }

    /// When the first tunnel's time is over.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn closing(tunnels: impl IntoIterator<Item = u32>, revision: u64, by_command: bool) -> Vec<Due<u32>> {
        let change = Some(Change { revision, by_command });
        tunnels.into_iter().map(|tunnel| Due { tunnel, closes: true, change }).collect()
    }

    fn by_hand(tunnels: impl IntoIterator<Item = u32>, revision: u64) -> Vec<Due<u32>> {
        closing(tunnels, revision, false)
    }

    fn by_command(tunnels: impl IntoIterator<Item = u32>, revision: u64) -> Vec<Due<u32>> {
        closing(tunnels, revision, true)
    }

    fn verdict(now: &[u32], delayed: usize, spared: &[u32]) -> Verdict<u32> {
        Verdict { now: now.iter().copied().collect(), delayed, spared: spared.iter().copied().collect() }
    }

    #[test]
    fn few_tunnels_and_no_more_than_half_are_closed_at_once() {
        let now = Instant::now();
        for (closes, open, delayed) in [(1, 1, 0), (2, 2, 0), (2, 3, 0), (3, 3, 3), (3, 6, 0), (3, 5, 3), (50, 100, 0)]
        {
            let decided = Grace::default().decide(&by_hand(0..closes, 1), open, 1, now);
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
        assert_eq!(grace.decide(&by_hand(0..4, 1), 5, 1, start), verdict(&[], 4, &[]));
        assert!(grace.covers(0, 1) && !grace.covers(9, 1) && grace.covers(9, 2));
        assert_eq!(grace.next(), Some(start + DELAY));
        // Another change that mends one of them, and is no reason to wait any longer.
        let later = start + Duration::from_secs(3);
        assert_eq!(grace.decide(&by_hand(0..3, 1), 5, 2, later), verdict(&[], 0, &[3]));
        assert_eq!(grace.next(), Some(start + DELAY));
        assert_eq!(grace.decide(&by_hand(0..3, 1), 5, 2, start + DELAY), verdict(&[0, 1, 2], 0, &[]));
        assert_eq!(grace.next(), None);
        assert_eq!(grace.decide(&by_hand(0..4, 3), 5, 3, start + DELAY), verdict(&[], 4, &[]));
        assert_eq!(grace.decide(&[], 5, 4, start + DELAY + STEP), verdict(&[], 0, &[0, 1, 2, 3]));
    }

    #[test]
    fn commands_and_what_expires_take_effect_at_once() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&by_command(0..4, 1), 4, 1, now), verdict(&[0, 1, 2, 3], 0, &[]));
        // Nobody has changed these: they have expired, while others were changed.
        let expired = (0..4).map(|tunnel| Due { tunnel, closes: true, change: None });
        assert_eq!(grace.decide(&expired.collect::<Vec<_>>(), 4, 2, now), verdict(&[0, 1, 2, 3], 0, &[]));
        assert_eq!(grace.decide(&by_hand(0..4, 2), 4, 3, now), verdict(&[0, 1, 2, 3], 0, &[]));
    }

    #[test]
    fn a_command_ends_the_time_of_its_client_alone() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&by_hand(0..4, 1), 6, 1, now), verdict(&[], 4, &[]));
        let due = [by_command(0..1, 2), by_hand(1..4, 1), by_command(4..5, 2)].concat();
        assert_eq!(grace.decide(&due, 6, 2, now + STEP), verdict(&[0, 4], 0, &[]), "the rest has its time");
        let due = [by_hand(1..4, 1), by_command(5..6, 2)].concat();
        assert_eq!(grace.decide(&due, 6, 2, now + STEP), verdict(&[5], 0, &[]), "expired");
    }

    #[test]
    fn a_change_by_hand_and_a_command_may_be_looked_at_together() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        let due = [by_hand(0..3, 1), by_command(3..4, 2)].concat();
        assert_eq!(grace.decide(&due, 5, 2, now), verdict(&[3], 3, &[]));
    }

    #[test]
    fn a_change_that_turns_out_to_be_a_command_waits_no_more() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&by_hand(0..4, 1), 4, 1, now).delayed, 4);
        assert_eq!(grace.decide(&by_command(0..4, 1), 4, 1, now), verdict(&[0, 1, 2, 3], 0, &[]));
    }

    #[test]
    fn services_wait_with_the_tunnels() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        let of_services = |tunnel| Due { closes: false, ..by_hand([tunnel], 1)[0] };
        let mut due = by_hand(0..3, 1);
        due.push(of_services(7));
        assert_eq!(grace.decide(&due, 4, 1, now), verdict(&[], 4, &[]));
        assert_eq!(Grace::default().decide(&[of_services(7)], 1, 1, now), verdict(&[7], 0, &[]));
    }

    proptest! {
        /// Whatever changes: a tunnel that is due without a break is dealt with at once or 5 s after it was first due, one
        /// whose client a command has changed at once, and one that is not due never is.
        #[test]
        fn nobody_waits_longer_than_the_delay(
            steps in proptest::collection::vec(proptest::collection::vec((any::<bool>(), 0_u8..3), 6), 1..60),
        ) {
            let (mut grace, start) = (Grace::default(), Instant::now());
            let mut due_since = HashMap::<u32, Instant>::new();
            let mut changes = [None; 6];
            let mut revision = 0;
            for (step, tunnels) in steps.into_iter().enumerate() {
                let now = start + STEP * step as u32;
                revision += u64::from(tunnels.iter().any(|(_, kind)| *kind > 0));
                for (latest, (_, kind)) in changes.iter_mut().zip(&tunnels).filter(|(_, (_, kind))| *kind > 0) {
                    *latest = Some(Change { revision, by_command: *kind == 2 });
                }
                let due = tunnels.iter().zip(&changes).zip(0..).filter(|(((is_due, _), _), _)| *is_due);
                let due: Vec<_> = due.map(|((_, change), tunnel)| Due { tunnel, closes: true, change: *change }).collect();
                due_since.retain(|tunnel, _| due.iter().any(|due| due.tunnel == *tunnel));
                for due in &due {
                    due_since.entry(due.tunnel).or_insert(now);
                }
                let verdict = grace.decide(&due, 6, revision, now);
                prop_assert!(verdict.now.iter().all(|tunnel| due_since.contains_key(tunnel)));
                for due in due.iter().filter(|due| due.is_by_command()) {
                    prop_assert!(verdict.now.contains(&due.tunnel), "{due:?}");
                }
                for tunnel in &verdict.now {
                    due_since.remove(tunnel);
                }
                for (tunnel, since) in &due_since {
                    prop_assert!(now.duration_since(*since) < DELAY, "{tunnel} is due since {since:?}");
                    prop_assert!(grace.covers(*tunnel, revision));
                }
                prop_assert!(grace.next().is_none_or(|next| next > now && next <= now + DELAY));
            }
        }
    }
}
