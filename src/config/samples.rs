//! The shipped samples say what the program does: every key, and every default.

use std::collections::BTreeSet;
use std::path::Path;

use toml_edit::{DocumentMut, Item};

use super::check;
use super::reference::in_force;
use crate::agent::options::{self as agent, AgentOptions};
use crate::schema::{Environment, FileText, Flags, Report, Table, merge};
use crate::server::options::{self as server, ServerOptions};
use crate::tenants::entry::{self, ClientsFile};

const SERVER: &str = include_str!("../../config/server.toml");
const AGENT: &str = include_str!("../../config/agent.toml");
const CLIENTS: &str = include_str!("../../config/clients.toml");

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

/// Every key path that a resolver asks for while it reads the sample.
fn asked<T>(sample: &str, resolve: impl FnOnce(Table<'_>) -> T) -> BTreeSet<String> {
    let file = FileText { path: "sample.toml".into(), text: in_force(sample) };
    let report = Report::new(None, Path::new(""));
    resolve(report.root(merge(Some(&file), &Environment::default(), &Flags::new()).unwrap()));
    report.asked()
}

fn top_level(keys: &BTreeSet<String>) -> Vec<&str> {
    keys.iter().map(String::as_str).filter(|key| !key.contains('.')).collect()
}

#[test]
fn every_key_of_the_server_is_in_its_sample_and_no_other() {
    let asked = asked(SERVER, |root| server::resolve(root, true));
    assert_eq!(asked, keys_of(SERVER));
    assert_eq!(top_level(&asked), server::TOP_LEVEL);
}

#[test]
fn every_key_of_the_server_is_looked_at_when_its_file_is_read_again() {
    let keys = keys_of(SERVER);
    let is_leaf =
        |key: &&String| !key.contains("[]") && !keys.iter().any(|other| other.starts_with(&format!("{key}.")));
    let looked_at: BTreeSet<&str> = server::renewed::KEYS.iter().map(|key| key.path).collect();
    assert_eq!(keys.iter().filter(is_leaf).map(String::as_str).collect::<BTreeSet<_>>(), looked_at);
}

#[test]
fn every_key_of_the_agent_is_in_its_sample_and_no_other() {
    let asked = asked(AGENT, |root| agent::resolve(root, None, None));
    assert_eq!(asked, keys_of(AGENT));
    assert_eq!(top_level(&asked), agent::TOP_LEVEL);
}

#[test]
fn every_key_of_a_client_is_in_the_sample_and_no_other() {
    let asked = asked(CLIENTS, entry::resolve);
    assert_eq!(asked, keys_of(CLIENTS));
    assert_eq!(top_level(&asked), entry::TOP_LEVEL);
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
    for (name, kind) in [
        ("server.toml", check::Kind::Server),
        ("agent.toml", check::Kind::Agent),
        ("clients.toml", check::Kind::Clients),
    ] {
        let checked = check::check_with(&folder.join(name), &environment).unwrap();
        assert_eq!((checked.kind, checked.warnings), (kind, vec![]));
    }
}
