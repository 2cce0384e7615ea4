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

/// How long closing is delayed.
pub(crate) const DELAY: Duration = Duration::from_secs(5);

/// So many tunnels may be closed at once, whatever part of all they are.
const FEW: usize = 2;

/// The tunnels whose closing is delayed.
#[derive(Debug)]
pub(crate) struct Grace<K> {
    /// The tunnels, and until when they stay open.
    delayed_until: HashMap<K, Instant>,
    /// The revision of the latest change that was checked.
    seen: u64,
}

/// A tunnel that violates the clients file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Violation<K> {
    pub(crate) tunnel: K,
    /// Whether the tunnel is to be closed. Otherwise it loses some of its services.
    pub(crate) closes: bool,
    /// The latest change of its client.
    pub(crate) change: Option<Change>,
}

impl<K> Violation<K> {
    /// Returns whether a command or the API changed its client last. Such a change is never incomplete.
    fn is_by_command(&self) -> bool {
        self.change.is_some_and(|change| change.by_command)
    }

    /// Returns whether it may result from an incomplete file: from a manual edit after the revision `seen`.
    fn may_be_unintended(&self, seen: u64) -> bool {
        self.change.is_some_and(|change| change.revision > seen && !change.by_command)
    }
}

/// The result of checking all tunnels.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct Decision<K: Eq + Hash> {
    /// The tunnels that are dealt with now.
    pub(crate) now: HashSet<K>,
    /// The number of tunnels that are newly delayed.
    pub(crate) delayed: usize,
    /// The tunnels that were delayed and no longer violate the clients file, or have ended.
    pub(crate) spared: HashSet<K>,
}

impl<K> Default for Grace<K> {
    fn default() -> Self {
        Self { delayed_until: HashMap::new(), seen: 0 }
    }
}

impl<K: Copy + Eq + Hash> Grace<K> {
    /// Decides about all violations after the change with this revision; `open` is the number of serving tunnels.
    ///
    /// Only a manual edit that was not checked before causes a delay. What a command or the API does, and what expires, takes
    /// effect immediately. Nothing extends a delay, and a command ends it.
    pub(crate) fn decide(&mut self, due: &[Violation<K>], open: usize, revision: u64, now: Instant) -> Decision<K> {
        let still_due: HashSet<K> = due.iter().map(|due| due.tunnel).collect();
        let spared =
            self.delayed_until.extract_if(|tunnel, _| !still_due.contains(tunnel)).map(|(tunnel, _)| tunnel).collect();
        let seen = std::mem::replace(&mut self.seen, revision);
        let is_in_doubt =
            |due: &Violation<K>| due.may_be_unintended(seen) || self.delayed_until.contains_key(&due.tunnel);
        let closing = due.iter().filter(|due| due.closes && is_in_doubt(due)).count();
        let is_suspicious = closing > FEW && closing * 2 > open;
        let (mut at_once, mut delayed) = (HashSet::new(), 0);
        for due in due {
            match self.delayed_until.get(&due.tunnel) {
                Some(until) if *until > now && !due.is_by_command() => {}
                None if is_suspicious && due.may_be_unintended(seen) => {
                    self.delayed_until.insert(due.tunnel, now + DELAY);
                    delayed += 1;
                }
                _ => {
                    self.delayed_until.remove(&due.tunnel);
                    at_once.insert(due.tunnel);
                }
            }
        }
        Decision { now: at_once, delayed, spared }
    }

    /// Returns whether the tunnel stays as it is for now: it is delayed, or the change with this revision was not checked yet.
    pub(crate) fn delays(&self, tunnel: K, revision: u64) -> bool {
        revision != self.seen || self.delayed_until.contains_key(&tunnel)
    }

    /// Returns when the first delay ends.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.delayed_until.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn closing(tunnels: impl IntoIterator<Item = u32>, revision: u64, by_command: bool) -> Vec<Violation<u32>> {
        let change = Some(Change { revision, by_command });
        tunnels.into_iter().map(|tunnel| Violation { tunnel, closes: true, change }).collect()
    }

    fn by_hand(tunnels: impl IntoIterator<Item = u32>, revision: u64) -> Vec<Violation<u32>> {
        closing(tunnels, revision, false)
    }

    fn by_command(tunnels: impl IntoIterator<Item = u32>, revision: u64) -> Vec<Violation<u32>> {
        closing(tunnels, revision, true)
    }

    fn decision(now: &[u32], delayed: usize, spared: &[u32]) -> Decision<u32> {
        Decision { now: now.iter().copied().collect(), delayed, spared: spared.iter().copied().collect() }
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
        assert_eq!(grace.decide(&by_hand(0..4, 1), 5, 1, start), decision(&[], 4, &[]));
        assert!(grace.delays(0, 1) && !grace.delays(9, 1) && grace.delays(9, 2));
        assert_eq!(grace.next(), Some(start + DELAY));
        // Another change that mends one of them, and is no reason to wait any longer.
        let later = start + Duration::from_secs(3);
        assert_eq!(grace.decide(&by_hand(0..3, 1), 5, 2, later), decision(&[], 0, &[3]));
        assert_eq!(grace.next(), Some(start + DELAY));
        assert_eq!(grace.decide(&by_hand(0..3, 1), 5, 2, start + DELAY), decision(&[0, 1, 2], 0, &[]));
        assert_eq!(grace.next(), None);
        assert_eq!(grace.decide(&by_hand(0..4, 3), 5, 3, start + DELAY), decision(&[], 4, &[]));
        assert_eq!(grace.decide(&[], 5, 4, start + DELAY + STEP), decision(&[], 0, &[0, 1, 2, 3]));
    }

    #[test]
    fn commands_and_what_expires_take_effect_at_once() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&by_command(0..4, 1), 4, 1, now), decision(&[0, 1, 2, 3], 0, &[]));
        // Nobody has changed these: they have expired, while others were changed.
        let expired = (0..4).map(|tunnel| Violation { tunnel, closes: true, change: None });
        assert_eq!(grace.decide(&expired.collect::<Vec<_>>(), 4, 2, now), decision(&[0, 1, 2, 3], 0, &[]));
        assert_eq!(grace.decide(&by_hand(0..4, 2), 4, 3, now), decision(&[0, 1, 2, 3], 0, &[]));
    }

    #[test]
    fn a_command_ends_the_time_of_its_client_alone() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&by_hand(0..4, 1), 6, 1, now), decision(&[], 4, &[]));
        let due = [by_command(0..1, 2), by_hand(1..4, 1), by_command(4..5, 2)].concat();
        assert_eq!(grace.decide(&due, 6, 2, now + STEP), decision(&[0, 4], 0, &[]), "the rest has its time");
        let due = [by_hand(1..4, 1), by_command(5..6, 2)].concat();
        assert_eq!(grace.decide(&due, 6, 2, now + STEP), decision(&[5], 0, &[]), "expired");
    }

    #[test]
    fn a_change_by_hand_and_a_command_may_be_looked_at_together() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        let due = [by_hand(0..3, 1), by_command(3..4, 2)].concat();
        assert_eq!(grace.decide(&due, 5, 2, now), decision(&[3], 3, &[]));
    }

    #[test]
    fn a_change_that_turns_out_to_be_a_command_waits_no_more() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        assert_eq!(grace.decide(&by_hand(0..4, 1), 4, 1, now).delayed, 4);
        assert_eq!(grace.decide(&by_command(0..4, 1), 4, 1, now), decision(&[0, 1, 2, 3], 0, &[]));
    }

    #[test]
    fn services_wait_with_the_tunnels() {
        let (mut grace, now) = (Grace::default(), Instant::now());
        let of_services = |tunnel| Violation { closes: false, ..by_hand([tunnel], 1)[0] };
        let mut due = by_hand(0..3, 1);
        due.push(of_services(7));
        assert_eq!(grace.decide(&due, 4, 1, now), decision(&[], 4, &[]));
        assert_eq!(Grace::default().decide(&[of_services(7)], 1, 1, now), decision(&[7], 0, &[]));
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
                let due: Vec<_> = due.map(|((_, change), tunnel)| Violation { tunnel, closes: true, change: *change }).collect();
                due_since.retain(|tunnel, _| due.iter().any(|due| due.tunnel == *tunnel));
                for due in &due {
                    due_since.entry(due.tunnel).or_insert(now);
                }
                let decision = grace.decide(&due, 6, revision, now);
                prop_assert!(decision.now.iter().all(|tunnel| due_since.contains_key(tunnel)));
                for due in due.iter().filter(|due| due.is_by_command()) {
                    prop_assert!(decision.now.contains(&due.tunnel), "{due:?}");
                }
                for tunnel in &decision.now {
                    due_since.remove(tunnel);
                }
                for (tunnel, since) in &due_since {
                    prop_assert!(now.duration_since(*since) < DELAY, "{tunnel} is due since {since:?}");
                    prop_assert!(grace.delays(*tunnel, revision));
                }
                prop_assert!(grace.next().is_none_or(|next| next > now && next <= now + DELAY));
            }
        }
    }
}
