//! Passwords that were found right a moment ago, for each tenant on its own.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::values::ClientId;

/// How long a credential need not be compared again.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// The most that are remembered of one tenant, and of all. The oldest make room: of the tenant itself, or of the one that has
/// the most.
pub(super) const MOST_OF_A_TENANT: usize = 1024;
pub(super) const MOST: usize = 16 * 1024;

/// What stands for a credential here: a keyed digest of it and of the users it is right for.
pub(super) type Key = [u8; 32];

/// Credentials that were right, each for the same time.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    tenants: HashMap<ClientId, Tenant>,
    /// Of all tenants.
    count: usize,
}

#[derive(Debug, Default)]
struct Tenant {
    until: HashMap<Key, Instant>,
    /// The oldest first: they end in the order in which they came.
    order: VecDeque<Key>,
}

impl Tenant {
    fn contains(&self, key: &Key, now: Instant) -> bool {
        self.until.get(key).is_some_and(|until| now < *until)
    }

    /// Forgets the oldest, and says whether there was one.
    fn forget_oldest(&mut self) -> bool {
        self.order.pop_front().is_some_and(|oldest| self.until.remove(&oldest).is_some())
    }

    /// Forgets those whose time is over; says how many.
    fn forget_ended(&mut self, now: Instant) -> usize {
        let before = self.order.len();
        while self.order.front().is_some_and(|oldest| !self.contains(oldest, now)) {
            self.forget_oldest();
        }
        before - self.order.len()
    }
}

impl Remembered {
    /// Whether `key` was right for `client` not long ago.
    pub(super) fn contains(&self, client: &ClientId, key: &Key, now: Instant) -> bool {
        self.tenants.get(client).is_some_and(|tenant| tenant.contains(key, now))
    }

    /// `key` has just been found right for `client`.
    pub(super) fn insert(&mut self, client: &ClientId, key: Key, now: Instant) {
        let tenant = self.tenants.entry(client.clone()).or_default();
        self.count -= tenant.forget_ended(now);
        // One that is there ends when it was to end: nobody is let in for ever by coming often.
        if tenant.until.contains_key(&key) {
            return;
        }
        if tenant.order.len() >= MOST_OF_A_TENANT {
            self.count -= usize::from(tenant.forget_oldest());
        }
        tenant.until.insert(key, now + REMEMBERED_FOR);
        tenant.order.push_back(key);
        self.count += 1;
        if self.count > MOST {
            self.evict_idle(now);
        }
        if self.count > MOST
            && let Some(largest) = self.tenants.values_mut().max_by_key(|tenant| tenant.order.len())
        {
            self.count -= usize::from(largest.forget_oldest());
        }
    }

    /// Forgets everything whose time is over. Looks at each tenant.
    pub(super) fn evict_idle(&mut self, now: Instant) {
        let mut ended = 0;
        self.tenants.retain(|_, tenant| {
            ended += tenant.forget_ended(now);
            !tenant.order.is_empty()
        });
        self.count -= ended;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u16) -> Key {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        key
    }

    fn client(number: u16) -> ClientId {
        ClientId::new(&format!("client-{number}")).unwrap()
    }

    #[test]
    fn nothing_is_remembered_for_longer_than_its_time() {
        let (mut known, start, alice) = (Remembered::default(), Instant::now(), client(0));
        known.insert(&alice, key(1), start);
        let later = start + REMEMBERED_FOR - Duration::from_secs(1);
        assert!(known.contains(&alice, &key(1), later) && !known.contains(&alice, &key(2), later));
        assert!(!known.contains(&client(1), &key(1), later), "another tenant's visitors are not let in");
        known.insert(&alice, key(1), later);
        let end = start + REMEMBERED_FOR;
        assert!(!known.contains(&alice, &key(1), end), "coming again does not prolong it");
        known.insert(&alice, key(1), end);
        assert!(known.contains(&alice, &key(1), end));
        assert_eq!((known.tenants.len(), known.count), (1, 1));
        known.evict_idle(end + REMEMBERED_FOR);
        assert_eq!((known.tenants.len(), known.count), (0, 0));
    }

    #[test]
    fn the_oldest_of_a_tenant_make_room() {
        let (mut known, now, alice) = (Remembered::default(), Instant::now(), client(0));
        for number in 0..3_000 {
            known.insert(&alice, key(number), now);
            assert!(known.count <= MOST_OF_A_TENANT && known.count == known.tenants[&alice].until.len());
        }
        assert!(known.contains(&alice, &key(2_999), now) && known.contains(&alice, &key(2_000), now));
        assert!(!known.contains(&alice, &key(0), now) && !known.contains(&alice, &key(1_900), now));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// However many others are let in, a tenant keeps an equal part.
        #[test]
        fn a_tenant_within_its_part_loses_nothing(others in 1_u16..40, own in 1_u16..1_000, logins in 1_u16..900) {
            let (mut known, now, alice) = (Remembered::default(), Instant::now(), client(0));
            let own = own.min((MOST / (usize::from(others) + 1)) as u16);
            (0..own).for_each(|number| known.insert(&alice, key(number), now));
            for other in 1..=others {
                (0..logins).for_each(|number| known.insert(&client(other), key(number), now));
            }
            prop_assert!(known.count <= MOST);
            prop_assert_eq!(known.count, known.tenants.values().map(|tenant| tenant.until.len()).sum::<usize>());
            prop_assert!((0..own).all(|number| known.contains(&alice, &key(number), now)));
        }
    }
}
