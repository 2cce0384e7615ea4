//! The client store: who may log in, and with which names. Read by every login and by visitors of names that nobody
//! serves at the moment.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::RwLock;

use super::check_hash;
use crate::config::{ClientEntry, ClientsFile, Problem};
use crate::values::{ClientId, Name};

/// What is wrong with the token hashes of `file`, each under its key path.
pub fn hash_problems(file: &ClientsFile) -> Vec<Problem> {
    let problem = |(id, entry): (&ClientId, &ClientEntry)| {
        let error = check_hash(&entry.token_hash).err()?;
        Some(Problem { key: format!("clients.{id}.token_hash"), message: error.to_string() })
    };
    file.clients.iter().filter_map(problem).collect()
}

/// The clients as the operator listed them. Can be exchanged as a whole while everybody reads.
#[derive(Debug)]
pub struct Clients(RwLock<Arc<Listed>>);

#[derive(Debug)]
struct Listed {
    file: ClientsFile,
    owners: HashMap<Name, ClientId>,
}

impl Listed {
    fn new(file: ClientsFile) -> Arc<Self> {
        let owned = |(id, entry): (&ClientId, &ClientEntry)| {
            entry.names.iter().map(|name| (name.clone(), id.clone())).collect::<Vec<_>>()
        };
        let owners = file.clients.iter().flat_map(owned).collect();
        Arc::new(Self { file, owners })
    }
}

impl Clients {
    /// The store of what `file` lists.
    pub fn new(file: ClientsFile) -> Self {
        Self(RwLock::new(Listed::new(file)))
    }

    /// Takes over another list: from the next login and the next request on, it alone counts.
    pub fn replace(&self, file: ClientsFile) {
        *self.0.write() = Listed::new(file);
    }

    fn listed(&self) -> Arc<Listed> {
        Arc::clone(&self.0.read())
    }

    /// The token hash of a client that may log in today; `None` if it is not listed or has expired.
    pub fn token_hash(&self, client: &ClientId) -> Option<String> {
        let listed = self.listed();
        let entry = listed.file.clients.get(client)?;
        let expired = entry.expires.is_some_and(|end| end <= jiff::Timestamp::now());
        (!expired).then(|| entry.token_hash.clone())
    }

    /// The names that a client may claim.
    pub fn names(&self, client: &ClientId) -> Vec<Name> {
        self.listed().file.clients.get(client).map(|entry| entry.names.clone()).unwrap_or_default()
    }

    /// The public ports that a client's `tcp` services may have.
    pub fn tcp_ports(&self, client: &ClientId) -> Vec<RangeInclusive<u16>> {
        self.listed().file.clients.get(client).map(|entry| entry.tcp_ports.clone()).unwrap_or_default()
    }

    /// Whether some client may claim `name`, so that a visitor can be told that it is away rather than unknown.
    pub fn is_listed(&self, name: &Name) -> bool {
        self.listed().owners.contains_key(name)
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.listed().file.clients.len()
    }

    /// Whether there are none: then nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn clients(text: &str) -> ClientsFile {
        ClientsFile::from_text(Path::new("clients.toml"), text).unwrap()
    }

    #[test]
    fn a_hash_that_was_cut_is_named() {
        let good = crate::auth::hash_at(&crate::values::Secret::new("x"), crate::auth::Cost::ForTests).unwrap();
        let cut = good.rsplit_once('$').unwrap().0;
        let file =
            clients(&format!("[clients.alice]\ntoken_hash = \"{good}\"\n[clients.bob]\ntoken_hash = \"{cut}\"\n"));
        let problems = hash_problems(&file);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].key, "clients.bob.token_hash");
        assert!(!problems[0].message.contains(cut));
    }

    #[test]
    fn a_client_counts_until_it_expires_or_is_taken_off_the_list() {
        let store = Clients::new(clients(
            "[clients.alice]\ntoken_hash = \"$argon2id$a\"\nnames = [\"alice\", \"blog\"]\n\
             [clients.bob]\ntoken_hash = \"$argon2id$b\"\nexpires = 2001-01-01T00:00:00Z\n",
        ));
        let [alice, bob, eve] = ["alice", "bob", "eve"].map(|id| ClientId::new(id).unwrap());
        assert_eq!(store.token_hash(&alice).as_deref(), Some("$argon2id$a"));
        assert_eq!(store.token_hash(&bob), None, "expired");
        assert_eq!(store.token_hash(&eve), None, "unknown");
        assert!(store.is_listed(&Name::new("blog").unwrap()));
        assert!(!store.is_listed(&Name::new("eve").unwrap()));
        assert_eq!(store.names(&alice).len(), 2);

        store.replace(ClientsFile::default());
        assert_eq!(store.token_hash(&alice), None);
        assert!(store.is_empty() && !store.is_listed(&Name::new("blog").unwrap()));
    }
}
