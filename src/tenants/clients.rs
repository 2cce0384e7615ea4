//! The client store: who may log in, what is theirs, and who is invited. Read by every login and by visitors of names
//! that nobody serves at the moment.

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
use crate::tenants::entry::{ClientEntry, ClientsFile, InviteEntry, invite_key};
use crate::values::{ClientId, Domain, Name, Secret};

/// What is wrong with the token hashes of `file`, each under its key path.
pub fn hash_problems(file: &ClientsFile) -> Vec<Problem> {
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

/// The clients as the operator listed them. Can be exchanged as a whole while everybody reads.
#[derive(Debug)]
pub struct Clients {
    current: RwLock<Current>,
    /// Those that were taken off the list, and when; the latest at the end.
    removed: Mutex<VecDeque<(ClientId, Timestamp)>>,
    changes: watch::Sender<()>,
}

/// The current list, and the change that introduced it.
#[derive(Debug)]
struct Current {
    listed: Arc<Listed>,
    change: Change,
    /// The latest change of each client, of the latest [`RECENT`] changes.
    of_client: HashMap<ClientId, Change>,
}

impl Current {
    fn change_to(&mut self, listed: &Arc<Listed>, by_command: bool) {
        let before = std::mem::replace(&mut self.listed, Arc::clone(listed));
        self.change = Change { revision: self.change.revision.wrapping_add(1), by_command };
        let oldest = self.change.revision.saturating_sub(RECENT);
        self.of_client.retain(|_, change| change.revision > oldest);
        let ids = before.clients.keys().chain(listed.clients.keys());
        let changed = ids.filter(|id| before.clients.get(*id) != listed.clients.get(*id));
        self.of_client.extend(changed.map(|id| (id.clone(), self.change)));
    }
}

/// A change of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// The number of this change, counted from the start of the server.
    pub revision: u64,
    /// Whether a command or the API made it, which write the file in one step. An edit by hand may be incomplete.
    pub by_command: bool,
}

/// So many changes are remembered client by client. Whoever looks after each of them needs no more.
const RECENT: u64 = 64;

/// How many clients are remembered that were taken off the list: whoever reads the log asks about the latest.
const REMEMBERED: usize = 256;

/// How a client stands, for the operator: whoever logs in is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may log in.
    Listed,
    /// It is listed, and has expired at that moment.
    Expired(Timestamp),
    /// It was taken off the list at that moment.
    Removed(Timestamp),
    /// Nobody remembers it.
    Unknown,
}

/// A token hash that holds at present.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The argon2id hash in PHC form.
    pub hash: Arc<str>,
    /// From when on it holds no more by itself, because the client expires or, for a token that was rotated, because
    /// the overlap ends. `None`: until the clients file changes.
    pub until: Option<Timestamp>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("hash", &"***").field("until", &self.until).finish()
    }
}

/// What an invitation is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invited {
    /// By what it is known in the clients file.
    pub key: String,
    /// Who is meant; `None`: whoever has the code chooses an id.
    pub id: Option<ClientId>,
    /// The names the new client may claim; none if it chooses its id, which is then its name.
    pub names: Vec<Name>,
}

#[derive(Debug)]
struct Listed {
    clients: BTreeMap<ClientId, Arc<ClientEntry>>,
    invites: BTreeMap<String, InviteEntry>,
    names: HashMap<Name, ClientId>,
    /// Domains that are no wildcards.
    hosts: HashMap<Domain, ClientId>,
    /// The wildcards, by what their hosts are below.
    below: HashMap<Box<str>, ClientId>,
    /// When something stops to hold by itself, in order.
    ends: Vec<Timestamp>,
}

impl Listed {
    fn new(file: ClientsFile) -> Arc<Self> {
        let mut listed = Self {
            clients: BTreeMap::new(),
            names: HashMap::new(),
            hosts: HashMap::new(),
            below: HashMap::new(),
            ends: file.invites.values().map(|invite| invite.expires).collect(),
            invites: file.invites,
        };
        for (id, entry) in file.clients {
            listed.names.extend(entry.names.iter().map(|name| (name.clone(), id.clone())));
            for domain in &entry.domains {
                match domain.is_wildcard() {
                    true => drop(listed.below.insert(domain.host().into(), id.clone())),
                    false => drop(listed.hosts.insert(domain.clone(), id.clone())),
                }
            }
            listed.ends.extend(entry.expires);
            listed.ends.extend(entry.previous.as_ref().map(|previous| previous.until));
            listed.clients.insert(id, Arc::new(entry));
        }
        listed.ends.sort_unstable();
        Arc::new(listed)
    }

    /// The client whose wildcard `host`, or something above it, is directly below.
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
    /// The store of what `file` lists.
    pub fn new(file: ClientsFile) -> Self {
        let current = Current { listed: Listed::new(file), change: Change::default(), of_client: HashMap::new() };
        let current = RwLock::new(current);
        Self { current, removed: Mutex::default(), changes: watch::Sender::new(()) }
    }

    /// Takes over another list: from the next login and the next request on, it alone counts.
    pub fn replace(&self, file: ClientsFile) {
        self.replace_by(file, false);
    }

    /// Like [`Clients::replace`], and records whether a command or the API made the change.
    pub fn replace_by(&self, file: ClientsFile, by_command: bool) {
        let listed = Listed::new(file);
        let mut current = self.current.write();
        let before = Arc::clone(&current.listed);
        current.change_to(&listed, by_command);
        drop(current);
        let now = Timestamp::now();
        let mut removed = self.removed.lock();
        let gone = before.clients.keys().filter(|id| !listed.clients.contains_key(*id)).take(REMEMBERED);
        removed.extend(gone.map(|id| (id.clone(), now)));
        let too_many = removed.len().saturating_sub(REMEMBERED);
        drop(removed.drain(..too_many));
        drop(removed);
        self.changes.send_replace(());
    }

    /// Whether this is what `file` lists.
    pub fn lists(&self, file: &ClientsFile) -> bool {
        let listed = self.listed();
        let is_same =
            |((id, entry), (other_id, other)): ((&ClientId, &Arc<ClientEntry>), (&ClientId, &ClientEntry))| {
                id == other_id && **entry == *other
            };
        listed.invites == file.invites
            && listed.clients.len() == file.clients.len()
            && listed.clients.iter().zip(&file.clients).all(is_same)
    }

    /// Returns the latest change of the list.
    pub fn last_change(&self) -> Change {
        self.current.read().change
    }

    /// The latest change of what is listed of `client`, unless that was long ago.
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

    /// Ticks each time the list was replaced, after it was.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The next moment after `now` at which something stops to hold by itself: a client, a token that was rotated, an
    /// invitation.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let listed = self.listed();
        listed.ends.get(listed.ends.partition_point(|end| *end <= now)).copied()
    }

    fn listed(&self) -> Arc<Listed> {
        Arc::clone(&self.current.read().listed)
    }

    /// The client as it is listed, expired or not.
    pub fn entry(&self, client: &ClientId) -> Option<Arc<ClientEntry>> {
        self.listed().clients.get(client).cloned()
    }

    /// Every client that is listed, in alphabetical order.
    pub fn ids(&self) -> Vec<ClientId> {
        self.listed().clients.keys().cloned().collect()
    }

    /// Every invitation that is listed, expired or not, by its key.
    pub fn invites(&self) -> BTreeMap<String, InviteEntry> {
        self.listed().invites.clone()
    }

    /// The token hashes that hold now: the current one, and behind it the previous one while its overlap lasts. Empty
    /// if the client is not listed or has expired.
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

    /// How a client stands at `now`.
    pub fn standing(&self, client: &ClientId, now: Timestamp) -> Standing {
        if let Some(entry) = self.entry(client) {
            return entry.expires.filter(|end| *end <= now).map_or(Standing::Listed, Standing::Expired);
        }
        let removed = self.removed.lock();
        let last = removed.iter().rev().find(|(id, _)| id == client);
        last.map_or(Standing::Unknown, |(_, when)| Standing::Removed(*when))
    }

    /// The names that a client may claim.
    pub fn names(&self, client: &ClientId) -> Vec<Name> {
        self.entry(client).map(|entry| entry.names.clone()).unwrap_or_default()
    }

    /// The public ports that a client's `tcp` services may have.
    pub fn tcp_ports(&self, client: &ClientId) -> Vec<RangeInclusive<u16>> {
        self.entry(client).map(|entry| entry.tcp_ports.clone()).unwrap_or_default()
    }

    /// Whose name it is.
    pub fn owner_of_name(&self, name: &Name) -> Option<ClientId> {
        self.listed().names.get(name).cloned()
    }

    /// Whose domain `host` is: listed itself, or below a wildcard that is listed, at any depth. `host` is in lower
    /// case, without a final dot.
    pub fn owner_of_domain(&self, host: &str) -> Option<ClientId> {
        let listed = self.listed();
        listed.hosts.get(host).or_else(|| listed.owner_above(host)).cloned()
    }

    /// Whether a service of `client` may be called `name`.
    pub fn may_claim(&self, client: &ClientId, name: &Name) -> bool {
        self.listed().names.get(name) == Some(client)
    }

    /// Whether the service `name` of `client` may also answer for every host below it.
    pub fn may_be_wildcard(&self, client: &ClientId, name: &Name) -> bool {
        self.entry(client).is_some_and(|entry| entry.wildcards.contains(name))
    }

    /// Whether a service of `client` may have `domain`: it is listed, or below a wildcard that is listed.
    pub fn may_have_domain(&self, client: &ClientId, domain: &Domain) -> bool {
        let listed = self.listed();
        let itself = match domain.is_wildcard() {
            true => listed.below.get(domain.host()),
            false => listed.hosts.get(domain),
        };
        itself.or_else(|| listed.owner_above(domain.host())) == Some(client)
    }

    /// What the invitation with this code is good for, if there is one and it has not expired.
    pub fn invite(&self, code: &Secret) -> Option<Invited> {
        self.invite_at(code, Timestamp::now())
    }

    fn invite_at(&self, code: &Secret, now: Timestamp) -> Option<Invited> {
        // Whoever shows a code cannot steer its digest towards the one it is compared with.
        let digest = InviteCode::parse(code.expose()).ok()?.digest();
        let key = invite_key(&digest);
        let listed = self.listed();
        let invite =
            listed.invites.get(&key).filter(|invite| invite.code_hash == digest && !invite.has_expired(now))?;
        Some(Invited { key, id: invite.id.clone(), names: invite.names.clone() })
    }

    /// Whether a client is called `id`, will be by another invitation than the one with this key, or may claim that name.
    pub fn is_taken(&self, id: &ClientId, key: &str) -> bool {
        let listed = self.listed();
        let name = Name::from(id.clone());
        let takes = |invite: &InviteEntry| invite.id.as_ref() == Some(id) || invite.names.contains(&name);
        listed.clients.contains_key(id)
            || listed.names.contains_key(&name)
            || listed
                .invites
                .iter()
                .any(|(other, invite)| other != key && !invite.has_expired(Timestamp::now()) && takes(invite))
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.listed().clients.len()
    }

    /// Whether there are none: then nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
