//! The order in which a client's agents were started.
//!
//! The server numbers the first login of each run of an agent. The agent's signed tickets carry the number, so it survives
//! a restart of the server; agents' clocks play no part. Of several agents that offer a name, the one with the highest
//! number has it.

use std::collections::{HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::values::{ClientId, InstanceId};

/// How many runs of agents without a ticket are remembered for each client; the oldest are evicted.
const REMEMBERED: usize = 256;

/// The numbers that were issued or received in tickets. Bounded by the number of listed clients.
#[derive(Debug, Default)]
pub(crate) struct Starts(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The highest number so far.
    highest: u64,
    known: HashMap<ClientId, VecDeque<(InstanceId, u64)>>,
}

/// How to number an unknown start, with the current time in microseconds.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// It is later than all others.
    After(u64),
    /// It is earlier than all others.
    Before(u64),
}

impl Starts {
    /// Returns the number of this run of an agent: `signed` from its ticket, or the number issued before, or the next one.
    /// An unknown agent that `stands_by` (for example at a server with another key) says that another one was started later,
    /// so it gets a number lower than all others.
    pub(crate) fn number(&self, client: &ClientId, instance: InstanceId, signed: Option<u64>, stands_by: bool) -> u64 {
        // Microseconds: a restarted server goes on where no number was given out before.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.number_at(client, instance, signed, if stands_by { Next::Before(now) } else { Next::After(now) })
    }

    fn number_at(&self, client: &ClientId, instance: InstanceId, signed: Option<u64>, next: Next) -> u64 {
        let mut inner = self.0.lock();
        let known = inner.known.get(client).and_then(|known| known.iter().find(|(other, _)| *other == instance));
        let number = signed.or(known.map(|(_, number)| *number)).unwrap_or_else(|| match next {
            // The clock may have been set back: a later start has a higher number all the same.
            Next::After(now) => now.max(inner.highest.saturating_add(1)),
            Next::Before(now) => now / 2,
        });
        inner.highest = inner.highest.max(number);
        let known = inner.known.entry(client.clone()).or_default();
        known.retain(|(other, _)| *other != instance);
        known.truncate(REMEMBERED - 1);
        known.push_front((instance, number));
        number
    }

    /// Forgets the runs of all clients but these.
    pub(crate) fn retain(&self, keep: impl Fn(&ClientId) -> bool) {
        self.0.lock().known.retain(|client, _| keep(client));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alice() -> ClientId {
        ClientId::new("alice").unwrap()
    }

    fn instance() -> InstanceId {
        InstanceId::random().unwrap()
    }

    #[test]
    fn an_instance_keeps_its_number_by_ticket_and_without_one() {
        let starts = Starts::default();
        let (one, two) = (instance(), instance());
        let first = starts.number(&alice(), one, None, false);
        let second = starts.number(&alice(), two, None, false);
        assert!(first < second);
        assert_eq!(starts.number(&alice(), one, None, false), first);
        // After a restart of the server, in either order.
        let starts = Starts::default();
        assert_eq!(starts.number(&alice(), two, Some(second), false), second);
        assert_eq!(starts.number(&alice(), one, Some(first), false), first);
        assert!(starts.number(&alice(), instance(), None, false) > second);
    }

    #[test]
    fn one_that_stands_by_is_before_all_others_where_nothing_is_known_of_it() {
        let starts = Starts::default();
        let desktop = starts.number(&alice(), instance(), None, false);
        let laptop = instance();
        let number = starts.number(&alice(), laptop, None, true);
        assert!(number < desktop);
        assert_eq!(starts.number(&alice(), laptop, None, false), number, "it keeps that");
        assert_eq!(starts.number(&alice(), laptop, Some(7), true), 7, "what is signed counts more");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_is_each_client_s_own() {
        let starts = Starts::default();
        let (first, agents) = (instance(), instance());
        let number = starts.number(&alice(), first, None, false);
        for _ in 0..REMEMBERED {
            starts.number(&alice(), instance(), None, false);
        }
        assert_eq!(starts.0.lock().known[&alice()].len(), REMEMBERED);
        assert_ne!(starts.number(&alice(), first, None, false), number, "it was forgotten");
        let bob = ClientId::new("bob").unwrap();
        assert_ne!(starts.number(&alice(), agents, None, false), starts.number(&bob, agents, None, false));
        starts.retain(|client| *client == bob);
        assert_eq!(starts.0.lock().known.len(), 1);
    }

    proptest! {
        /// Whatever the server's clock does, a later start has a higher number, and an earlier one keeps its own.
        #[test]
        fn numbers_grow_whatever_the_clock_does(clock in proptest::collection::vec(any::<u32>(), 1..20)) {
            let starts = Starts::default();
            let mut given: Vec<(InstanceId, u64)> = Vec::new();
            for now in clock {
                let newest = instance();
                let number = starts.number_at(&alice(), newest, None, Next::After(u64::from(now)));
                prop_assert!(given.iter().all(|(_, earlier)| *earlier < number));
                given.push((newest, number));
                for (instance, number) in &given {
                    prop_assert_eq!(starts.number_at(&alice(), *instance, None, Next::After(u64::from(now))), *number);
                }
            }
        }
    }
}
