//! Bytes that tenants share: each has its part, whatever the others hold.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::AddressKey;
use crate::values::{ClientId, Name};

/// For whom bytes are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The tenant.
    pub client: ClientId,
    /// The tenant's service.
    pub service: Name,
    /// The visitor's address.
    pub address: AddressKey,
}

/// At most so many bytes at once, divided by client, service and address.
///
/// While bytes are left, each holder gets as many as it asks for. When they are not, room is made by evicting portions:
///
/// 1. only portions of clients that hold more than an equal part (the capacity divided by the clients that hold any),
/// 2. of these only portions of services that hold at least the average of their client's services,
/// 3. of these the portions of the address that holds the most bytes in all, the largest first.
///
/// A request for which its own portion would have to go is refused. So a client that stays within its equal part is never
/// refused and never evicted, however many addresses, services and clients an attacker uses. Within a client that holds
/// more, an address is refused only if no other one holds more.
///
/// Nothing waits: the owner of an evicted portion hears of it ([`Portion::evicted`]) and drops what it holds at once; the
/// bytes count as free from the moment of the eviction. Clones share the bytes. The capacity may change at any time.
#[derive(Debug, Clone)]
pub struct SharedBudget(Arc<Mutex<Pool>>);

/// A part of a [`SharedBudget`], as large as it has grown. Dropping it returns all of it.
#[derive(Debug)]
#[must_use = "a portion that is dropped at once counts nothing"]
pub struct Portion {
    pool: Arc<Mutex<Pool>>,
    holder: Owner,
    /// Its number once it has bytes.
    id: Option<u64>,
    evicted: CancellationToken,
}

#[derive(Debug, Default)]
struct Pool {
    capacity: usize,
    in_use: usize,
    next: u64,
    clients: HashMap<ClientId, Client>,
    addresses: HashMap<AddressKey, usize>,
}

#[derive(Debug, Default)]
struct Client {
    bytes: usize,
    services: HashMap<Name, Service>,
}

#[derive(Debug, Default)]
struct Service {
    bytes: usize,
    portions: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    address: AddressKey,
    bytes: usize,
    evicted: CancellationToken,
}

impl SharedBudget {
    /// A budget of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Mutex::new(Pool { capacity, ..Pool::default() })))
    }

    /// A portion of no bytes, which can grow.
    pub fn portion(&self, holder: Owner) -> Portion {
        Portion { pool: Arc::clone(&self.0), holder, id: None, evicted: CancellationToken::new() }
    }

    /// Changes how many bytes there are. What is held stays held, even if it is more.
    pub fn set_capacity(&self, capacity: usize) {
        self.0.lock().capacity = capacity;
    }

    /// Returns how many bytes are held at the moment.
    pub fn in_use(&self) -> usize {
        self.0.lock().in_use
    }
}

impl Portion {
    /// Takes `bytes` more, and evicts other portions for them if that is fair. Returns `false`, and changes nothing in this
    /// portion, if there is no room or this portion was evicted.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return !self.evicted.is_cancelled();
        }
        let mut pool = self.pool.lock();
        if self.evicted.is_cancelled() || !pool.make_room(&self.holder, bytes) {
            return false;
        }
        let id = *self.id.get_or_insert_with(|| {
            pool.next += 1;
            pool.next
        });
        pool.add(id, &self.holder, bytes, &self.evicted);
        true
    }

    /// Returns `bytes` of it, or all of it if it has less.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(id) = self.id {
            self.pool.lock().take(id, &self.holder, bytes);
        }
    }

    /// Cancelled when the portion was evicted: what it counts has to be dropped at once.
    pub fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.shrink(usize::MAX);
    }
}

impl Pool {
    fn add(&mut self, id: u64, holder: &Owner, bytes: usize, evicted: &CancellationToken) {
        let client = self.clients.entry(holder.client.clone()).or_default();
        let service = client.services.entry(holder.service.clone()).or_default();
        let new = || Held { address: holder.address, bytes: 0, evicted: evicted.clone() };
        service.portions.entry(id).or_insert_with(new).bytes += bytes;
        service.bytes += bytes;
        client.bytes += bytes;
        *self.addresses.entry(holder.address).or_default() += bytes;
        self.in_use += bytes;
    }

    /// Takes up to `most` bytes off a portion, and forgets every entry that is empty then. Of a portion that was evicted
    /// there is nothing to take.
    fn take(&mut self, id: u64, holder: &Owner, most: usize) -> Option<CancellationToken> {
        let client = self.clients.get_mut(&holder.client)?;
        let service = client.services.get_mut(&holder.service)?;
        let held = service.portions.get_mut(&id)?;
        let bytes = most.min(held.bytes);
        held.bytes -= bytes;
        let evicted = held.evicted.clone();
        if held.bytes == 0 {
            service.portions.remove(&id);
        }
        service.bytes -= bytes;
        if service.portions.is_empty() {
            client.services.remove(&holder.service);
        }
        client.bytes -= bytes;
        if client.services.is_empty() {
            self.clients.remove(&holder.client);
        }
        if let Some(of_address) = self.addresses.get_mut(&holder.address) {
            *of_address -= bytes;
            if *of_address == 0 {
                self.addresses.remove(&holder.address);
            }
        }
        self.in_use -= bytes;
        Some(evicted)
    }

    /// Evicts what has to go before `holder` may have `bytes` more; `false` if it may not.
    fn make_room(&mut self, holder: &Owner, bytes: usize) -> bool {
        if bytes > self.capacity {
            return false;
        }
        while self.in_use.saturating_add(bytes) > self.capacity {
            let Some(Victims { portions, least }) = self.victims(holder, bytes) else { return false };
            for (id, victim) in portions {
                let may_go = self.in_use.saturating_add(bytes) > self.capacity
                    && self.is_over(&victim.client, holder, bytes)
                    && self.of_address(victim.address, holder, bytes) >= least;
                if !may_go {
                    break;
                }
                if let Some(evicted) = self.take(id, &victim, usize::MAX) {
                    evicted.cancel();
                }
            }
        }
        true
    }

    /// How many clients hold bytes, once `holder` does.
    fn clients(&self, holder: &Owner) -> usize {
        self.clients.len() + usize::from(!self.clients.contains_key(&holder.client))
    }

    /// Whether `client` holds more than an equal part, once `holder` has `bytes` more.
    fn is_over(&self, client: &ClientId, holder: &Owner, bytes: usize) -> bool {
        let held = self.clients.get(client).map_or(0, |client| client.bytes);
        let held = held + if *client == holder.client { bytes } else { 0 };
        held.saturating_mul(self.clients(holder)) > self.capacity
    }

    /// What `address` holds, once `holder` has `bytes` more.
    fn of_address(&self, address: AddressKey, holder: &Owner, bytes: usize) -> usize {
        let held = self.addresses.get(&address).copied().unwrap_or_default();
        held + if address == holder.address { bytes } else { 0 }
    }

    /// Whose portions have to make room; `None` if that is the requester. Looks at all portions of the clients that hold more
    /// than their part, and only when there is no room.
    fn victims(&self, holder: &Owner, bytes: usize) -> Option<Victims> {
        let mut candidates = Vec::new();
        let mut is_candidate = false;
        for (id, client) in &self.clients {
            if !self.is_over(id, holder, bytes) {
                continue;
            }
            let own = *id == holder.client;
            let total = client.bytes + if own { bytes } else { 0 };
            let services = client.services.len() + usize::from(own && !client.services.contains_key(&holder.service));
            let is_large = |held: usize| held.saturating_mul(services) >= total;
            for (name, service) in &client.services {
                let own = own && *name == holder.service;
                if is_large(service.bytes + if own { bytes } else { 0 }) {
                    is_candidate |= own;
                    candidates.extend(service.portions.iter().map(|(number, held)| (held, *number, id, name)));
                }
            }
            is_candidate |= own && !client.services.contains_key(&holder.service) && is_large(bytes);
        }
        // One that holds nothing yet is not listed, though it may ask for more than its part.
        is_candidate |= !self.clients.contains_key(&holder.client) && self.is_over(&holder.client, holder, bytes);
        let mut totals = HashMap::new();
        for (held, ..) in &candidates {
            totals.entry(held.address).or_insert_with(|| self.of_address(held.address, holder, bytes));
        }
        let (address, most) =
            totals.iter().map(|(address, total)| (*address, *total)).max_by_key(|(_, total)| *total)?;
        if is_candidate && self.of_address(holder.address, holder, bytes) >= most {
            return None;
        }
        totals.remove(&address);
        candidates.retain(|(held, ..)| held.address == address);
        candidates.sort_unstable_by_key(|(held, number, ..)| (Reverse(held.bytes), *number));
        let victim = |(held, number, client, service): (&Held, u64, &ClientId, &Name)| {
            (number, Owner { client: client.clone(), service: service.clone(), address: held.address })
        };
        let portions = candidates.into_iter().take(VICTIMS_AT_ONCE).map(victim).collect();
        Some(Victims { portions, least: totals.into_values().max().unwrap_or_default() })
    }
}

/// Who makes room next.
struct Victims {
    /// Portions of one address, the largest first.
    portions: Vec<(u64, Owner)>,
    /// What another address holds: they go for as long as theirs does not hold less.
    least: usize,
}

/// The most portions that are evicted before all of them are compared again.
const VICTIMS_AT_ONCE: usize = 16;

#[cfg(test)]
mod tests;
