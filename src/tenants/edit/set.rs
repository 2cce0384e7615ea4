//! What a client may have, changed afterwards.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use jiff::Timestamp;

use super::text::{Comments, NotThere, append, insert_after, list, quoted, remove, set};
use super::{Draft, EditError, Missing, change, contains, distinct};
use crate::tenants::claim::{Claim, claims_of};
use crate::tenants::entry::port_text;
use crate::values::{ClientId, Domain};

/// What becomes of a list of what a client may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing<T> {
    /// This instead. Nothing: what is so by default.
    Replace(Vec<T>),
    /// This too.
    Add(Vec<T>),
}

/// What becomes of a client. What is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct ClientChange {
    /// What it may claim; by default its own id.
    pub names: Option<Listing<Claim>>,
    /// The domains that its services may have; by default none.
    pub domains: Option<Listing<Domain>>,
    /// The public ports that its services may have; by default none.
    pub tcp_ports: Option<Listing<RangeInclusive<u16>>>,
    /// When it may no longer log in; within, `None` is never.
    pub expires: Option<Option<Timestamp>>,
}

/// Changes what the client `id` may have. A list that is replaced loses the comments inside it, and no other is touched.
///
/// # Errors
/// There is no such client, something belongs to somebody else, or the file cannot be used or written; it is then as it
/// was.
pub fn set_client(path: &Path, id: &ClientId, changes: &ClientChange) -> Result<(), EditError> {
    change(path, Missing::Refuse, |draft| {
        let no_client = || EditError::NoClient { file: path.to_owned(), id: id.clone() };
        let entry = draft.file.clients.get(id).ok_or_else(no_client)?;
        let names = claims_of(&entry.names, &entry.wildcards);
        let (domains, ports) = (entry.domains.clone(), entry.tcp_ports.clone());
        // Each is written directly after the hash if it is new, so the last one comes first.
        if let Some(expires) = &changes.expires {
            draft.put(id, "expires", expires.map(|end| end.to_string()))?;
        }
        draft.put_list(id, "tcp_ports", changes.tcp_ports.as_ref(), &ports, (port_text, contains))?;
        draft.put_list(id, "domains", changes.domains.as_ref(), &domains, (Domain::to_string, PartialEq::eq))?;
        draft.put_list(id, "names", changes.names.as_ref(), &names, (Claim::to_string, PartialEq::eq))
    })
}

impl Draft {
    /// Writes `key` of a client, or takes it away.
    fn put(&mut self, id: &ClientId, key: &str, value: Option<String>) -> Result<(), EditError> {
        let path = ["clients", id.as_str(), key];
        self.edit(|text| match value {
            Some(value) => set(text, &path, &value)
                .or_else(|NotThere| insert_after(text, &["clients", id.as_str(), "token_hash"], key, &value)),
            // It may never have been there.
            None => Ok(remove(text, &path, Comments::Stay).unwrap_or_else(|NotThere| text.to_owned())),
        })
    }

    /// What another one of the list covers, or one that is there already, is not written.
    fn put_list<T>(
        &mut self,
        id: &ClientId,
        key: &str,
        listing: Option<&Listing<T>>,
        before: &[T],
        (text_of, covers): (impl Fn(&T) -> String, impl Fn(&T, &T) -> bool),
    ) -> Result<(), EditError> {
        let texts = |items: &mut dyn Iterator<Item = &T>| items.map(&text_of).collect::<Vec<_>>();
        match listing {
            None => Ok(()),
            Some(Listing::Replace(items)) => {
                let texts = texts(&mut distinct(items, covers).into_iter());
                self.put(id, key, (!texts.is_empty()).then(|| list(&texts)))
            }
            Some(Listing::Add(items)) => {
                let is_there = |item: &&T| before.iter().any(|one| covers(one, item));
                let new = texts(&mut distinct(items, &covers).into_iter().filter(|item| !is_there(item)));
                let path = ["clients", id.as_str(), key];
                let quoted: Vec<_> = new.iter().map(|text| quoted(text)).collect();
                if new.is_empty() {
                    return Ok(());
                }
                if let Ok(text) = append(&self.text.text, &path, &quoted) {
                    self.text.text = text;
                    return Ok(());
                }
                let all = texts(&mut before.iter()).into_iter().chain(new).collect::<Vec<_>>();
                self.put(id, key, Some(list(&all)))
            }
        }
    }
}

/// Reads a [`Listing`]: `a,b` instead of what is there, `+a,b` beside it, and nothing for the default.
///
/// # Errors
/// What is wrong with the first item that cannot be read.
pub fn listing<T, E: Display>(text: &str, read: impl Fn(&str) -> Result<T, E>) -> Result<Listing<T>, String> {
    let (adds, items) = text.strip_prefix('+').map_or((false, text), |items| (true, items));
    let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
    // `+a,+b` is as good as `+a,b`.
    let item = |item: &str| if adds { item.strip_prefix('+').unwrap_or(item).to_owned() } else { item.to_owned() };
    let items = items.map(item).map(|item| read(&item).map_err(|error| error.to_string()));
    let items: Vec<T> = items.collect::<Result<_, _>>()?;
    match adds {
        true if items.is_empty() => Err("write what is to be added behind the `+`".to_owned()),
        true => Ok(Listing::Add(items)),
        false => Ok(Listing::Replace(items)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tenants::entry::{ClientsFile, port_range};

    const HASH: &str = "$argon2id$x";

    fn id() -> ClientId {
        ClientId::new("bob").unwrap()
    }

    fn names(text: &str) -> Option<Listing<Claim>> {
        Some(listing(text, str::parse::<Claim>).unwrap())
    }

    /// What is in a file of this text afterwards; it loads.
    fn changed(text: &str, changes: &ClientChange) -> Result<String, EditError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clients.toml");
        fs::write(&path, text).unwrap();
        let outcome = set_client(&path, &id(), changes);
        let after = fs::read_to_string(&path).unwrap();
        ClientsFile::load(&path).unwrap();
        outcome.inspect_err(|_| assert_eq!(after, text)).map(|()| after)
    }

    #[test]
    fn what_is_new_is_written_after_the_hash_and_all_else_stays() {
        let all = ClientChange {
            names: names("bob,shop"),
            domains: Some(listing("bob.example", Domain::new).unwrap()),
            tcp_ports: Some(listing("20000-20010,22", port_range).unwrap()),
            expires: Some(Some("2027-01-01T00:00:00Z".parse().unwrap())),
        };
        let text =
            changed(&format!("# top\n[clients.bob] # bob\ntoken_hash = '{HASH}' # hash\n# end\n"), &all).unwrap();
        assert_eq!(
            text,
            format!(
                "# top\n[clients.bob] # bob\ntoken_hash = '{HASH}' # hash\nnames = [\"bob\", \"shop\"]\n\
                 domains = [\"bob.example\"]\ntcp_ports = [\"20000-20010\", \"22\"]\nexpires = 2027-01-01T00:00:00Z\n# end\n"
            )
        );
        let none = ClientChange {
            names: names(""),
            domains: Some(Listing::Replace(vec![])),
            tcp_ports: Some(Listing::Replace(vec![])),
            expires: Some(None),
        };
        assert_eq!(
            changed(&text, &none).unwrap(),
            format!("# top\n[clients.bob] # bob\ntoken_hash = '{HASH}' # hash\n# end\n")
        );
        assert_eq!(changed(&text, &ClientChange::default()).unwrap(), text);
    }

    #[test]
    fn what_is_added_joins_what_is_there_with_its_comments() {
        let add = ClientChange { names: names("+blog,bob,*.blog"), ..ClientChange::default() };
        let by_default = changed(&format!("clients.bob.token_hash = '{HASH}'\n"), &add).unwrap();
        assert_eq!(
            by_default,
            format!("clients.bob.token_hash = '{HASH}'\nclients.bob.names = [\"bob\", \"blog\", \"*.blog\"]\n")
        );
        let lines =
            format!("[clients.bob]\ntoken_hash = '{HASH}'\nnames = [\n  'bob', # his\n  'shop', # and the shop\n]\n");
        assert_eq!(changed(&lines, &add).unwrap(), lines.replace("'shop',", "'shop', \"blog\", \"*.blog\","));
        let inline = format!("clients = {{ bob = {{ token_hash = '{HASH}', names = ['bob'] }} }}\n");
        assert_eq!(changed(&inline, &add).unwrap(), inline.replace("'bob']", "'bob', \"blog\", \"*.blog\"]"));
    }

    #[test]
    fn what_is_said_twice_or_there_already_is_written_once() {
        let text = format!("[clients.bob]\ntoken_hash = '{HASH}'\ntcp_ports = ['20000-20010']\n");
        let ports = |text: &str| Some(listing(text, port_range).unwrap());
        let there = ClientChange { tcp_ports: ports("+20005,20000-20010"), ..ClientChange::default() };
        assert_eq!(changed(&text, &there).unwrap(), text);
        let wider = ClientChange { tcp_ports: ports("22,30000-30009,22,30001,30000-30009"), ..ClientChange::default() };
        assert!(changed(&text, &wider).unwrap().ends_with("tcp_ports = [\"22\", \"30000-30009\"]\n"));
        for twice in ["bob,blog,blog", "+blog,blog"] {
            let change = ClientChange { names: names(twice), ..ClientChange::default() };
            assert!(changed(&text, &change).unwrap().contains("names = [\"bob\", \"blog\"]\n"), "{twice}");
        }
        // Some of it is new: whoever asks for it may mean something else.
        let overlapping = ClientChange { tcp_ports: ports("+20005-20015"), ..ClientChange::default() };
        assert!(matches!(changed(&text, &overlapping).unwrap_err(), EditError::Refused(_)));
    }

    #[test]
    fn what_is_somebody_elses_is_refused_and_so_is_nobody() {
        let alice = format!("[clients.alice]\ntoken_hash = '{HASH}'\n");
        let both = format!("{alice}[clients.bob]\ntoken_hash = '{HASH}'\n");
        let theirs = ClientChange { names: names("+alice"), ..ClientChange::default() };
        assert!(matches!(changed(&both, &theirs).unwrap_err(), EditError::Refused(_)));
        assert!(matches!(changed(&alice, &theirs).unwrap_err(), EditError::NoClient { .. }));
    }

    #[test]
    fn a_listing_replaces_or_adds() {
        let read = |text: &str| listing(text, |item| item.parse::<u8>());
        assert_eq!(read("1, 2"), Ok(Listing::Replace(vec![1, 2])));
        assert_eq!((read("+1,2"), read("+1,+2")), (Ok(Listing::Add(vec![1, 2])), Ok(Listing::Add(vec![1, 2]))));
        assert_eq!(read(""), Ok(Listing::Replace(vec![])));
        assert!(read("+").is_err() && read("1,x").is_err());
    }
}
