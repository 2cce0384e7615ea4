//! What was found right a moment ago.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a credential need not be compared again.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// The most that are remembered, of all services together. The oldest make room.
pub(super) const MOST: usize = 1024;

/// What stands for a credential here: a keyed digest of it and of the users it is right for.
pub(super) type Key = [u8; 32];

/// Credentials that were right, each for the same time.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    until: HashMap<Key, Instant>,
    /// The oldest first: they end in the order in which they came.
    order: VecDeque<Key>,
}

impl Remembered {
    /// Whether `key` was right not long ago.
    pub(super) fn contains(&self, key: &Key, now: Instant) -> bool {
        self.until.get(key).is_some_and(|until| now < *until)
    }

    /// `key` has just been found right.
    pub(super) fn insert(&mut self, key: Key, now: Instant) {
        while let Some(oldest) = self.order.front() {
            if self.order.len() < MOST && self.contains(oldest, now) {
                break;
            }
            self.until.remove(oldest);
            self.order.pop_front();
        }
        // One that is there ends when it was to end: nobody is let in for ever by coming often.
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.until.entry(key) {
            vacant.insert(now + REMEMBERED_FOR);
            self.order.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u16) -> Key {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn nothing_is_remembered_for_longer_than_its_time() {
        let (mut known, start) = (Remembered::default(), Instant::now());
        known.insert(key(1), start);
        let later = start + REMEMBERED_FOR - Duration::from_secs(1);
        assert!(known.contains(&key(1), later) && !known.contains(&key(2), later));
        known.insert(key(1), later);
        let end = start + REMEMBERED_FOR;
        assert!(!known.contains(&key(1), end), "coming again does not prolong it");
        known.insert(key(1), end);
        assert!(known.contains(&key(1), end));
        assert_eq!((known.until.len(), known.order.len()), (1, 1));
    }

    #[test]
    fn the_oldest_make_room() {
        let (mut known, now) = (Remembered::default(), Instant::now());
        for number in 0..3_000 {
            known.insert(key(number), now);
            assert!(known.until.len() <= MOST && known.order.len() == known.until.len());
        }
        assert!(known.contains(&key(2_999), now) && known.contains(&key(2_000), now));
        assert!(!known.contains(&key(0), now) && !known.contains(&key(1_900), now));
    }
}
