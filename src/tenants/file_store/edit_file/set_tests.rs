//! Changes to what a client owns, as they are written.

use std::fs;

use super::*;
use crate::tenants::claim::Claim;
use crate::tenants::edit::ClientChange;
use crate::tenants::list_change::ListChange;
use crate::values::ClientId;

const HASH: &str = "$argon2id$x";

fn id() -> ClientId {
    ClientId::new("bob").unwrap()
}

fn names(text: &str) -> Option<ListChange<Claim>> {
    Some(ListChange::parse(text).unwrap())
}

/// What is in a file of this text afterwards; it loads.
fn changed(text: &str, changes: &ClientChange) -> Result<String, EditError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clients.toml");
    fs::write(&path, text).unwrap();
    let outcome = edit_file(&path, |file| file.set_client(&id(), changes));
    let after = fs::read_to_string(&path).unwrap();
    ClientsFile::load(&path).unwrap();
    outcome.inspect_err(|_| assert_eq!(after, text)).map(|()| after)
}

#[test]
fn what_is_new_is_written_after_the_hash_and_all_else_stays() {
    let all = ClientChange {
        names: names("bob,shop"),
        domains: Some(ListChange::parse("bob.example").unwrap()),
        tcp_ports: Some(ListChange::parse("20000-20010,22").unwrap()),
        expires: Some(Some("2027-01-01T00:00:00Z".parse().unwrap())),
    };
    let text = changed(&format!("# top\n[clients.bob] # bob\ntoken_hash = '{HASH}' # hash\n# end\n"), &all).unwrap();
    assert_eq!(
        text,
        format!(
            "# top\n[clients.bob] # bob\ntoken_hash = '{HASH}' # hash\nnames = [\"bob\", \"shop\"]\n\
             domains = [\"bob.example\"]\ntcp_ports = [\"20000-20010\", \"22\"]\nexpires = 2027-01-01T00:00:00Z\n# end\n"
        )
    );
    let none = ClientChange {
        names: names(""),
        domains: Some(ListChange::Replace(vec![])),
        tcp_ports: Some(ListChange::Replace(vec![])),
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
    let ports = |text: &str| Some(ListChange::parse(text).unwrap());
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
    assert!(matches!(changed(&alice, &theirs).unwrap_err(), EditError::NoClient(_)));
}
