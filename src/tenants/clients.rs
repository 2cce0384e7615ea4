//! The list of clients in force, indexed. Every login reads it, and so do visitors of names that no tunnel serves.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::auth::{InviteCode, check_hash};
use crate::schema::Problem;
use crate::tenants::claim::{Claim, names_of};
use crate::tenants::entry::{ClientEntry, ClientsFile, InviteEntry, invite_key};
use crate::values::{ClientId, Domain, Name, Secret};

/// Returns the problems with the token hashes of `file`, each under its key path.
pub fn check_hashes(file: &ClientsFile) -> Vec<Problem> {
    let hashes = file.clients.iter().flat_map(|(id, entry)| {
        let previous = entry.previous.iter().map(move |previous| (id, "previous.", &previous.token_hash));
        std::iter::once((id, "", &entry.token_hash)).chain(previous)
    });
    let problem = |(id, section, hash): (&ClientId, &str, &Arc<str>)| {
        let error = check_hash(hash).err()?;
        Some(Problem { key: format!("clients.{id}.{section}token_hash"), message: error.to_string() })
    };
    hashes.filter_map(problem).collect()
}

/// The list of clients in force. It can be replaced atomically while it is read.
#[derive(Debug)]
pub struct Clients {
    current: RwLock<Current>,
    /// Clients that were removed, and when; the latest at the end.
    removed: Mutex<VecDeque<(ClientId, Timestamp)>>,
    changes: watch::Sender<()>,
}

/// The current list, and the change that introduced it.
#[derive(Debug)]
struct Current {
    index: Arc<Index>,
    change: Change,
    /// The latest change of each client, among the latest [`RECENT`] changes.
    of_client: HashMap<ClientId, Change>,
}

impl Current {
    fn change_to(&mut self, index: &Arc<Index>, by_command: bool) {
        let before = std::mem::replace(&mut self.index, Arc::clone(index));
        self.change = Change { revision: self.change.revision.wrapping_add(1), by_command };
        let oldest = self.change.revision.saturating_sub(RECENT);
        self.of_client.retain(|_, change| change.revision > oldest);
        let ids = before.clients.keys().chain(index.clients.keys());
        let changed = ids.filter(|id| before.clients.get(*id) != index.clients.get(*id));
        self.of_client.extend(changed.map(|id| (id.clone(), self.change)));
    }
}

/// A change of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// The number of this change, counted from the start of the server.
    pub revision: u64,
    /// Whether a command or the API made it, which write the list in one step. An edit by hand may be incomplete.
    pub by_command: bool,
}

/// How many changes are remembered client by client. The revocation of tunnels reads each change soon after it is made.
const RECENT: u64 = 64;

/// How many removed clients are remembered, for the log.
const REMEMBERED: usize = 256;

/// Whether a client may log in, for the operator: agents are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientStatus {
    /// It may log in.
    Active,
    /// It is listed and has expired at that time.
    Expired(Timestamp),
    /// It was removed from the list at that time.
    Removed(Timestamp),
    /// It is not known.
    Unknown,
}

/// A token hash that is valid at present.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The argon2id hash in PHC form.
    pub hash: Arc<str>,
    /// When it expires, because the client does or because the overlap of a rotated token ends. `None`: when the list
    /// changes.
    pub until: Option<Timestamp>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("hash", &"***").field("until", &self.until).finish()
    }
}

/// What an invitation offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invited {
    /// The invitation's key.
    pub key: String,
    /// The id of the new client; `None` lets it choose one.
    pub id: Option<ClientId>,
    /// The names the new client may claim; none if it chooses its id, which is then its name.
    pub names: Vec<Name>,
}

/// The list by what is looked up in it.
#[derive(Debug)]
struct Index {
    clients: BTreeMap<ClientId, Arc<ClientEntry>>,
    invites: BTreeMap<String, InviteEntry>,
    names: HashMap<Name, ClientId>,
    /// Domains that are no wildcards.
    hosts: HashMap<Domain, ClientId>,
    /// The wildcards, by the domain that their hosts are below.
    below: HashMap<Box<str>, ClientId>,
    /// When something expires, in order.
    ends: Vec<Timestamp>,
}

impl Index {
    fn new(file: ClientsFile) -> Arc<Self> {
        let mut index = Self {
            clients: BTreeMap::new(),
            names: HashMap::new(),
            hosts: HashMap::new(),
            below: HashMap::new(),
            ends: file.invites.values().map(|invite| invite.expires).collect(),
            invites: file.invites,
        };
        for (id, entry) in file.clients {
            index.names.extend(entry.names.iter().filter_map(Claim::name).map(|name| (name.clone(), id.clone())));
            for domain in &entry.domains {
                match domain.is_wildcard() {
                    true => drop(index.below.insert(domain.host().into(), id.clone())),
                    false => drop(index.hosts.insert(domain.clone(), id.clone())),
                }
            }
            index.ends.extend(entry.expires);
            index.ends.extend(entry.previous.as_ref().map(|previous| previous.until));
            index.clients.insert(id, Arc::new(entry));
        }
        index.ends.sort_unstable();
        Arc::new(index)
    }

    /// Returns the owner of the wildcard that `host` is below, at any depth.
    fn owner_above(&self, mut host: &str) -> Option<&ClientId> {
        while let Some((_, parent)) = host.split_once('.') {
            if let Some(owner) = self.below.get(parent) {
                return Some(owner);
            }
            host = parent;
        }
        None
    }
}

impl Clients {
    /// Creates a list in force from `file`.
    pub fn new(file: ClientsFile) -> Self {
        let current = Current { index: Index::new(file), change: Change::default(), of_client: HashMap::new() };
        Self { current: RwLock::new(current), removed: Mutex::default(), changes: watch::Sender::new(()) }
    }

    /// Replaces the list, for every login and request from now on.
    pub fn replace(&self, file: ClientsFile) {
        self.replace_by(file, false);
    }

    /// Like [`Clients::replace`], and records whether a command or the API made the change.
    pub fn replace_by(&self, file: ClientsFile, by_command: bool) {
        let index = Index::new(file);
        let mut current = self.current.write();
        let before = Arc::clone(&current.index);
        current.change_to(&index, by_command);
        drop(current);
        let now = Timestamp::now();
        let mut removed = self.removed.lock();
        let gone = before.clients.keys().filter(|id| !index.clients.contains_key(*id)).take(REMEMBERED);
        removed.extend(gone.map(|id| (id.clone(), now)));
        let too_many = removed.len().saturating_sub(REMEMBERED);
        drop(removed.drain(..too_many));
        drop(removed);
        self.changes.send_replace(());
    }

    /// Returns whether `file` is the same list.
    pub fn lists(&self, file: &ClientsFile) -> bool {
        let index = self.index();
        index.invites == file.invites
            && index.clients.len() == file.clients.len()
            && file.clients.iter().all(|(id, entry)| index.clients.get(id).is_some_and(|listed| **listed == *entry))
    }

    /// Returns the latest change of the list.
    pub fn last_change(&self) -> Change {
        self.current.read().change
    }

    /// Returns the latest change of `client`, unless that was long ago.
    pub fn last_change_of(&self, client: &ClientId) -> Option<Change> {
        self.current.read().of_client.get(client).copied()
    }

    /// Records afterwards that a command or the API made the latest change.
    pub(crate) fn was_changed_by_command(&self) {
        let mut current = self.current.write();
        let revision = current.change.revision;
        current.change.by_command = true;
        let latest = current.of_client.values_mut().filter(|change| change.revision == revision);
        latest.for_each(|change| change.by_command = true);
        drop(current);
        self.changes.send_replace(());
    }

    /// Returns a receiver that is notified after each change of the list.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Returns the next time after `now` at which a client, an old token or an invitation expires.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let index = self.index();
        index.ends.get(index.ends.partition_point(|end| *end <= now)).copied()
    }

    fn index(&self) -> Arc<Index> {
        Arc::clone(&self.current.read().index)
    }

    /// Returns the client, expired or not.
    pub fn entry(&self, client: &ClientId) -> Option<Arc<ClientEntry>> {
        self.index().clients.get(client).cloned()
    }

    /// Returns the ids of all clients, in alphabetical order.
    pub fn ids(&self) -> Vec<ClientId> {
        self.index().clients.keys().cloned().collect()
    }

    /// Returns all invitations by key, expired or not.
    pub fn invites(&self) -> BTreeMap<String, InviteEntry> {
        self.index().invites.clone()
    }

    /// Returns the valid token hashes of a client: the current one, and after it the previous one while its overlap
    /// lasts. Empty if the client is unknown or has expired.
    pub fn credentials(&self, client: &ClientId) -> Vec<Credential> {
        self.credentials_at(client, Timestamp::now())
    }

    fn credentials_at(&self, client: &ClientId, now: Timestamp) -> Vec<Credential> {
        let Some(entry) = self.entry(client).filter(|entry| !entry.has_expired(now)) else { return Vec::new() };
        let previous = entry.overlapping(now).map(|previous| Credential {
            hash: Arc::clone(&previous.token_hash),
            until: Some(entry.expires.map_or(previous.until, |expires| expires.min(previous.until))),
        });
        let current = Credential { hash: Arc::clone(&entry.token_hash), until: entry.expires };
        std::iter::once(current).chain(previous).collect()
    }

    /// Returns whether a client may log in at `now`, and if not, why.
    pub fn status(&self, client: &ClientId, now: Timestamp) -> ClientStatus {
        if let Some(entry) = self.entry(client) {
            return entry.expires.filter(|end| *end <= now).map_or(ClientStatus::Active, ClientStatus::Expired);
        }
        let removed = self.removed.lock();
        let last = removed.iter().rev().find(|(id, _)| id == client);
        last.map_or(ClientStatus::Unknown, |(_, when)| ClientStatus::Removed(*when))
    }

    /// Returns the names that a client may claim.
    pub fn names(&self, client: &ClientId) -> Vec<Name> {
        self.entry(client).map(|entry| names_of(&entry.names)).unwrap_or_default()
    }

    /// Returns the public ports that the `tcp` services of a client may have.
    pub fn tcp_ports(&self, client: &ClientId) -> Vec<RangeInclusive<u16>> {
        self.entry(client).map(|entry| entry.tcp_ports.clone()).unwrap_or_default()
    }

    /// Returns the owner of a name.
    pub fn owner_of_name(&self, name: &Name) -> Option<ClientId> {
        self.index().names.get(name).cloned()
    }

    /// Returns the owner of `host`, which is listed itself or is below a wildcard at any depth. `host` is in lower case,
    /// without a trailing dot.
    pub fn owner_of_domain(&self, host: &str) -> Option<ClientId> {
        let index = self.index();
        index.hosts.get(host).or_else(|| index.owner_above(host)).cloned()
    }

    /// Returns whether a service of `client` may be called `name`.
    pub fn may_claim(&self, client: &ClientId, name: &Name) -> bool {
        self.index().names.get(name) == Some(client)
    }

    /// Returns whether the service `name` of `client` may also answer for every host below it.
    pub fn may_be_wildcard(&self, client: &ClientId, name: &Name) -> bool {
        let is_it = |claim: &Claim| matches!(claim, Claim::Below(below) if below == name);
        self.entry(client).is_some_and(|entry| entry.names.iter().any(is_it))
    }

    /// Returns whether a service of `client` may have `domain`: it is listed, or below a wildcard that is listed.
    pub fn may_have_domain(&self, client: &ClientId, domain: &Domain) -> bool {
        let index = self.index();
        let itself = match domain.is_wildcard() {
            true => index.below.get(domain.host()),
            false => index.hosts.get(domain),
        };
        itself.or_else(|| index.owner_above(domain.host())) == Some(client)
    }

    /// Returns what the invitation with this code offers, unless there is none or it has expired.
    pub fn invite(&self, code: &Secret) -> Option<Invited> {
        self.invite_at(code, Timestamp::now())
    }

    fn invite_at(&self, code: &Secret, now: Timestamp) -> Option<Invited> {
        // Needs no comparison in constant time: the caller cannot choose the digest of a code.
        let digest = InviteCode::parse(code.expose()).ok()?.digest();
        let key = invite_key(&digest);
        let index = self.index();
        let invite = index.invites.get(&key).filter(|invite| invite.code_hash == digest && !invite.has_expired(now))?;
        Some(Invited { key, id: invite.id.clone(), names: names_of(&invite.names) })
    }

    /// Returns whether `id` is a client, is invited by another invitation than `key`, or is a name that belongs to either.
    pub fn is_taken(&self, id: &ClientId, key: &str) -> bool {
        let (index, now) = (self.index(), Timestamp::now());
        let name = Name::from(id.clone());
        let takes = |invite: &InviteEntry| {
            invite.id.as_ref() == Some(id) || invite.names.iter().any(|claim| claim.name() == Some(&name))
        };
        let others = || index.invites.iter().filter(|(other, invite)| *other != key && !invite.has_expired(now));
        index.clients.contains_key(id) || index.names.contains_key(&name) || others().any(|(_, invite)| takes(invite))
    }

    /// Returns the number of clients.
    pub fn len(&self) -> usize {
        self.index().clients.len()
    }

    /// Returns whether there are no clients.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
