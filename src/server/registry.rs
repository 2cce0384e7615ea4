//! Who is connected: tunnels by client id, and an index from name to tunnel.
//!
//! Readers (every request) take a clone out of the index and hold no lock. Writers (logins, goodbyes) are rare and
//! take turns behind one lock, so that claiming several names is one step.

mod lost;

use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::login::Authenticated;
use super::tunnel::{Lane, Retired, Tunnel};
use crate::protocol::login::{Refusal, ServiceOffer};
use crate::values::{ClientId, InstanceId, Name, TunnelId};
use lost::Lost;

/// The tunnels of this server.
#[derive(Debug)]
pub struct Registry {
    tunnels: DashMap<ClientId, Vec<Arc<Tunnel>>>,
    names: DashMap<Name, Arc<Tunnel>>,
    max_tunnels: usize,
    /// Held by whoever changes the maps.
    books: Mutex<Books>,
    changed: watch::Sender<u64>,
}

/// What only writers need to know.
#[derive(Debug, Default)]
struct Books {
    /// The number of tunnels.
    count: usize,
    lost: Lost,
}

/// The most tunnels of one client.
pub const MAX_TUNNELS_OF_A_CLIENT: usize = 64;

/// Why a tunnel could not be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterError {
    /// Another client holds this name.
    NameTaken(Name),
    /// A newer login of the same client has taken over this name, and all the others that are claimed.
    Replaced(Name),
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
            Self::Replaced(name) => (
                Refusal::NameTaken,
                format!(
                    "a newer login of the same client has taken over the name `{name}`; two agents need two names (--name), or run only one"
                ),
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

    /// Gives the tunnel its first lane, whose guard keeps it registered from now on, and its names: those that another
    /// tunnel of the same client holds are taken over, and a tunnel left without a name is told so. An earlier tunnel of
    /// the same agent is its own past: it goes quietly. Of two logins that race, the later one to come here has won.
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
            names: DashMap::new(),
            max_tunnels,
            books: Mutex::default(),
            changed: watch::Sender::new(0),
        })
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
        self.check_names(login.client(), login.services())?;
        let barred = |service: &&ServiceOffer| self.is_barred(&books, login.client(), login.instance(), &service.name);
        if let Some(first) = login.services().first()
            && login.services().iter().all(|service| barred(&service))
        {
            return Err(RegisterError::Replaced(first.name.clone()));
        }
        let own = self.tunnels_of(login.client());
        if !self.replaces_one(&own, &login) {
            if books.count >= self.max_tunnels {
                return Err(RegisterError::TooMany);
            }
            if own.len() >= MAX_TUNNELS_OF_A_CLIENT {
                return Err(RegisterError::TooManyOfClient);
            }
        }
        books.count += 1;
        let tunnel = Arc::new(make(login));
        self.tunnels.entry(tunnel.client().clone()).or_default().push(Arc::clone(&tunnel));
        drop(books);
        self.changed();
        Ok(Registration { registry: Arc::clone(self), tunnel, handed_over: false })
    }

    fn check_names(&self, client: &ClientId, services: &[ServiceOffer]) -> Result<(), RegisterError> {
        let foreign = |name| self.names.get(name).is_some_and(|holder| holder.client() != client);
        match services.iter().find(|service| foreign(&service.name)) {
            Some(taken) => Err(RegisterError::NameTaken(taken.name.clone())),
            None => Ok(()),
        }
    }

    /// Whether `login` takes the place of one of the client's tunnels: such a login is let in although the limits are
    /// reached. For each tunnel that serves, one more at most may be on its way in or out, so the limits are exceeded
    /// by no more than twice.
    fn replaces_one(&self, own: &[Arc<Tunnel>], login: &Authenticated) -> bool {
        let claims = |service: &ServiceOffer| login.services().iter().any(|claimed| claimed.name == service.name);
        let replaced = |old: &Tunnel| {
            let mut held = old.services().iter().filter(|service| self.holds(old, &service.name));
            old.instance() == login.instance() || held.all(claims)
        };
        let (serving, passing): (Vec<&Arc<Tunnel>>, Vec<_>) = own.iter().partition(|tunnel| tunnel.is_serving());
        passing.len() < serving.len() && serving.into_iter().any(|old| replaced(old))
    }

    /// Names, first lane and the end of what the tunnel replaces are one step.
    fn claim(&self, tunnel: &Arc<Tunnel>, lane: &Arc<Lane>) -> Result<(), RegisterError> {
        let mut books = self.books.lock();
        self.check_names(tunnel.client(), tunnel.services())?;
        tunnel.first_lane(lane);
        let (client, instance) = (tunnel.client(), tunnel.instance());
        for ServiceOffer { name, .. } in tunnel.services() {
            // The newer holder keeps what this agent has lost to it.
            if self.is_barred(&books, client, instance, name) {
                continue;
            }
            books.lost.forget(client, instance, name);
            let older = self.names.insert(name.clone(), Arc::clone(tunnel));
            if let Some(older) = older.filter(|older| older.instance() != instance) {
                books.lost.remember(client, older.instance(), name);
            }
        }
        // A tunnel that waits for its first lane is no past: it may still come, and is the newer one then.
        let older = self.tunnels_of(tunnel.client()).into_iter();
        for old in older.filter(|old| old.id() != tunnel.id() && old.has_been_up()) {
            if old.instance() == tunnel.instance() {
                self.forget_names(&old);
                old.retire(Retired::CameBack);
            } else if !self.holds_a_name(&old) {
                old.retire(Retired::Replaced { by: tunnel.agent().to_owned() });
            }
        }
        drop(books);
        self.changed();
        Ok(())
    }

    /// Whether this agent has lost `name` to one that holds it still.
    fn is_barred(&self, books: &Books, client: &ClientId, instance: InstanceId, name: &Name) -> bool {
        books.lost.contains(client, instance, name)
            && self.names.get(name).is_some_and(|holder| holder.instance() != instance)
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
        let books = self.books.lock();
        self.forget_names(tunnel);
        drop(books);
        self.changed();
    }

    fn remove(&self, tunnel: &Arc<Tunnel>) {
        let mut books = self.books.lock();
        self.forget_names(tunnel);
        self.tunnels.remove_if_mut(tunnel.client(), |_, tunnels| {
            let before = tunnels.len();
            tunnels.retain(|other| other.id() != tunnel.id());
            books.count -= before - tunnels.len();
            tunnels.is_empty()
        });
        drop(books);
        self.changed();
    }

    fn forget_names(&self, tunnel: &Tunnel) {
        for service in tunnel.services() {
            self.names.remove_if(&service.name, |_, holder| holder.id() == tunnel.id());
        }
    }

    fn holds(&self, tunnel: &Tunnel, name: &Name) -> bool {
        self.names.get(name).is_some_and(|holder| holder.id() == tunnel.id())
    }

    fn holds_a_name(&self, tunnel: &Tunnel) -> bool {
        tunnel.services().iter().any(|service| self.holds(tunnel, &service.name))
    }

    /// The tunnel that holds `name` now.
    pub fn by_name(&self, name: &Name) -> Option<Arc<Tunnel>> {
        self.names.get(name).map(|tunnel| Arc::clone(&tunnel))
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
mod tests;
