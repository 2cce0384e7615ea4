//! Who is connected: tunnels by client id, and an index from names and domains to what is offered under them.
//!
//! Readers (every request) take a clone out of the index and hold no lock. Writers (logins, goodbyes) are rare and
//! take turns behind one lock, so that claiming several names is one step.

mod index;
mod kept;
mod names;

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::service::{Offered, Service};
use super::tunnel::{Lane, Retired, Tunnel};
use crate::protocol::login::Refusal;
use crate::protocol::standby::{OtherAgent, Standby};
use crate::server::agents::login::Authenticated;
use crate::values::{ClientId, Domain, Name, TunnelId};
use index::Index;
use kept::Kept;
pub use names::Fate;
use names::Places;

/// The tunnels of this server.
#[derive(Debug)]
pub struct Registry {
    tunnels: DashMap<ClientId, Vec<Arc<Tunnel>>>,
    names: Index<Name>,
    domains: Index<Domain>,
    /// Held by whoever changes the maps.
    books: Mutex<Books>,
    changed: watch::Sender<u64>,
    /// Something is kept for its last owner.
    keeps: Notify,
}

/// What only writers need to know.
#[derive(Debug)]
pub(crate) struct Books {
    /// The number of tunnels, and the most there may be.
    count: usize,
    max_tunnels: usize,
    /// Free names that wait for their last owners, and how long they do.
    kept: Kept,
    keep_for: Duration,
    /// How many tunnels have come up.
    came_up: u64,
}

/// How long a free name is kept for its last owner before an agent that stands by takes it.
pub const KEEP_FOR: Duration = Duration::from_secs(30);

/// Into how many looks that time is cut.
const LOOKS: u32 = 30;

/// How many labels of a host may stand below a client's `*.` domain.
const MAX_DEPTH: usize = 8;

/// The most tunnels of one client.
pub const MAX_TUNNELS_OF_A_CLIENT: usize = 64;

/// Why a tunnel could not be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterError {
    /// Another client holds this name.
    NameTaken(Name),
    /// Another client holds this domain.
    DomainTaken(Domain),
    /// An agent of the same client that was started later has this name, and others all the rest.
    Replaced(Name, OtherAgent),
    /// This name is free, and kept for a while for an agent of the same client that was started later.
    Kept(Name),
    /// The server has as many tunnels as it may.
    TooMany,
    /// The client has as many tunnels as it may.
    TooManyOfClient,
}

impl RegisterError {
    /// What the agent is told.
    pub fn refusal(&self) -> (Refusal, String) {
        match self {
            Self::NameTaken(name) => (Refusal::NameTaken, format!("the name `{name}` is in use by another client")),
            Self::DomainTaken(domain) => {
                (Refusal::NameTaken, format!("the domain `{domain}` is in use by another client"))
            }
            Self::Replaced(name, by) => (
                Refusal::NameTaken,
                format!(
                    "{by} was started later and has the name `{name}`; run only one agent, or give each its own name (--name)"
                ),
            ),
            Self::Kept(name) => (
                Refusal::TooMany,
                format!("the name `{name}` is reserved for another agent of the same client for a moment; try again"),
            ),
            Self::TooMany => {
                (Refusal::TooMany, "the server has as many tunnels as it may (`tunnel.max_tunnels`)".to_owned())
            }
            Self::TooManyOfClient => (
                Refusal::TooMany,
                format!("the client has {MAX_TUNNELS_OF_A_CLIENT} agents connected already; stop one of them"),
            ),
        }
    }
}

/// A tunnel that has its place and waits for its first lane. Until then it holds no name and nobody makes way for it:
/// the agent may be gone before it has heard that it is welcome. Dropping this gives the place back.
#[derive(Debug)]
#[must_use = "a tunnel without a lane keeps its place for as long as this lives"]
pub struct Registration {
    registry: Arc<Registry>,
    tunnel: Arc<Tunnel>,
    handed_over: bool,
}

impl Registration {
    /// The tunnel.
    pub fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }

    /// Gives the tunnel its first lane, whose guard keeps it registered from now on, and its names, but for those that an
    /// agent of the same client has which was started later. Those that others have are taken over, and each of them is told
    /// so. An earlier tunnel of the same agent is its own past: it goes quietly.
    ///
    /// # Errors
    /// Another client has claimed one of the names since; nothing has changed then.
    pub fn first_lane(mut self, lane: Arc<Lane>) -> Result<LaneGuard, RegisterError> {
        self.registry.claim(&self.tunnel, &lane)?;
        self.handed_over = true;
        Ok(LaneGuard { registry: Arc::clone(&self.registry), tunnel: Arc::clone(&self.tunnel), lane })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.handed_over {
            self.registry.remove(&self.tunnel);
        }
    }
}

/// A lane in its tunnel. Dropping it removes that lane, and with the last one the tunnel, and ends the lane's session.
#[derive(Debug)]
#[must_use = "a lane belongs to its tunnel for as long as this lives"]
pub struct LaneGuard {
    registry: Arc<Registry>,
    tunnel: Arc<Tunnel>,
    lane: Arc<Lane>,
}

impl LaneGuard {
    /// The lane.
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// The tunnel it belongs to.
    pub fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        if self.tunnel.remove_lane(&self.lane) {
            self.registry.remove(&self.tunnel);
        } else {
            self.registry.changed();
        }
        // The lane is out of the way first: nobody opens a stream that would be cut at once.
        self.lane.session().close();
    }
}

impl Registry {
    /// Room for `max_tunnels`.
    pub fn new(max_tunnels: usize) -> Arc<Self> {
        Arc::new(Self {
            tunnels: DashMap::new(),
            names: Index::new(),
            domains: Index::new(),
            books: Mutex::new(Books { count: 0, max_tunnels, kept: Kept::default(), keep_for: KEEP_FOR, came_up: 0 }),
            changed: watch::Sender::new(0),
            keeps: Notify::new(),
        })
    }

    /// Room for `max_tunnels` from now on. Those that are there stay, even if they are more.
    pub fn set_max_tunnels(&self, max_tunnels: usize) {
        self.books.lock().max_tunnels = max_tunnels;
    }

    /// Keeps free names for so long from now on, instead of [`KEEP_FOR`].
    pub fn keep_free_names_for(&self, time: Duration) {
        self.books.lock().keep_for = time;
    }

    /// Gives free names to agents that stand by for them, each when its time has come. Until `stop`.
    pub(crate) async fn give_free_names(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            loop {
                self.keeps.notified().await;
                let between = (self.books.lock().keep_for / LOOKS).max(Duration::from_millis(10));
                let mut look = interval(between);
                look.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    look.tick().await;
                    if !self.give_due() {
                        break;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            never = work => never,
        }
    }

    /// Gives a tunnel its place. It has no names before [`Registration::first_lane`].
    ///
    /// # Errors
    /// Another client holds one of the names, or there are too many tunnels; nothing has changed then.
    pub fn register(
        self: &Arc<Self>,
        login: Authenticated,
        make: impl FnOnce(Authenticated) -> Tunnel,
    ) -> Result<Registration, RegisterError> {
        let mut books = self.books.lock();
        self.check_foreign(login.client(), login.services())?;
        let own = self.tunnels_of(login.client());
        let tunnel = Arc::new(make(login));
        let fates = self.fates_in(&books, &tunnel);
        self.check_names(&tunnel, &fates)?;
        let stands_by = fates.iter().all(|fate| matches!(fate, Fate::StandsBy(_)));
        if stands_by || !self.replaces_one(&own, &tunnel) {
            if books.count >= books.max_tunnels {
                return Err(RegisterError::TooMany);
            }
            if own.len() >= MAX_TUNNELS_OF_A_CLIENT {
                return Err(RegisterError::TooManyOfClient);
            }
        }
        books.count += 1;
        self.tunnels.entry(tunnel.client().clone()).or_default().push(Arc::clone(&tunnel));
        drop(books);
        self.changed();
        Ok(Registration { registry: Arc::clone(self), tunnel, handed_over: false })
    }

    /// An agent that cannot stand by has to have a name.
    fn check_names(&self, tunnel: &Tunnel, fates: &[Fate]) -> Result<(), RegisterError> {
        let elsewhere = |fate: &Fate| match fate {
            Fate::StandsBy(Standby { name, by: Some(by) }) => Some(RegisterError::Replaced(name.clone(), by.clone())),
            Fate::StandsBy(Standby { name, by: None }) => Some(RegisterError::Kept(name.clone())),
            Fate::Held(_) => None,
        };
        match fates.iter().map(elsewhere).collect::<Option<Vec<_>>>() {
            Some(all) if !tunnel.can_stand_by() => all.into_iter().next().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    fn check_foreign(&self, client: &ClientId, services: &[Arc<Service>]) -> Result<(), RegisterError> {
        for service in services {
            if self.names.is_foreign(service.name(), client) {
                return Err(RegisterError::NameTaken(service.name().clone()));
            }
            let mut domains = service.offer().domains.iter();
            if let Some(taken) = domains.find(|domain| self.domains.is_foreign(domain, client)) {
                return Err(RegisterError::DomainTaken(taken.clone()));
            }
        }
        Ok(())
    }

    /// Whether `login` takes the place of one of the client's tunnels: such a login is let in although the limits are
    /// reached. For each tunnel that serves, one more at most may be on its way in or out, so the limits are exceeded
    /// by no more than twice.
    fn replaces_one(&self, own: &[Arc<Tunnel>], login: &Tunnel) -> bool {
        let claimed = login.services();
        let takes = |held: &Arc<Service>| {
            claimed.iter().any(|claimed| claimed.name() == held.name() && !claimed.shares_with(held))
        };
        let replaced = |old: &Tunnel| {
            let services = old.services();
            let mut held = services.iter().filter(|service| self.names.leads_to(service.name(), old.id()));
            old.instance() == login.instance() || (old.start() <= login.start() && held.all(takes))
        };
        let (serving, passing): (Vec<&Arc<Tunnel>>, Vec<_>) = own.iter().partition(|tunnel| tunnel.is_serving());
        passing.len() < serving.len() && serving.into_iter().any(|old| replaced(old))
    }

    /// Names, first lane and the end of what the tunnel replaces are one step.
    fn claim(&self, tunnel: &Arc<Tunnel>, lane: &Arc<Lane>) -> Result<(), RegisterError> {
        let mut books = self.books.lock();
        let services = tunnel.services();
        self.check_foreign(tunnel.client(), &services)?;
        self.check_names(tunnel, &self.fates_in(&books, tunnel))?;
        self.keep_for_owners(&mut books, tunnel);
        books.came_up += 1;
        tunnel.first_lane(lane, books.came_up);
        let mut places = Places::of(&services);
        // A tunnel that waits for its first lane is no past: it may still come.
        let older = self.tunnels_of(tunnel.client()).into_iter();
        let older = older.filter(|old| old.id() != tunnel.id() && old.has_been_up());
        let (past, others): (Vec<_>, Vec<_>) = older.partition(|old| old.instance() == tunnel.instance());
        for old in &past {
            old.retire(Retired::CameBack);
            places.add(&old.services());
        }
        self.settle(&mut books, tunnel.client(), &[], places, Some(tunnel.id()));
        for old in &others {
            self.retire_if_nameless(&mut books, old, tunnel);
        }
        self.make_room(&mut books, tunnel);
        drop(books);
        self.changed();
        Ok(())
    }

    /// Agents that stand by have a place for as long as there is room.
    fn make_room(&self, books: &mut Books, newcomer: &Tunnel) {
        let own = self.tunnels_of(newcomer.client());
        let over = books.count.saturating_sub(books.max_tunnels).max(own.len().saturating_sub(MAX_TUNNELS_OF_A_CLIENT));
        let passing = own.iter().filter(|tunnel| !tunnel.is_serving()).count();
        let mut idle: Vec<_> = own.iter().filter(|old| old.is_serving() && self.held(old).is_empty()).collect();
        idle.sort_by_key(|old| old.rank());
        for old in idle.into_iter().filter(|old| old.id() != newcomer.id()).take(over.saturating_sub(passing)) {
            self.retire_replaced(books, old, newcomer);
        }
    }

    /// Forgets what is kept for clients that are not listed any more.
    pub fn forget_kept(&self, is_listed: impl Fn(&ClientId) -> bool) {
        self.books.lock().kept.retain(is_listed);
    }

    /// Adds a further lane; `None` if the tunnel is gone or has as many as it may.
    pub fn add_lane(self: &Arc<Self>, tunnel: &Arc<Tunnel>, lane: Arc<Lane>) -> Option<LaneGuard> {
        if !tunnel.add_lane(&lane) {
            return None;
        }
        self.changed();
        Some(LaneGuard { registry: Arc::clone(self), tunnel: Arc::clone(tunnel), lane })
    }

    /// Takes a tunnel out of the way of new visitors; what is open on it goes on.
    pub fn withdraw(&self, tunnel: &Arc<Tunnel>) {
        let mut books = self.books.lock();
        self.forget_names(&mut books, tunnel);
        drop(books);
        self.changed();
    }

    fn remove(&self, tunnel: &Arc<Tunnel>) {
        let mut books = self.books.lock();
        if tunnel.has_been_up() {
            self.forget_names(&mut books, tunnel);
        }
        self.tunnels.remove_if_mut(tunnel.client(), |_, tunnels| {
            let before = tunnels.len();
            tunnels.retain(|other| other.id() != tunnel.id());
            books.count -= before - tunnels.len();
            tunnels.is_empty()
        });
        drop(books);
        self.changed();
    }

    /// What is offered under `name` now; of several tunnels that share it, the one with the fewest open streams.
    pub fn by_name(&self, name: &Name) -> Option<Arc<Offered>> {
        self.names.choose(name, |_| true)
    }

    /// What is offered to hosts below `name`.
    pub fn below_name(&self, name: &Name) -> Option<Arc<Offered>> {
        self.names.choose(name, |offered| offered.service.offer().wildcard)
    }

    /// What is offered under `host` as a domain of a client's own, or under a `*.` above it. Lower case, without a final
    /// dot.
    pub fn by_domain(&self, host: &str) -> Option<Arc<Offered>> {
        if self.domains.is_empty() {
            return None;
        }
        self.domains.choose(host, |_| true).or_else(|| {
            let parents = host.match_indices('.').take(MAX_DEPTH);
            parents
                .map(|(at, _)| format!("*{}", &host[at..]))
                .find_map(|above| self.domains.choose(above.as_str(), |_| true))
        })
    }

    /// The same service through a tunnel that was not tried yet, for a request of which nothing has been done. Whoever
    /// was let in there must be let in here: that is the same client, with the same conditions.
    pub fn another(&self, offered: &Offered, tried: &[TunnelId]) -> Option<Arc<Offered>> {
        let (before, client) = (offered.service.offer(), offered.tunnel.client());
        let is_alike = |other: &Offered| {
            let offer = other.service.offer();
            other.tunnel.client() == client && offer.kind == before.kind && offer.access == before.access
        };
        let fits = |other: &Offered| !tried.contains(&other.tunnel.id()) && is_alike(other);
        self.names.choose(offered.service.name(), fits)
    }

    /// A client's tunnels.
    pub fn tunnels_of(&self, client: &ClientId) -> Vec<Arc<Tunnel>> {
        self.tunnels.get(client).map(|tunnels| tunnels.clone()).unwrap_or_default()
    }

    /// A client's tunnel with this id, if it has had its first lane.
    pub fn tunnel(&self, client: &ClientId, id: TunnelId) -> Option<Arc<Tunnel>> {
        self.tunnels.get(client)?.iter().find(|tunnel| tunnel.id() == id && tunnel.has_been_up()).cloned()
    }

    /// All tunnels, those that wait for their first lane included. Walks the whole map.
    pub fn all(&self) -> Vec<Arc<Tunnel>> {
        self.tunnels.iter().flat_map(|tunnels| tunnels.clone()).collect()
    }

    /// How many tunnels there are; those that drain and those that wait for their first lane included.
    pub fn len(&self) -> usize {
        self.books.lock().count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether any name leads to a tunnel.
    pub fn serves_any(&self) -> bool {
        !self.names.is_empty()
    }

    /// Changes whenever a tunnel, a lane or a name comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn changed(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }
}

#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod tests;
