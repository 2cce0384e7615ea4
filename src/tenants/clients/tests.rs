use std::path::Path;

use super::*;

fn clients(text: &str) -> ClientsFile {
    ClientsFile::from_text(Path::new("clients.toml"), text).unwrap()
}

fn id(text: &str) -> ClientId {
    ClientId::new(text).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_hash_that_was_cut_is_named() {
    let good = crate::auth::cheap_hash(&crate::values::Secret::new("x")).unwrap();
    let cut = good.rsplit_once('$').unwrap().0;
    let file = clients(&format!(
        "[clients.alice]\ntoken_hash = \"{good}\"\n[clients.bob]\ntoken_hash = \"{cut}\"\n\
         [clients.carol]\ntoken_hash = \"{good}\"\nprevious = {{ token_hash = \"{cut}\", until = 2001-01-01T00:00:00Z }}\n"
    ));
    let problems = check_hashes(&file);
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["clients.bob.token_hash", "clients.carol.previous.token_hash"]);
    assert!(!problems[0].message.contains(cut));
}

#[test]
fn a_client_counts_until_it_expires_or_is_taken_off_the_list() {
    let store = Clients::new(clients(
        "[clients.alice]\ntoken_hash = \"$argon2id$a\"\nnames = [\"alice\", \"blog\"]\n\
         [clients.bob]\ntoken_hash = \"$argon2id$b\"\nexpires = 2001-01-01T00:00:00Z\n",
    ));
    let [alice, bob, eve] = ["alice", "bob", "eve"].map(id);
    let current = |client| store.credentials(client).first().map(|current| current.hash.to_string());
    assert_eq!(current(&alice).as_deref(), Some("$argon2id$a"));
    assert_eq!(current(&bob), None, "expired");
    assert_eq!(current(&eve), None, "unknown");
    assert!(store.owner_of_name(&name("blog")).is_some());
    assert!(store.owner_of_name(&name("eve")).is_none());
    assert_eq!(store.names(&alice).len(), 2);
    assert_eq!(store.ids(), [alice.clone(), bob.clone()]);
    assert!(store.entry(&bob).is_some() && store.entry(&eve).is_none());

    store.replace(ClientsFile::default());
    assert_eq!(current(&alice), None);
    assert!(store.is_empty() && store.owner_of_name(&name("blog")).is_none());
}

#[test]
fn a_rotated_token_holds_until_its_overlap_or_the_client_ends() {
    let store = Clients::new(clients(
        "[clients.alice]\ntoken_hash = '$argon2id$new'\nexpires = 2027-01-01T00:00:00Z\n\
         previous = { token_hash = '$argon2id$old', until = 2026-06-01T00:00:00Z }\n\
         [clients.bob]\ntoken_hash = '$argon2id$new'\nexpires = 2026-03-01T00:00:00Z\n\
         previous = { token_hash = '$argon2id$old', until = 2026-06-01T00:00:00Z }\n",
    ));
    let at = |client: &str, now: &str| {
        let credentials = store.credentials_at(&id(client), moment(now));
        assert!(!format!("{credentials:?}").contains("argon2id"));
        let text = |credential: &Credential| {
            (credential.hash["$argon2id$".len()..].to_owned(), credential.until.unwrap().to_string())
        };
        credentials.iter().map(text).collect::<Vec<_>>()
    };
    let [new, old] = [("new", "2027-01-01T00:00:00Z"), ("old", "2026-06-01T00:00:00Z")]
        .map(|(hash, until)| (hash.to_owned(), until.to_owned()));
    assert_eq!(at("alice", "2026-05-31T23:59:59Z"), [new.clone(), old]);
    assert_eq!(at("alice", "2026-06-01T00:00:00Z"), [new]);
    assert!(at("alice", "2027-01-01T00:00:00Z").is_empty());
    assert!(at("bob", "2026-01-01T00:00:00Z").iter().all(|(_, until)| until == "2026-03-01T00:00:00Z"));
    assert!(at("eve", "2026-01-01T00:00:00Z").is_empty());
}

#[test]
fn the_next_change_is_the_next_end_of_anything() {
    let digest = InviteCode::generate(None, None).unwrap().digest();
    let store = Clients::new(clients(&format!(
        "[clients.alice]\ntoken_hash = '$argon2id$a'\nexpires = 2026-03-01T00:00:00Z\n\
         [clients.bob]\ntoken_hash = '$argon2id$b'\n\
         previous = {{ token_hash = '$argon2id$c', until = 2026-01-01T00:00:00Z }}\n\
         [invites.{}]\ncode_hash = '{digest}'\nexpires = 2026-02-01T00:00:00Z\n",
        invite_key(&digest),
    )));
    let first = store.next_change(moment("2025-01-01T00:00:00Z"));
    let ends = std::iter::successors(first, |end| store.next_change(*end));
    let seen: Vec<_> = ends.take(9).map(|end| end.to_string()).collect();
    assert_eq!(seen, ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]);
    store.replace(ClientsFile::default());
    assert_eq!(store.next_change(Timestamp::MIN), None);
}

#[test]
fn names_and_domains_lead_to_their_client() {
    let store = Clients::new(clients(
        "[clients.alice]\ntoken_hash = '$argon2id$a'\nnames = ['alice', 'blog', '*.blog']\n\
         domains = ['alice.example', '*.alice.example']\n\
         [clients.bob]\ntoken_hash = '$argon2id$b'\ndomains = ['shop.example', '*.deep.shop.example']\n",
    ));
    let [alice, bob] = ["alice", "bob"].map(id);
    assert_eq!(store.owner_of_name(&name("blog")), Some(alice.clone()));
    assert_eq!(store.owner_of_name(&name("shop")), None);
    assert!(store.may_claim(&alice, &name("blog")) && !store.may_claim(&bob, &name("blog")));
    assert!(store.may_be_wildcard(&alice, &name("blog")));
    assert!(!store.may_be_wildcard(&alice, &name("alice")) && !store.may_be_wildcard(&bob, &name("blog")));
    for (host, owner) in [
        ("alice.example", Some(&alice)),
        ("a.alice.example", Some(&alice)),
        ("a.b.alice.example", Some(&alice)),
        ("shop.example", Some(&bob)),
        ("a.shop.example", None),
        ("deep.shop.example", None),
        ("a.deep.shop.example", Some(&bob)),
        ("evilalice.example", None),
        ("example", None),
        ("", None),
    ] {
        assert_eq!(store.owner_of_domain(host).as_ref(), owner, "{host}");
    }
    for (domain, of_alice, of_bob) in [
        ("alice.example", true, false),
        ("*.alice.example", true, false),
        ("*.x.alice.example", true, false),
        ("x.alice.example", true, false),
        ("shop.example", false, true),
        ("*.shop.example", false, false),
        ("*.deep.shop.example", false, true),
        ("deep.shop.example", false, false),
    ] {
        let domain = Domain::new(domain).unwrap();
        let may = (store.may_have_domain(&alice, &domain), store.may_have_domain(&bob, &domain));
        assert_eq!(may, (of_alice, of_bob), "{domain}");
    }
}

#[test]
fn an_invitation_is_known_by_its_whole_code_until_it_expires() {
    let [code, open] = [Some(id("bob")), None].map(|id| InviteCode::generate(None, id.as_ref()).unwrap());
    let entry = |code: &InviteCode, id: &str| {
        let digest = code.digest();
        let key = invite_key(&digest);
        format!("[invites.{key}]\ncode_hash = '{digest}'\nexpires = 2026-02-01T00:00:00Z\n{id}\n")
    };
    let text = entry(&code, "id = 'bob'\nnames = ['bob', 'shop']") + &entry(&open, "");
    let store = Clients::new(clients(&text));
    let ends = moment("2026-02-01T00:00:00Z");
    let before = Timestamp::from_second(ends.as_second() - 1).unwrap();
    let invited = store.invite_at(code.as_secret(), before).unwrap();
    let expected =
        Invited { key: invite_key(&code.digest()), id: Some(id("bob")), names: vec![name("bob"), name("shop")] };
    assert_eq!(invited, expected);
    let invited = store.invite_at(open.as_secret(), before).unwrap();
    assert_eq!((invited.id, invited.names), (None, vec![]));
    assert_eq!(store.invite_at(code.as_secret(), ends), None, "expired");
    let other = InviteCode::generate(None, None).unwrap();
    for wrong in [other.as_secret(), &Secret::new("adit_invite_AAAA"), &Secret::new("")] {
        assert_eq!(store.invite_at(wrong, before), None);
    }
    assert!(store.owner_of_name(&name("shop")).is_none(), "nobody has it yet");
}

#[tokio::test]
async fn whoever_waits_for_changes_sees_each_list_that_replaces_one() {
    let store = Clients::new(ClientsFile::default());
    let mut changes = store.changes();
    assert!(!changes.has_changed().unwrap());
    store.replace(clients("[clients.alice]\ntoken_hash = '$argon2id$a'\n"));
    changes.changed().await.unwrap();
    assert_eq!(store.len(), 1);
    store.replace(clients("[clients.alice]\ntoken_hash = '$argon2id$a'\n"));
    assert!(changes.has_changed().unwrap(), "even by the same");
}

#[test]
fn the_operator_is_told_how_a_client_stands() {
    let one = |id: &str, more: &str| format!("[clients.{id}]\ntoken_hash = \"$argon2id$a\"\n{more}");
    let (end, now) = (moment("2001-01-01T00:00:00Z"), Timestamp::now());
    let expired = one("zed", "expires = 2001-01-01T00:00:00Z\n");
    let store = Clients::new(clients(&(one("alice", "") + &one("bob", "") + &expired)));
    store.replace(clients(&(one("alice", "") + &expired)));
    let standing = |client| store.status(&id(client), now);
    assert_eq!((standing("alice"), standing("nobody")), (ClientStatus::Active, ClientStatus::Unknown));
    assert_eq!(standing("zed"), ClientStatus::Expired(end));
    assert!(matches!(standing("bob"), ClientStatus::Removed(when) if when >= now));
    // Only the latest are remembered.
    let crowd: String = (0..REMEMBERED).map(|number| one(&format!("c{number}"), "")).collect();
    store.replace(clients(&crowd));
    store.replace(clients(""));
    assert_eq!(store.status(&id("bob"), now), ClientStatus::Unknown);
    assert!(matches!(store.status(&id("c7"), now), ClientStatus::Removed(_)));
    assert_eq!(store.removed.lock().len(), REMEMBERED);
}
