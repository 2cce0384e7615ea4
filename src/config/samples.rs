//! The shipped samples say what the program does: every key, and every default.

use std::collections::BTreeSet;
use std::path::Path;

use toml_edit::{DocumentMut, Item};

use super::reference::every_key;
use super::{Kind, check_with};
use crate::agent::options::AgentOptions;
use crate::schema::{Environment, Flags, KeyReference};
use crate::server::options::ServerOptions;
use crate::tenants::entry::ClientsFile;

const SERVER: &str = include_str!("../../config/server.toml");
const AGENT: &str = include_str!("../../config/agent.toml");
const CLIENTS: &str = include_str!("../../config/clients.toml");

/// The sample with its commented-out keys and sections put in force.
fn in_force(sample: &str) -> String {
    let in_force = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let word = rest.split_once(" = ").map(|(key, _)| key).unwrap_or("?");
        let is_key = word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        (is_key || rest.starts_with('[')).then(|| rest.to_owned())
    };
    sample.lines().map(|line| in_force(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn collect(path: &str, item: &Item, keys: &mut BTreeSet<String>) {
    if let Some(table) = item.as_table_like() {
        for (key, item) in table.iter() {
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            keys.insert(path.clone());
            collect(&path, item, keys);
        }
    }
    for table in item.as_array_of_tables().into_iter().flatten() {
        collect(&format!("{path}[]"), &Item::Table(table.clone()), keys);
    }
}

/// Every key path in the sample, commented-out ones included.
fn keys_of(sample: &str) -> BTreeSet<String> {
    let document: DocumentMut = in_force(sample).parse().unwrap();
    let mut keys = BTreeSet::new();
    collect("", document.as_item(), &mut keys);
    keys
}

/// The sections and keys of a reference: every path, and those that lead there.
fn with_sections(keys: Vec<KeyReference>) -> BTreeSet<String> {
    let prefixes = |key: KeyReference| {
        let path = key.path.replace("clients.ID", "clients.alice").replace("invites.KEY", "invites.3f9a21bc");
        let sections: Vec<_> =
            path.match_indices('.').map(|(at, _)| path[..at].trim_end_matches("[]").to_owned()).collect();
        let lists: Vec<_> = path.match_indices("[].").map(|(at, _)| path[..at].to_owned()).collect();
        sections.into_iter().chain(lists).chain([path]).collect::<Vec<_>>()
    };
    keys.into_iter().flat_map(prefixes).collect()
}

#[test]
fn every_key_is_in_its_sample_and_no_other() {
    for (kind, sample) in [(Kind::Server, SERVER), (Kind::Agent, AGENT), (Kind::Clients, CLIENTS)] {
        assert_eq!(with_sections(every_key(kind)), keys_of(sample));
    }
}

#[test]
fn the_server_sample_shows_the_defaults() {
    let read = |text| {
        ServerOptions::from_text(Path::new("config/server.toml"), text, &Environment::default(), &Flags::new()).unwrap()
    };
    assert_eq!(read(SERVER), read(""));
}

#[test]
fn the_agent_sample_shows_the_defaults() {
    let read = |text| {
        let environment = [("ADIT_TOKEN", "adit_x")].into_iter().collect();
        AgentOptions::from_text(Path::new("config/agent.toml"), text, &environment, &Flags::new()).unwrap()
    };
    let least = "servers = ['tunnel.example.com']\nclient_id = 'alice'\n[[services]]\nlocal = 'http://127.0.0.1:3000'";
    assert_eq!(format!("{:?}", read(AGENT)), format!("{:?}", read(least)));
}

#[test]
fn the_clients_sample_lets_nobody_in_until_it_is_in_force() {
    let read = |text| ClientsFile::from_text(Path::new("config/clients.toml"), text).unwrap();
    assert_eq!(read(CLIENTS), ClientsFile::default());
    assert_eq!(read(&in_force(CLIENTS)).clients["alice"].names.len(), 3, "two names and a wildcard");
}

#[test]
fn the_samples_pass_the_check() {
    let environment: Environment = [("ADIT_TOKEN", "adit_x")].into_iter().collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for (name, kind) in [("server.toml", Kind::Server), ("agent.toml", Kind::Agent), ("clients.toml", Kind::Clients)] {
        let checked = check_with(&folder.join(name), &environment).unwrap();
        assert_eq!((checked.kind, checked.warnings), (kind, vec![]));
    }
}
