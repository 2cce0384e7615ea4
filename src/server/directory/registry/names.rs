//! Assigns names and domains to tunnels.
//!
//! One rule applies after every change: of the active tunnels that offer a name, the one whose agent was started last has
//! it, together with those that share it (`group`). The others stand by. A name that becomes free is reserved for its last
//! owner for a while ([`super::kept`]); an agent that was started later does not have to wait.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use tokio::time::Instant;

use super::index::Index;
use super::kept::Place;
use super::{Books, RegisterError, Registry};
use crate::protocol::standby::{OtherAgent, Standby};
use crate::server::directory::service::{Offered, Service};
use crate::server::directory::tunnel::{Retired, Tunnel};
use crate::values::{ClientId, Domain, Name, TunnelId};

/// A tunnel that offers something, and the service by which it does.
#[derive(Clone)]
struct Candidate {
    tunnel: Arc<Tunnel>,
    service: Arc<Service>,
}

impl Candidate {
    fn id(&self) -> TunnelId {
        self.tunnel.id()
    }

    fn shares_with(&self, other: &Self) -> bool {
        self.id() == other.id() || self.service.shares_with(&other.service)
    }

    fn is(&self, held: &Offered) -> bool {
        held.tunnel.id() == self.id()
    }
}

/// The candidates that are to hold what `held` hold now. `kept` is the start that a candidate needs while nobody holds it;
/// an agent that knows nothing of standing by need not wait for that.
fn decide(candidates: &[Candidate], held: &[Arc<Offered>], kept: Option<u64>) -> Vec<Candidate> {
    let is_held = candidates.iter().any(|candidate| held.iter().any(|held| candidate.is(held)));
    let may = |candidate: &&Candidate| {
        is_held || !candidate.tunnel.can_stand_by() || kept.is_none_or(|start| candidate.tunnel.start() >= start)
    };
    // Before one that waits, none that was started earlier has its turn.
    let newest = candidates.iter().max_by_key(|candidate| candidate.tunnel.rank());
    let Some(newest) = newest.filter(may) else { return Vec::new() };
    candidates.iter().filter(|candidate| candidate.shares_with(newest)).cloned().collect()
}

/// What a login would have of one of its services.
#[derive(Debug, Clone)]
pub enum Fate {
    /// The name, which these agents have had until now.
    Held(Option<OtherAgent>),
    /// Not the name.
    StandsBy(Standby),
}

impl Registry {
    /// Makes the names and domains lead where they belong. `gone` is a tunnel that is leaving. Tells the log, and each
    /// tunnel that has won or lost one but for `newcomer`, whose login is answered with what it has.
    pub(crate) fn settle(
        &self,
        books: &mut Books,
        client: &ClientId,
        gone: &[TunnelId],
        places: Places,
        newcomer: Option<TunnelId>,
    ) {
        let mut serving = self.tunnels_of(client);
        serving.retain(|tunnel| tunnel.is_serving() && !gone.contains(&tunnel.id()));
        let mut moved = Moved::default();
        let Places { names, mut domains } = places;
        let offers = offers_of(&serving, |service| names.contains(service.name()).then(|| service.name().clone()));
        for name in &names {
            let candidates = offers.get(name).map(Vec::as_slice).unwrap_or_default();
            self.settle_one(books, client, (&self.names, name), candidates, &mut moved);
        }
        // A domain follows the name of its service.
        for candidate in offers.values().flatten() {
            domains.extend(candidate.service.offer().domains.iter().cloned());
        }
        let offers = offers_of_domains(&serving, &domains, |name, id| self.names.leads_to(name, id));
        for domain in &domains {
            let candidates = offers.get(domain).map(Vec::as_slice).unwrap_or_default();
            self.settle_one(books, client, (&self.domains, domain), candidates, &mut Moved::default());
        }
        moved.tell(client, newcomer);
    }

    fn settle_one<K>(
        &self,
        books: &mut Books,
        client: &ClientId,
        (index, key): (&Index<K>, &K),
        candidates: &[Candidate],
        moved: &mut Moved,
    ) where
        K: Eq + Hash + Clone + std::fmt::Display,
        for<'k> Place: From<&'k K>,
    {
        if index.is_foreign(key, client) {
            return;
        }
        let (before, place, now) = (index.members(key), Place::from(key), Instant::now());
        let stays = |held: &Arc<Offered>| candidates.iter().any(|candidate| candidate.is(held));
        if let Some(last) = before.iter().map(|held| held.tunnel.start()).max()
            && !before.iter().any(stays)
        {
            books.kept.keep(client, place.clone(), last, (now, books.keep_for));
            self.keeps.notify_one();
        }
        let after = decide(candidates, &before, books.kept.start_of(client, &place, now));
        if !after.is_empty() {
            books.kept.forget(client, &place);
        }
        moved.add(key, &before, &after);
        let member = |candidate: Candidate| {
            let same = |held: &&Arc<Offered>| candidate.is(held) && Arc::ptr_eq(&held.service, &candidate.service);
            let same = before.iter().find(same).cloned();
            same.unwrap_or_else(|| Arc::new(Offered { tunnel: candidate.tunnel, service: candidate.service }))
        };
        index.set(key.clone(), after.into_iter().map(member).collect());
    }

    /// What `tunnel` would have if it came up now: for each of its services, in their order.
    pub fn fates(&self, tunnel: &Arc<Tunnel>) -> Vec<Fate> {
        self.fates_in(&self.books.lock(), tunnel)
    }

    pub(crate) fn fates_in(&self, books: &Books, tunnel: &Arc<Tunnel>) -> Vec<Fate> {
        let services = tunnel.services();
        let mut others = self.tunnels_of(tunnel.client());
        others.retain(|other| other.is_serving() && other.instance() != tunnel.instance());
        let names: HashSet<&Name> = services.iter().map(|service| service.name()).collect();
        let mut offers = offers_of(&others, |other| names.contains(other.name()).then(|| other.name().clone()));
        let fate = |service| self.fate(books, tunnel, service, offers.remove(service.name()).unwrap_or_default());
        services.iter().map(fate).collect()
    }

    fn fate(
        &self,
        books: &Books,
        tunnel: &Arc<Tunnel>,
        service: &Arc<Service>,
        mut candidates: Vec<Candidate>,
    ) -> Fate {
        let (name, now) = (service.name(), Instant::now());
        let own = Candidate { tunnel: Arc::clone(tunnel), service: Arc::clone(service) };
        candidates.push(own.clone());
        let before = self.names.members(name);
        let is_own = |held: &Arc<Offered>| held.tunnel.instance() == tunnel.instance();
        let kept = books.kept.start_of(tunnel.client(), &Place::from(name), now);
        // A name that its own past has is not free.
        let kept = kept.or_else(|| self.keeps_itself(tunnel, name)).filter(|_| !before.iter().any(is_own));
        let after = decide(&candidates, &before, kept);
        let stays = |held: &Arc<Offered>| after.iter().any(|candidate| candidate.is(held));
        let mut others = before.iter().filter(|held| !is_own(held));
        if after.iter().any(|candidate| candidate.id() == own.id()) {
            return Fate::Held(others.find(|held| !stays(held)).map(|held| held.tunnel.as_other()));
        }
        Fate::StandsBy(Standby { name: name.clone(), by: others.next().map(|held| held.tunnel.as_other()) })
    }

    /// The start that takes a name from an agent which says that it stands by for it, although the server knows of no
    /// owner: it was restarted, and the owner may be on its way back.
    fn keeps_itself(&self, tunnel: &Tunnel, name: &Name) -> Option<u64> {
        let waits = !tunnel.has_been_up() && tunnel.waits_for(name) && self.names.members(name).is_empty();
        waits.then(|| tunnel.start().saturating_add(1))
    }

    /// Keeps the names that a newcomer stands by for, where nobody has them.
    pub(crate) fn keep_for_owners(&self, books: &mut Books, tunnel: &Tunnel) {
        let time = (Instant::now(), books.keep_for);
        for service in tunnel.services().iter() {
            if let Some(start) = self.keeps_itself(tunnel, service.name()) {
                books.kept.keep(tunnel.client(), Place::from(service.name()), start, time);
                self.keeps.notify_one();
            }
        }
    }

    /// Gives names away whose time has come. Says whether there are more that are kept.
    pub fn give_due(&self) -> bool {
        let mut books = self.books.lock();
        let due = books.kept.take_due(Instant::now());
        let any = !due.is_empty();
        for (client, places) in due {
            self.settle(&mut books, &client, &[], places.into_iter().collect(), None);
        }
        let more = !books.kept.is_empty();
        drop(books);
        if any {
            self.changed();
        }
        more
    }

    /// What an agent offers from now on instead of what it offered before. Services that are the same ones in `services`
    /// are not touched. Names and domains come and go in one step.
    ///
    /// # Errors
    /// Another client holds one of the names or domains; nothing has changed then.
    pub fn change_services(&self, tunnel: &Arc<Tunnel>, services: Vec<Arc<Service>>) -> Result<(), RegisterError> {
        let mut books = self.books.lock();
        self.check_foreign(tunnel.client(), &services)?;
        self.exchange_services(&mut books, tunnel, services);
        drop(books);
        self.changed();
        Ok(())
    }

    /// Takes away what a tunnel may not offer any more. Gives back how many services there were, and how many are left;
    /// with none left nothing is changed.
    pub fn retain_services(&self, tunnel: &Arc<Tunnel>, keep: impl Fn(&Service) -> bool) -> (usize, usize) {
        // Looked at under the lock: no change of the agent's own comes in between.
        let mut books = self.books.lock();
        let before = tunnel.services();
        let kept: Vec<Arc<Service>> = before.iter().filter(|service| keep(service)).cloned().collect();
        let count = (before.len(), kept.len());
        if count.1 > 0 && count.1 < count.0 {
            self.exchange_services(&mut books, tunnel, kept);
            drop(books);
            self.changed();
        }
        count
    }

    /// Gives a tunnel services that it had before, beside those that it has now.
    ///
    /// # Errors
    /// Another client holds one of the names or domains; nothing has changed then.
    pub fn return_services(&self, tunnel: &Arc<Tunnel>, back: Vec<Arc<Service>>) -> Result<(), RegisterError> {
        // Looked at under the lock: no change of the agent's own comes in between.
        let mut books = self.books.lock();
        let mut services = tunnel.services().to_vec();
        let is_there = |service: &Arc<Service>| services.iter().any(|other| other.name() == service.name());
        let back: Vec<_> = back.into_iter().filter(|service| !is_there(service)).collect();
        self.check_foreign(tunnel.client(), &back)?;
        services.extend(back);
        self.exchange_services(&mut books, tunnel, services);
        drop(books);
        self.changed();
        Ok(())
    }

    fn exchange_services(&self, books: &mut Books, tunnel: &Arc<Tunnel>, services: Vec<Arc<Service>>) {
        let mut places = Places::of(&tunnel.services());
        places.add(&services);
        tunnel.set_services(services.into());
        if tunnel.is_serving() {
            // Its agent is told by the answer to the change.
            self.settle(books, tunnel.client(), &[], places, Some(tunnel.id()));
            for other in self.tunnels_of(tunnel.client()).into_iter().filter(|other| other.id() != tunnel.id()) {
                self.retire_if_nameless(books, &other, tunnel);
            }
        }
    }

    /// Those of a tunnel's services that its names lead to. The others are elsewhere.
    pub fn held(&self, tunnel: &Tunnel) -> Vec<Arc<Service>> {
        let services = tunnel.services();
        services.iter().filter(|service| self.names.leads_to(service.name(), tunnel.id())).cloned().collect()
    }

    /// The names that a tunnel offers and does not have.
    pub fn standbys(&self, tunnel: &Tunnel) -> Vec<Standby> {
        let services = tunnel.services();
        let lost = services.iter().filter(|service| !self.names.leads_to(service.name(), tunnel.id()));
        let standby = |service: &Arc<Service>| {
            let by = self.names.members(service.name()).first().map(|held| held.tunnel.as_other());
            Standby { name: service.name().clone(), by }
        };
        lost.map(standby).collect()
    }

    /// An agent that cannot stand by has no use for a tunnel without a name.
    pub(crate) fn retire_if_nameless(&self, books: &mut Books, old: &Arc<Tunnel>, by: &Tunnel) {
        if old.is_serving() && !old.can_stand_by() && self.held(old).is_empty() {
            self.retire_replaced(books, old, by);
        }
    }

    pub(crate) fn retire_replaced(&self, books: &mut Books, old: &Arc<Tunnel>, by: &Tunnel) {
        old.retire(Retired::Replaced { by: by.as_other().to_string() });
        self.forget_names(books, old);
    }

    pub(crate) fn forget_names(&self, books: &mut Books, tunnel: &Tunnel) {
        self.settle(books, tunnel.client(), &[tunnel.id()], Places::of(&tunnel.services()), None);
    }
}

/// Names and domains to look at.
#[derive(Debug, Default)]
pub(crate) struct Places {
    names: HashSet<Name>,
    domains: HashSet<Domain>,
}

impl Places {
    pub(crate) fn of(services: &[Arc<Service>]) -> Self {
        let mut places = Self::default();
        places.add(services);
        places
    }

    pub(crate) fn add(&mut self, services: &[Arc<Service>]) {
        self.names.extend(services.iter().map(|service| service.name().clone()));
        self.domains.extend(services.iter().flat_map(|service| service.offer().domains.iter().cloned()));
    }
}

impl FromIterator<Place> for Places {
    fn from_iter<I: IntoIterator<Item = Place>>(all: I) -> Self {
        let mut places = Self::default();
        for place in all {
            match place {
                Place::Name(name) => drop(places.names.insert(name)),
                Place::Domain(domain) => drop(places.domains.insert(domain)),
            }
        }
        places
    }
}

fn offers_of<K: Eq + Hash>(
    tunnels: &[Arc<Tunnel>],
    key_of: impl Fn(&Service) -> Option<K>,
) -> HashMap<K, Vec<Candidate>> {
    let mut offers: HashMap<K, Vec<Candidate>> = HashMap::new();
    for tunnel in tunnels {
        for service in tunnel.services().iter() {
            if let Some(key) = key_of(service) {
                let candidate = Candidate { tunnel: Arc::clone(tunnel), service: Arc::clone(service) };
                offers.entry(key).or_default().push(candidate);
            }
        }
    }
    offers
}

fn offers_of_domains(
    tunnels: &[Arc<Tunnel>],
    domains: &HashSet<Domain>,
    leads: impl Fn(&Name, TunnelId) -> bool,
) -> HashMap<Domain, Vec<Candidate>> {
    let mut offers: HashMap<Domain, Vec<Candidate>> = HashMap::new();
    if domains.is_empty() {
        return offers;
    }
    for tunnel in tunnels {
        for service in tunnel.services().iter().filter(|service| leads(service.name(), tunnel.id())) {
            for domain in service.offer().domains.iter().filter(|domain| domains.contains(*domain)) {
                let candidate = Candidate { tunnel: Arc::clone(tunnel), service: Arc::clone(service) };
                offers.entry(domain.clone()).or_default().push(candidate);
            }
        }
    }
    offers
}

/// Which tunnels have won or lost names, for the log and for themselves.
#[derive(Default)]
struct Moved {
    won: HashMap<TunnelId, (Arc<Tunnel>, Vec<String>)>,
    lost: HashMap<TunnelId, Arc<Tunnel>>,
}

impl Moved {
    fn add(&mut self, key: &impl std::fmt::Display, before: &[Arc<Offered>], after: &[Candidate]) {
        for candidate in after.iter().filter(|candidate| !before.iter().any(|held| candidate.is(held))) {
            let won = self.won.entry(candidate.id()).or_insert_with(|| (Arc::clone(&candidate.tunnel), Vec::new()));
            won.1.push(key.to_string());
        }
        for held in before.iter().filter(|held| !after.iter().any(|candidate| candidate.is(held))) {
            self.lost.insert(held.tunnel.id(), Arc::clone(&held.tunnel));
        }
    }

    fn tell(self, client: &ClientId, newcomer: Option<TunnelId>) {
        let losers: Vec<String> =
            self.lost.values().filter(|old| old.is_serving()).map(|old| old.peer().to_string()).collect();
        let from = losers.join(",");
        for (tunnel, names) in self.won.values() {
            let (names, to) = (names.join(","), tunnel.peer());
            if Some(tunnel.id()) != newcomer {
                tracing::info!(%client, names, %to, "a standby agent has taken over free names");
                tunnel.names_moved();
            } else if !from.is_empty() {
                tracing::info!(%client, names, %to, from, "an agent of the same client that was started later has taken over names");
            }
        }
        self.lost.values().filter(|old| Some(old.id()) != newcomer).for_each(|old| old.names_moved());
    }
}
