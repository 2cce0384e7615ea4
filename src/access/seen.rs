//! Signatures that were used already.

use std::collections::{HashSet, VecDeque};

/// The most that are remembered for a service. The oldest make room.
pub(super) const MOST: usize = 4096;

/// Signatures of one service, each until its time is over.
#[derive(Debug, Default)]
pub(super) struct Seen {
    known: HashSet<[u8; 32]>,
    /// With the second, since 1970, after which the signature is refused for its age.
    order: VecDeque<([u8; 32], u64)>,
}

impl Seen {
    /// Notes a signature that counts until the second `until`; `false` if it was noted before.
    pub(super) fn insert(&mut self, signature: [u8; 32], until: u64, now: u64) -> bool {
        if !self.known.insert(signature) {
            return false;
        }
        self.order.push_back((signature, until));
        while let Some((oldest, end)) = self.order.front() {
            if *end >= now && self.order.len() <= MOST {
                break;
            }
            self.known.remove(oldest);
            self.order.pop_front();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(number: u16) -> [u8; 32] {
        let mut signature = [7; 32];
        signature[..2].copy_from_slice(&number.to_be_bytes());
        signature
    }

    #[test]
    fn a_signature_counts_once_until_its_time_is_over() {
        let mut seen = Seen::default();
        assert!(seen.insert(signature(1), 100, 50));
        assert!(!seen.insert(signature(1), 100, 50) && !seen.insert(signature(1), 100, 100));
        assert!(seen.insert(signature(2), 200, 101));
        assert_eq!((seen.known.len(), seen.order.len()), (1, 1), "the first one is too old to matter");
    }

    #[test]
    fn the_oldest_make_room() {
        let mut seen = Seen::default();
        for number in 0..10_000 {
            assert!(seen.insert(signature(number), 100, 50));
            assert!(seen.known.len() <= MOST && seen.order.len() == seen.known.len());
        }
        assert!(!seen.insert(signature(9_999), 100, 50) && !seen.insert(signature(6_000), 100, 50));
        assert!(seen.insert(signature(0), 100, 50));
    }
}
