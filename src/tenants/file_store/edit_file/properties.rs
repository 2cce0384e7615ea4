//! Any edits, one after the other: the file always loads, and no comment is lost but those of whoever is removed.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use jiff::Timestamp;

use proptest::prelude::*;

use super::*;
use crate::tenants::edit::ClientChange;
use crate::tenants::entry::{ClientEntry, InviteEntry, invite_key};
use crate::tenants::list_change::ListChange;
use crate::values::ClientId;

const HASH: &str = "$argon2id$x";

/// How the clients of a file are written.
#[derive(Debug, Clone, Copy)]
enum Way {
    Sections,
    Lines,
    Dotted,
    Inline,
}

#[derive(Debug, Clone)]
enum Edit {
    Add(u8),
    Rotate(u8, bool),
    Revoke(u8),
    Invite(u8, bool),
    RevokeInvite(u8),
    Redeem(u8, u8),
    Set(u8, bool),
}

fn edit() -> impl Strategy<Value = Edit> {
    let who = || 0_u8..6;
    prop_oneof![
        who().prop_map(Edit::Add),
        (who(), any::<bool>()).prop_map(|(who, overlap)| Edit::Rotate(who, overlap)),
        who().prop_map(Edit::Revoke),
        (who(), any::<bool>()).prop_map(|(who, named)| Edit::Invite(who, named)),
        who().prop_map(Edit::RevokeInvite),
        (who(), who()).prop_map(|(invite, who)| Edit::Redeem(invite, who)),
        (who(), any::<bool>()).prop_map(|(who, more)| Edit::Set(who, more)),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::Sections), Just(Way::Lines), Just(Way::Dotted), Just(Way::Inline)]
}

fn id(who: u8) -> ClientId {
    ClientId::new(&format!("c{who}")).unwrap()
}

/// What may be around a client: comments of nobody, apart by blank lines, and the client's own above and below it.
#[derive(Debug, Clone)]
struct Around {
    who: u8,
    free: bool,
    above: u8,
    below: bool,
}

fn around() -> impl Strategy<Value = Vec<Around>> {
    let one = |who| {
        (any::<bool>(), 0_u8..3, any::<bool>()).prop_map(move |(free, above, below)| Around { who, free, above, below })
    };
    let all = (one(0), one(1), one(2), one(3)).prop_map(|(a, b, c, d)| vec![a, b, c, d]);
    (all, 0..=4_usize).prop_map(|(all, count)| all.into_iter().take(count).collect())
}

/// A file of these clients. A comment of nobody is `# free N`, one of a client `# of cN …`.
fn file(way: Way, clients: &[Around], newline: &str) -> String {
    let mut text = "# free top\n\n".to_owned();
    text.push_str(match way {
        Way::Lines => "[clients] # free header\n\n",
        Way::Inline => "clients = { # free brace\n",
        Way::Sections | Way::Dotted => "",
    });
    for Around { who, free, above, below } in clients {
        if *free {
            text.push_str(&format!("# free {who}\n\n"));
        }
        if matches!(way, Way::Inline) {
            text.push_str(&format!("  c{who} = {{ token_hash = '{HASH}' }}, # free after {who}\n"));
            continue;
        }
        (0..*above).for_each(|line| text.push_str(&format!("# of c{who} above {line}\n")));
        text.push_str(&match way {
            Way::Sections => format!("[clients.c{who}] # of c{who} header\n# of c{who} inside\ntoken_hash = '{HASH}' # of c{who}\n"),
            Way::Dotted => format!("clients.c{who}.token_hash = '{HASH}' # of c{who}\n# of c{who} inside\nclients.c{who}.names = ['c{who}']\n"),
            _ => format!("c{who} = {{ token_hash = '{HASH}' }} # of c{who}\n"),
        });
        if *below {
            text.push_str(&format!("# of c{who} below\n"));
        }
        text.push('\n');
    }
    text.push_str(if matches!(way, Way::Inline) { "} # free end\n" } else { "# free end\n" });
    text.replace('\n', newline)
}

fn comments(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.split_once('#').map(|(_, said)| said.trim().to_owned())).collect()
}

/// Does it, if it can be done, and says who was removed.
fn make(path: &Path, edit: &Edit) -> Option<u8> {
    let expires = Timestamp::from_second(Timestamp::now().as_second() + 3600).unwrap();
    match *edit {
        Edit::Add(who) => {
            let client = ClientEntry { token_hash: HASH.into(), ..ClientEntry::default() };
            drop(edit_file(path, |file| file.add_client(&id(who), &client)));
        }
        Edit::Rotate(who, overlap) => {
            let overlap = overlap.then_some(Duration::from_secs(60));
            drop(edit_file(path, |file| file.rotate_token(&id(who), HASH, overlap)));
        }
        Edit::Revoke(who) => return edit_file(path, |file| file.revoke_client(&id(who))).is_ok().then_some(who),
        Edit::Invite(who, named) => {
            let invite = InviteEntry {
                code_hash: Fingerprint([who; 32]),
                id: named.then(|| id(who)),
                names: Vec::new(),
                expires,
            };
            drop(edit_file(path, |file| file.add_invite(&invite)));
        }
        Edit::RevokeInvite(who) => {
            drop(edit_file(path, |file| file.revoke_invite(&invite_key(&Fingerprint([who; 32])))));
        }
        Edit::Set(who, more) => {
            let names = if more { format!("+x{who}") } else { String::new() };
            let changes = ClientChange {
                names: ListChange::parse(&names).ok(),
                tcp_ports: Some(ListChange::Add(vec![u16::from(who) + 1..=u16::from(who) + 1])),
                expires: Some(more.then_some(expires)),
                ..ClientChange::default()
            };
            drop(edit_file(path, |file| file.set_client(&id(who), &changes)));
        }
        Edit::Redeem(invite, who) => {
            let digest = Fingerprint([invite; 32]);
            drop(edit_file(path, |file| file.redeem_invite(&digest, Some(&id(who)), HASH)));
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn edits_lose_no_comment_but_those_of_a_removed_client(
        way in way(),
        clients in around(),
        edits in prop::collection::vec(edit(), 1..12),
        crlf in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clients.toml");
        let before = file(way, &clients, if crlf { "\r\n" } else { "\n" });
        fs::write(&path, &before).unwrap();
        let mut removed = BTreeSet::new();
        for edit in &edits {
            removed.extend(make(&path, edit));
            let text = fs::read_to_string(&path).unwrap();
            prop_assert!(ClientsFile::load(&path).is_ok(), "{edit:?} made:\n{text}");
            let is_left = |comment: &String| {
                !removed.iter().any(|who| *comment == format!("of c{who}") || comment.starts_with(&format!("of c{who} ")))
            };
            let expected: Vec<_> = comments(&before).into_iter().filter(is_left).collect();
            prop_assert_eq!(comments(&text), expected, "{:?} made:\n{}", edit, text);
            prop_assert!(!crlf || !text.replace("\r\n", "").contains('\n'), "{edit:?} made:\n{text:?}");
        }
    }
}
