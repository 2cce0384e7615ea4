//! Turns at something costly, in an order that is fair to tenants and to addresses.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::AddressKey;
use crate::values::ClientId;

/// Every so many turns, the one who has waited longest is next, whoever it is.
const OLDEST_FIRST: u64 = 4;

/// On whose behalf something costly is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The tenant.
    pub client: ClientId,
    /// The address that asks.
    pub address: AddressKey,
}

/// A few places for something costly, and those who wait for one.
///
/// This is start-time fair queueing (Goyal, Vin and Cheng, 1996) in two dimensions: the next turn goes to the one whose client
/// and whose address have cost least so far, in whatever unit the callers count. So an attacker with one address, or with
/// one client, waits behind its own turns, while a newcomer with an address and a client of its own is next but one.
/// Every fourth turn goes to the one who has waited longest, so nobody waits for more than four turns for each one who
/// was there before.
///
/// A client may have a limited number of places at once: then the others are never taken by it. Clones share the places.
#[derive(Clone)]
pub struct FairQueue(Arc<Mutex<State>>);

struct State {
    places: usize,
    order: Order,
    waiting: HashMap<u64, oneshot::Sender<Turn>>,
    next: u64,
}

/// A place, until it is dropped.
#[must_use = "a turn that is dropped at once is nobody's"]
pub struct Turn {
    queue: FairQueue,
    party: Party,
    cost: u64,
}

/// Leaves the queue when the caller does.
struct InLine<'a> {
    queue: &'a FairQueue,
    id: u64,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.0.lock();
        if state.waiting.remove(&self.id).is_some() {
            state.order.leave(self.id);
        }
    }
}

impl FairQueue {
    /// Has `places`, at least one; a client has `of_a_client` of them at once at most, at least one.
    pub fn new(places: usize, of_a_client: usize) -> Self {
        let order = Order::new(of_a_client.max(1));
        Self(Arc::new(Mutex::new(State { places: places.max(1), order, waiting: HashMap::new(), next: 0 })))
    }

    /// Waits for a turn at something that costs `cost`. Dropping the future leaves the queue.
    pub async fn turn(&self, party: Party, cost: u64) -> Turn {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut state = self.0.lock();
            let id = state.next;
            state.next += 1;
            state.order.join(id, party.clone(), cost);
            state.waiting.insert(id, sender);
            id
        };
        let _in_line = InLine { queue: self, id };
        self.go_on();
        // The sender is dropped only with this queue, or by leaving it.
        match receiver.await {
            Ok(turn) => turn,
            Err(_) => std::future::pending().await,
        }
    }

    /// Says how many have a turn, and how many wait for one.
    pub fn load(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.order.running, state.order.waiting.len())
    }

    /// Gives the places that are free to those who are next.
    fn go_on(&self) {
        loop {
            let (sender, turn) = {
                let mut state = self.0.lock();
                if state.order.running >= state.places {
                    return;
                }
                let Some(Waiting { id, party, cost, .. }) = state.order.start_next() else { return };
                let sender = state.waiting.remove(&id);
                (sender, Turn { queue: self.clone(), party, cost })
            };
            // Outside of the lock: if the other one has just left, the turn comes back by being dropped.
            if let Some(sender) = sender {
                drop(sender.send(turn));
            }
        }
    }
}

impl Turn {
    /// Says that nothing was done: the turn costs its party nothing.
    pub fn unused(self) {
        self.queue.0.lock().order.refund(&self.party, self.cost);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.0.lock().order.ended(&self.party.client);
        self.queue.go_on();
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("party", &self.party).field("cost", &self.cost).finish_non_exhaustive()
    }
}

impl fmt::Debug for FairQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (running, waiting) = self.load();
        f.debug_struct("FairQueue").field("running", &running).field("waiting", &waiting).finish()
    }
}

/// Who is next: the rule, without anyone who waits.
struct Order {
    of_a_client: usize,
    running: usize,
    running_of: HashMap<ClientId, usize>,
    /// The one who came first is at the front.
    waiting: VecDeque<Waiting>,
    clients: Costs<ClientId>,
    addresses: Costs<AddressKey>,
    /// The virtual time: what those cost who are served now.
    now: u64,
    turns: u64,
}

struct Waiting {
    id: u64,
    party: Party,
    cost: u64,
}

/// Up to which virtual time each has been served. One that is not listed, or is behind, begins at the present time.
struct Costs<K>(HashMap<K, u64>);

impl<K: Hash + Eq + Clone> Costs<K> {
    fn of(&self, key: &K, now: u64) -> u64 {
        self.0.get(key).map_or(now, |until| now.max(*until))
    }

    fn charge(&mut self, key: &K, now: u64, cost: u64) {
        let until = self.of(key, now).saturating_add(cost);
        self.0.insert(key.clone(), until);
    }

    fn refund(&mut self, key: &K, cost: u64) {
        if let Some(until) = self.0.get_mut(key) {
            *until = until.saturating_sub(cost);
        }
    }

    fn forget(&mut self, now: u64) {
        self.0.retain(|_, until| *until > now);
    }
}

impl Order {
    fn new(of_a_client: usize) -> Self {
        Self {
            of_a_client,
            running: 0,
            running_of: HashMap::new(),
            waiting: VecDeque::new(),
            clients: Costs(HashMap::new()),
            addresses: Costs(HashMap::new()),
            now: 0,
            turns: 0,
        }
    }

    fn join(&mut self, id: u64, party: Party, cost: u64) {
        self.waiting.push_back(Waiting { id, party, cost: cost.max(1) });
    }

    fn leave(&mut self, id: u64) {
        self.waiting.retain(|waiting| waiting.id != id);
    }

    /// Takes the next one out of the queue, who has a turn from now on; `None` if nobody may have one.
    fn start_next(&mut self) -> Option<Waiting> {
        let has_room = |waiting: &Waiting| {
            self.running_of.get(&waiting.party.client).is_none_or(|running| *running < self.of_a_client)
        };
        // The smaller of both decides between addresses of one client, and between clients of one address.
        let tag = |waiting: &Waiting| {
            let client = self.clients.of(&waiting.party.client, self.now);
            let address = self.addresses.of(&waiting.party.address, self.now);
            (client.max(address), client.min(address))
        };
        let mut may_start = self.waiting.iter().enumerate().filter(|(_, waiting)| has_room(waiting));
        let (at, started) = if self.turns % OLDEST_FIRST == OLDEST_FIRST - 1 {
            let (at, _) = may_start.next()?;
            // One who is served out of turn does not turn the clock forward.
            (at, self.waiting.iter().map(|waiting| tag(waiting).0).min()?)
        } else {
            let (at, next) = may_start.min_by_key(|(_, waiting)| (tag(waiting), waiting.id))?;
            (at, tag(next).0)
        };
        let next = self.waiting.remove(at)?;
        self.turns += 1;
        self.now = self.now.max(started);
        self.clients.charge(&next.party.client, self.now, next.cost);
        self.addresses.charge(&next.party.address, self.now, next.cost);
        self.running += 1;
        *self.running_of.entry(next.party.client.clone()).or_default() += 1;
        self.clients.forget(self.now);
        self.addresses.forget(self.now);
        Some(next)
    }

    fn refund(&mut self, party: &Party, cost: u64) {
        self.clients.refund(&party.client, cost.max(1));
        self.addresses.refund(&party.address, cost.max(1));
    }

    fn ended(&mut self, client: &ClientId) {
        self.running -= 1;
        if let Some(running) = self.running_of.get_mut(client) {
            *running -= 1;
            if *running == 0 {
                self.running_of.remove(client);
            }
        }
        if self.running == 0 && self.waiting.is_empty() {
            // Nobody has to wait for anybody: what was is forgotten.
            self.clients.0.clear();
            self.addresses.0.clear();
        }
    }
}

#[cfg(test)]
mod tests;
