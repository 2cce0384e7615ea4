//! `clients.toml`: who may log in, and which names are theirs.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::values::{ClientId, Name};

use super::error::ConfigErrors;
use super::raw::{FileText, file_layer};
use super::table::{Entry, Report, Table};

/// The sections and keys at the top of the file.
pub(super) const TOP_LEVEL: &[&str] = &["clients"];

/// Every client the operator has let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientsFile {
    /// By id; no name belongs to two of them.
    pub clients: BTreeMap<ClientId, ClientEntry>,
}

/// One client.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientEntry {
    /// The argon2id hash of the token in PHC form (`$argon2id$…`). Not a secret like the token, but never printed.
    pub token_hash: String,
    /// The names the client may claim. Never empty. Default: its own id.
    pub names: Vec<Name>,
    /// The public ports its `tcp` services may have; none overlaps with another's. Default: none.
    pub tcp_ports: Vec<RangeInclusive<u16>>,
    /// When the client may no longer log in; `None` means never.
    pub expires: Option<jiff::Timestamp>,
}

impl fmt::Debug for ClientEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientEntry")
            .field("token_hash", &"***")
            .field("names", &self.names)
            .field("tcp_ports", &self.tcp_ports)
            .field("expires", &self.expires)
            .finish()
    }
}

impl ClientsFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// The file is missing, or everything that is wrong with it, at once.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let missing = format!("make one with `adit token new ID --clients {}`", path.display());
        Self::from_file(&FileText::read(path, &missing)?)
    }

    /// Resolves `text` as if it had been read from `file`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        Self::from_file(&FileText { path: file.to_owned(), text: text.to_owned() })
    }

    pub(super) fn from_file(file: &FileText) -> Result<Self, ConfigErrors> {
        // Neither environment nor flags: the file can change while the server runs, they cannot.
        let values = file_layer(file)?;
        let report = Report::new(Some(&file.path), file.path.parent().unwrap_or(Path::new("")));
        let clients = resolve(report.root(values));
        report.finish(Some(clients))
    }
}

pub(super) fn resolve(mut root: Table<'_>) -> ClientsFile {
    let report = root.report();
    let mut table = root.section("clients");
    let mut clients = BTreeMap::new();
    let mut owners: BTreeMap<Name, ClientId> = BTreeMap::new();
    for key in table.keys() {
        let id = ClientId::new(&key).map_err(|error| report.problem(table.key(&key), error.to_string())).ok();
        let Some(section) = table.take(&key).and_then(|entry| entry.table()) else { continue };
        let path = table.key(&key);
        let entry = client(section, id.as_ref());
        let (Some(id), Some(entry)) = (id, entry) else { continue };
        for name in &entry.names {
            match owners.insert(name.clone(), id.clone()) {
                Some(owner) if owner == id => report.problem(&path, format!("`{name}` is listed twice; remove one")),
                Some(owner) => {
                    let advice = "a name belongs to one client: remove it from one of them";
                    report.problem(&path, format!("the name `{name}` of {id} belongs to {owner}, too; {advice}"));
                }
                None => {}
            }
        }
        check_ports(&id, &entry, &clients, |message| report.problem(format!("{path}.tcp_ports"), message));
        clients.insert(id, entry);
    }
    ClientsFile { clients }
}

fn client(mut table: Table<'_>, id: Option<&ClientId>) -> Option<ClientEntry> {
    let advice = "it is what `adit token new` writes and starts with $argon2id$; the token itself does not belong here";
    let token_hash = match table.take("token_hash") {
        Some(entry) => entry.parse(|text| match text.starts_with("$argon2id$") {
            true => Ok(text.to_owned()),
            false => Err(format!("is not an argon2id hash; {advice}")),
        }),
        None => {
            table.report().problem(table.key("token_hash"), format!("is missing; {advice}"));
            None
        }
    };
    let names = match table.take("names").map(|entry| entry.list()) {
        None => id.cloned().map(Name::from).into_iter().collect(),
        Some(entries) => {
            if entries.as_ref().is_some_and(Vec::is_empty) {
                let message = "is empty; list a name, or leave the key out for the client's id";
                table.report().problem(table.key("names"), message);
            }
            entries.into_iter().flatten().filter_map(|entry| entry.parse(Name::new)).collect()
        }
    };
    let expires = table.parse("expires", |text| {
        text.parse()
            .map_err(|_| format!("`{text}` is not a moment; write it with its offset, like 2027-01-01T00:00:00Z"))
    });
    let tcp_ports = table.take("tcp_ports").and_then(Entry::list).unwrap_or_default();
    let tcp_ports = tcp_ports.into_iter().filter_map(|entry| entry.parse_or_number(port_range)).collect();
    Some(ClientEntry { token_hash: token_hash?, names, tcp_ports, expires })
}

/// `20000-20010`, or one port.
fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(first..=last),
        _ => Err(format!("`{text}` is not a range of ports; write one like 20000-20010, or a single port")),
    }
}

/// A port belongs to one client, and once.
fn check_ports(id: &ClientId, entry: &ClientEntry, others: &BTreeMap<ClientId, ClientEntry>, problem: impl Fn(String)) {
    let overlap = |a: &RangeInclusive<u16>, b: &RangeInclusive<u16>| a.start() <= b.end() && b.start() <= a.end();
    for (at, range) in entry.tcp_ports.iter().enumerate() {
        let text = format!("{}-{}", range.start(), range.end());
        if entry.tcp_ports[..at].iter().any(|other| overlap(range, other)) {
            problem(format!("ports of {text} are listed twice; remove one"));
        }
        let takes = |(_, other): &(&ClientId, &ClientEntry)| other.tcp_ports.iter().any(|other| overlap(range, other));
        if let Some((owner, _)) = others.iter().find(takes) {
            problem(format!("ports of {text} of {id} belong to {owner}, too; a port belongs to one client"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClientsFile, ConfigErrors> {
        ClientsFile::from_text(Path::new("clients.toml"), text)
    }

    fn refusal(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn a_client_has_its_own_name_unless_it_lists_others() {
        let text = "[clients.alice]\ntoken_hash = '$argon2id$a'\n\
                    [clients.bob]\ntoken_hash = '$argon2id$b'\nnames = ['blog', 'shop']\nexpires = 2027-01-01T02:00:00+02:00";
        let file = read(text).unwrap();
        let names = |id: &str| file.clients[id].names.iter().map(Name::as_str).collect::<Vec<_>>();
        assert_eq!((names("alice"), names("bob")), (vec!["alice"], vec!["blog", "shop"]));
        assert_eq!(file.clients["alice"].expires, None);
        assert_eq!(file.clients["bob"].expires, Some("2027-01-01T00:00:00Z".parse().unwrap()));
        assert!(!format!("{file:?}").contains("argon2id"));
    }

    #[test]
    fn nobody_in_it_is_fine() {
        assert_eq!(read("# nobody yet\n").unwrap(), ClientsFile::default());
        assert_eq!(read("[clients]\n").unwrap(), ClientsFile::default());
    }

    #[test]
    fn two_clients_cannot_share_a_name_not_even_one_by_default() {
        let text = "[clients.alice]\ntoken_hash = '$argon2id$a'\n\
                    [clients.bob]\ntoken_hash = '$argon2id$b'\nnames = ['alice']";
        let message = refusal(text);
        assert!(message.contains("`alice` of bob belongs to alice"), "{message}");
    }

    #[test]
    fn every_mistake_is_named_and_no_secret_is_repeated() {
        let text = "[clients.Alice]\ntoken_hash = 'x'\n[clients.bob]\ntoken_hash = 'adit_hunter2'\nnames = ['b_b']\n\
                    expires = 2027-01-01\ndomains = ['x']\n[clients.carol]\nnames = []\n[clients.dave]\ntoken_hsah = 'adit_hunter2'";
        let errors = read(text).unwrap_err();
        let keys: Vec<_> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
        let expected = [
            "clients.Alice",
            "clients.Alice.token_hash",
            "clients.bob.token_hash",
            "clients.bob.names[0]",
            "clients.bob.expires",
            "clients.carol.token_hash",
            "clients.carol.names",
            "clients.dave.token_hash",
            "clients.bob.domains",
            "clients.dave.token_hsah",
        ];
        assert_eq!(keys, expected, "{errors}");
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }

    #[test]
    fn a_missing_file_says_how_to_make_one() {
        let message = ClientsFile::load(Path::new("no/such/clients.toml")).unwrap_err().to_string();
        assert!(message.contains("adit token new ID --clients no/such/clients.toml"), "{message}");
    }

    #[test]
    fn ports_are_ranges_and_each_belongs_to_one_client() {
        let of = |alice: &str, bob: &str| {
            let client =
                |id: &str, ports: &str| format!("[clients.{id}]\ntoken_hash = '$argon2id$x'\ntcp_ports = {ports}\n");
            ClientsFile::from_text(Path::new("clients.toml"), &(client("alice", alice) + &client("bob", bob)))
        };
        let file = of("['20000-20010', 25565]", "['20011-20020']").unwrap();
        assert_eq!(file.clients["alice"].tcp_ports, [20_000..=20_010, 25_565..=25_565]);
        for (alice, bob, key, says) in [
            ("['20000-20010']", "['20010']", "clients.bob.tcp_ports", "belong to alice, too"),
            ("['20000-20010', '20005']", "[]", "clients.alice.tcp_ports", "listed twice"),
            ("['20010-20000']", "[]", "clients.alice.tcp_ports[0]", "not a range"),
            ("[0]", "[]", "clients.alice.tcp_ports[0]", "not a range"),
            ("['70000']", "[]", "clients.alice.tcp_ports[0]", "not a range"),
            ("20000", "[]", "clients.alice.tcp_ports", "a list"),
        ] {
            let errors = of(alice, bob).unwrap_err();
            assert_eq!(errors.problems[0].key, key);
            assert!(errors.to_string().contains(says), "{errors}");
        }
    }
}
