use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::tenants::claim::{Claim, names_of};
use crate::tenants::edit::{Redeemed, Replaced};
use crate::tenants::edit_error::RedeemError;
use crate::tenants::entry::{ClientEntry, InviteEntry};
use crate::values::{ClientId, Name};

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA";

fn id(text: &str) -> ClientId {
    ClientId::new(text).unwrap()
}

fn add_client(path: &Path, id: &ClientId, entry: &ClientEntry) -> Result<(), EditError> {
    edit_file(path, |file| file.add_client(id, entry))
}

fn rotate_token(
    path: &Path,
    id: &ClientId,
    hash: &str,
    overlap: Option<Duration>,
) -> Result<Option<Timestamp>, EditError> {
    edit_file(path, |file| file.rotate_token(id, hash, overlap))
}

fn revoke_client(path: &Path, id: &ClientId) -> Result<(), EditError> {
    edit_file(path, |file| file.revoke_client(id))
}

fn add_invite(path: &Path, invite: &InviteEntry) -> Result<String, EditError> {
    edit_file(path, |file| file.add_invite(invite))
}

fn replace_invite(path: &Path, invite: &InviteEntry) -> Result<(String, Option<Replaced>), EditError> {
    edit_file(path, |file| file.replace_invite(invite))
}

fn revoke_invite(path: &Path, key: &str) -> Result<(), EditError> {
    edit_file(path, |file| file.revoke_invite(key))
}

fn redeem_invite(
    path: &Path,
    digest: &Fingerprint,
    id: Option<&ClientId>,
    hash: &str,
) -> Result<Redeemed, RedeemError> {
    edit_file(path, |file| file.redeem_invite(digest, id, hash))
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clients.toml");
    (directory, path)
}

fn new_client(token_hash: &str) -> ClientEntry {
    ClientEntry { token_hash: token_hash.into(), ..ClientEntry::default() }
}

fn add(path: &Path, client: &str) -> Result<(), EditError> {
    add_client(path, &id(client), &new_client(HASH))
}

/// An invitation whose code has a digest of this byte.
fn invitation(byte: u8, whom: Option<&str>, names: &[&str], expires: &str) -> InviteEntry {
    InviteEntry {
        code_hash: Fingerprint([byte; 32]),
        id: whom.map(id),
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        expires: expires.parse().unwrap(),
    }
}

const LATER: &str = "2999-01-01T00:00:00Z";
const EARLIER: &str = "2001-01-01T00:00:00Z";

/// Makes the change to `text`, and gives what then is in the file. It loads, if it did before.
fn changed(text: &str, change: impl FnOnce(&Path)) -> String {
    let (_directory, path) = scratch();
    fs::write(&path, text).unwrap();
    change(&path);
    ClientsFile::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    fs::read_to_string(&path).unwrap()
}

/// The same client, written in all the ways that TOML knows.
const WAYS: [&str; 6] = [
    "[clients.bob]\ntoken_hash = '$argon2id$old'\nnames = ['bob']\n",
    "[clients]\nbob = { token_hash = '$argon2id$old', names = ['bob'] }\n",
    "[clients]\nbob.token_hash = '$argon2id$old'\nbob.names = ['bob']\n",
    "clients.bob.token_hash = '$argon2id$old'\nclients.bob.names = ['bob']\n",
    "clients = { bob = { token_hash = '$argon2id$old', names = ['bob'] } }\n",
    "clients = { bob.token_hash = '$argon2id$old', bob.names = ['bob'] }\n",
];

#[test]
fn the_first_client_makes_the_file_and_only_its_owner_may_read_it() {
    let (directory, path) = scratch();
    add(&path, "alice").unwrap();
    add(&path, "bob").unwrap();
    let file = ClientsFile::load(&path).unwrap();
    assert_eq!(file.clients.keys().map(ClientId::as_str).collect::<Vec<_>>(), ["alice", "bob"]);
    assert_eq!(&*file.clients["bob"].token_hash, HASH);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left.len(), 2, "the file and its lock: {left:?}");
}

#[test]
fn what_a_client_may_have_is_written_where_it_says_something() {
    let names = ["blog", "*.blog"].map(|name| name.parse().unwrap()).to_vec();
    let text = changed("", |path| {
        let expires = Some(LATER.parse().unwrap());
        let (domains, tcp_ports) = (vec!["*.bob.example".parse().unwrap()], vec![20_000..=20_010, 22..=22]);
        add_client(path, &id("bob"), &ClientEntry { names, domains, tcp_ports, expires, ..new_client(HASH) }).unwrap();
        let by_default = vec!["mia".parse().unwrap()];
        add_client(path, &id("mia"), &ClientEntry { names: by_default, ..new_client(HASH) }).unwrap();
    });
    let expected = format!(
        "[clients.bob]\ntoken_hash = \"{HASH}\"\nnames = [\"blog\", \"*.blog\"]\n\
         domains = [\"*.bob.example\"]\ntcp_ports = [\"20000-20010\", \"22\"]\nexpires = {LATER}\n\n\
         [clients.mia]\ntoken_hash = \"{HASH}\"\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn what_the_operator_wrote_stays_as_it_was() {
    let hash = "token_hash = '$argon2id$x'";
    for old in [
        "# only comments\n# nothing else\n".to_owned(),
        format!("# top\n\n[clients.zoe] # best\n{hash}   # odd   spacing\nnames = [\n  'z',  # the z\n]\n# the end\n"),
        format!("[clients.b]\n{hash}\n\n[clients.a]\n{hash}\n# no newline at the end"),
        format!("clients.b.{hash}\n"),
        format!("clients.b.{hash}\nclients.a.{hash}\nclients.b.names = ['b']\n"),
        format!("[clients]\nb = {{ {hash} }}\n"),
        format!("\u{feff}[clients.b]\r\n{hash}\r\n\r\n# the end\r\n"),
    ] {
        let new = changed(&old, |path| add(path, "mia").unwrap());
        assert!(new.starts_with(&old), "{new}");
        let newline = if old.contains('\r') { "\r\n" } else { "\n" };
        let section = format!("{newline}{newline}[clients.mia]{newline}token_hash = \"{HASH}\"{newline}");
        assert!(new.ends_with(&section), "{new}");
        // Nothing of what was there belongs to the new client.
        assert_eq!(changed(&new, |path| revoke_client(path, &id("mia")).unwrap()).trim_end(), old.trim_end());
    }
}

#[test]
fn an_inline_table_grows_in_its_line() {
    for (old, new) in [
        ("{ b = { token_hash = '$argon2id$x' } }", "{ b = { token_hash = '$argon2id$x' }, mia = { HASH } }"),
        ("{}", "{ mia = { HASH } }"),
        ("{   } # nobody", "{ mia = { HASH } } # nobody"),
    ] {
        let text = changed(&format!("# top\nclients = {old}\n"), |path| add(path, "mia").unwrap());
        let new = new.replace("HASH", &format!("token_hash = \"{HASH}\""));
        assert_eq!(text, format!("# top\nclients = {new}\n"));
    }
}

#[test]
fn an_existing_id_a_claimed_name_and_a_broken_file_are_refused_and_nothing_changes() {
    let (_directory, path) = scratch();
    let good = "[clients.alice]\ntoken_hash = '$argon2id$x'\nnames = ['blog']\n";
    for (text, new) in [(good, "alice"), (good, "blog"), ("[clients.alice\n", "bob"), ("[clients.a]\nx = 1\n", "b")] {
        fs::write(&path, text).unwrap();
        let error = add(&path, new).unwrap_err();
        assert_eq!(matches!(error, EditError::ClientExists(_)), new == "alice", "{error}");
        assert_eq!(matches!(error, EditError::Refused(_)), new == "blog", "{error}");
        assert_eq!(matches!(error, EditError::Invalid(_)), text != good, "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_rotated_token_holds_on_however_the_client_is_written() {
    for old in WAYS {
        let mut file = None;
        let text = changed(old, |path| {
            let until = rotate_token(path, &id("bob"), "$argon2id$new", Some(Duration::from_secs(3600))).unwrap();
            file = Some((ClientsFile::load(path).unwrap(), until));
        });
        let (file, until) = file.unwrap();
        let bob = &file.clients["bob"];
        assert_eq!(&*bob.token_hash, "$argon2id$new", "{text}");
        let previous = bob.previous.as_ref().unwrap();
        assert_eq!((&*previous.token_hash, Some(previous.until)), ("$argon2id$old", until), "{text}");
        let left = previous.until.duration_since(Timestamp::now()).as_secs();
        assert!((3590..=3600).contains(&left), "{left}");

        // The one before ends at once, and an overlap of nothing leaves no trace of the last one.
        let again = changed(&text, |path| {
            rotate_token(path, &id("bob"), "$argon2id$newer", Some(Duration::from_secs(60))).unwrap();
        });
        assert!(again.contains("$argon2id$newer") && again.contains("$argon2id$new"), "{again}");
        assert!(!again.contains("$argon2id$old"), "{again}");
        for end in [None, Some(Duration::ZERO)] {
            let ended = changed(&again, |path| {
                assert_eq!(rotate_token(path, &id("bob"), "$argon2id$old", end).unwrap(), None);
            });
            assert_eq!(ended.replace('"', "'"), old);
        }
    }
}

#[test]
fn rotating_keeps_comments_and_a_section_of_the_previous_token() {
    let text = "[clients.bob]\n  token_hash = '$argon2id$a' # since May\n  # his names\n  names = ['bob']\n\n\
                # for a while\n[clients.bob.previous] # old\ntoken_hash = '$argon2id$b'\nuntil = 2001-01-01T00:00:00Z # past\n";
    let rotated = changed(text, |path| _ = rotate_token(path, &id("bob"), "$argon2id$c", Some(Duration::MAX)).unwrap());
    let expected = text
        .replace("'$argon2id$b'", "\"$argon2id$a\"")
        .replace("'$argon2id$a'", "\"$argon2id$c\"")
        .replace("2001-01-01T00:00:00Z", "9999-12-30T22:00:00.999999999Z");
    assert_eq!(rotated, expected);
    let ended = changed(text, |path| _ = rotate_token(path, &id("bob"), "$argon2id$c", None).unwrap());
    let comments = |text: &str| {
        text.lines().filter_map(|line| line.split_once('#').map(|(_, said)| said.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(comments(&ended), comments(text));
    assert!(!ended.contains("previous") && !ended.contains("$argon2id$b"), "{ended}");
    let (before, after) = text.split_once(" # since").unwrap();
    let inserted = changed(&format!("{before} # since{}", after.split_once("\n\n").unwrap().0), |path| {
        rotate_token(path, &id("bob"), "$argon2id$c", Some(Duration::from_secs(9))).unwrap();
    });
    assert!(
        inserted.contains("\"$argon2id$c\" # since May\n  previous = { token_hash = \"$argon2id$a\", until = 2"),
        "{inserted}"
    );
}

#[test]
fn a_revoked_client_goes_with_its_comments_and_no_others() {
    let text = "# the clients\n# of this server\n\n# zoe, since May\n[clients.zoe] # best\ntoken_hash = '$argon2id$z'\n\
                # names = ['z']\n\n# floating\n\n# bob, and his\n# cats\n[clients.bob]\n# his hash\ntoken_hash = '$argon2id$b' # b\n\
                names = [\n  'bob', # himself\n]\n# below bob\n\n# free\n\n[clients.bob.limits]\nstreams = 5\n\n\
                # mia\n[clients.mia]\ntoken_hash = '$argon2id$m'\n# the end\n";
    let without = |client: &str| changed(text, |path| revoke_client(path, &id(client)).unwrap());
    let (zoe, rest) = text.split_once("# floating\n\n").unwrap();
    let (_, mia) = rest.split_once("streams = 5\n\n").unwrap();
    assert_eq!(without("bob"), format!("{zoe}# floating\n\n{mia}"));
    let (top, _) = zoe.split_once("# zoe").unwrap();
    assert_eq!(without("zoe"), format!("{top}# floating\n\n{rest}"));
    let (before_mia, _) = text.split_once("\n# mia\n").unwrap();
    assert_eq!(without("mia"), before_mia);
}

#[test]
fn a_comment_between_two_clients_is_the_second_ones() {
    let text = "[clients.a]\ntoken_hash = '$argon2id$a'\n# about b\n[clients.b]\ntoken_hash = '$argon2id$b'\n";
    let (a, b) = text.split_once("# about b").unwrap();
    assert_eq!(changed(text, |path| revoke_client(path, &id("a")).unwrap()), format!("# about b{b}"));
    assert_eq!(changed(text, |path| revoke_client(path, &id("b")).unwrap()), a);
}

#[test]
fn a_client_can_be_revoked_however_it_is_written() {
    let [a, c] = ["a", "c"].map(|id| format!("{id} = {{ token_hash = '$argon2id${id}' }}"));
    let bob = "bob = { token_hash = '$argon2id$b' }";
    for (text, left) in [
        (format!("[clients]\n{a}\n# bob\n{bob} # him\n# c\n{c}\n"), format!("[clients]\n{a}\n# c\n{c}\n")),
        (format!("clients = {{ {a}, {bob}, {c} }} # all\n"), format!("clients = {{ {a}, {c} }} # all\n")),
        (format!("clients = {{ {bob}, {c} }}\n"), format!("clients = {{ {c} }}\n")),
        (format!("clients = {{ {a}, {bob} }}\n"), format!("clients = {{ {a} }}\n")),
        (format!("clients = {{ {bob} }}\n"), "clients = {  }\n".to_owned()),
        (
            format!("clients = {{ bob.token_hash = '$argon2id$b', {c}, bob.names = ['b'] }}\n"),
            format!("clients = {{ {c} }}\n"),
        ),
        (
            format!("clients = {{\n  {a}, # a, not, b\n  # of bob\n  {bob}, # c\n  {c},\n}}\n"),
            format!("clients = {{\n  {a}, # a, not, b\n  # of bob\n  # c\n  {c},\n}}\n"),
        ),
        (format!("clients = {{\n  {a} # a, b\n  , {bob}\n}}\n"), format!("clients = {{\n  {a} # a, b\n  \n}}\n")),
        (
            "clients.bob.token_hash = '$argon2id$b'\nclients.a.token_hash = '$argon2id$a'\nclients.bob.names = ['b']\n".to_owned(),
            "clients.a.token_hash = '$argon2id$a'\n".to_owned(),
        ),
        (
            "[clients.bob.limits]\nstreams = 1\n\n[clients.a]\ntoken_hash = '$argon2id$a'\n\n[clients.bob]\ntoken_hash = '$argon2id$b'\n"
                .to_owned(),
            "[clients.a]\ntoken_hash = '$argon2id$a'\n".to_owned(),
        ),
    ] {
        assert_eq!(changed(&text, |path| revoke_client(path, &id("bob")).unwrap()), left, "{text}");
    }
    for text in WAYS {
        let left = changed(text, |path| revoke_client(path, &id("bob")).unwrap());
        assert!(!left.contains("bob"), "{left}");
    }
}

#[test]
fn whoever_is_not_there_cannot_be_changed() {
    let (_directory, path) = scratch();
    let text = "[clients.alice]\ntoken_hash = '$argon2id$x'\n";
    fs::write(&path, text).unwrap();
    let nobody = id("bob");
    for error in [rotate_token(&path, &nobody, HASH, None).map(drop), revoke_client(&path, &nobody)] {
        assert!(matches!(error, Err(EditError::NoClient(_))), "{error:?}");
    }
    assert!(matches!(revoke_invite(&path, "3f9a21bc"), Err(EditError::NoInvite(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    fs::remove_file(&path).unwrap();
    for error in [
        revoke_client(&path, &nobody),
        revoke_invite(&path, "3f9a21bc"),
        rotate_token(&path, &nobody, HASH, None).map(drop),
    ] {
        assert!(error.unwrap_err().to_string().contains("there is no such file"));
    }
    assert!(!path.exists());
}

#[test]
fn an_invitation_comes_and_goes() {
    let old = "# top\n\n[clients.alice]\ntoken_hash = '$argon2id$x'\n";
    let invited = changed(old, |path| {
        let invite = invitation(0x3f, Some("bob"), &["bob", "shop", "*.shop"], LATER);
        assert_eq!(add_invite(path, &invite).unwrap(), "3f3f3f3f");
        assert_eq!(add_invite(path, &invitation(0x4f, None, &[], LATER)).unwrap(), "4f4f4f4f");
    });
    let [first, second] = ["3f", "4f"].map(|byte| byte.repeat(32));
    let expected = format!(
        "{old}\n[invites.3f3f3f3f]\ncode_hash = \"sha256:{first}\"\nid = \"bob\"\nnames = [\"bob\", \"shop\", \"*.shop\"]\n\
         expires = {LATER}\n\n[invites.4f4f4f4f]\ncode_hash = \"sha256:{second}\"\nexpires = {LATER}\n"
    );
    assert_eq!(invited, expected);
    let left = changed(&invited, |path| {
        revoke_invite(path, "3f3f3f3f").unwrap();
        revoke_invite(path, "4f4f4f4f").unwrap();
    });
    assert_eq!(left, old);
}

#[test]
fn nobody_is_invited_twice() {
    let (_directory, path) = scratch();
    add(&path, "alice").unwrap();
    add_invite(&path, &invitation(1, Some("bob"), &[], LATER)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let invite = |byte, whom, names: &[&str]| add_invite(&path, &invitation(byte, whom, names, LATER)).unwrap_err();
    assert!(matches!(invite(2, Some("alice"), &[]), EditError::ClientExists(_)));
    assert!(matches!(invite(2, Some("bob"), &[]), EditError::Invited { key, .. } if key == "01010101"));
    assert!(matches!(add(&path, "bob").unwrap_err(), EditError::Invited { .. }));
    assert!(matches!(invite(1, Some("carol"), &[]), EditError::InviteExists(_)));
    assert!(matches!(invite(2, Some("carol"), &["alice"]), EditError::Refused(_)));
    assert!(matches!(invite(2, Some("carol"), &["bob"]), EditError::Refused(_)));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn an_invitation_that_has_expired_is_in_nobodys_way() {
    let (_directory, path) = scratch();
    for byte in [1, 2] {
        add_invite(&path, &invitation(byte, Some("bob"), &[], EARLIER)).unwrap();
    }
    add(&path, "bob").unwrap();
    let file = ClientsFile::load(&path).unwrap();
    assert!(file.invites.is_empty() && file.clients.contains_key("bob"));
}

#[test]
fn an_invitation_is_redeemed_once_and_its_names_go_over() {
    let (_directory, path) = scratch();
    fs::write(&path, "# top\n").unwrap();
    add_invite(&path, &invitation(1, Some("bob"), &["blog", "*.blog", "bob"], LATER)).unwrap();
    add_invite(&path, &invitation(2, None, &[], LATER)).unwrap();
    let redeemed = redeem_invite(&path, &Fingerprint([1; 32]), None, HASH).unwrap();
    let names = ["blog", "bob"].map(|name| Name::new(name).unwrap()).to_vec();
    assert_eq!(redeemed, Redeemed { id: id("bob"), names });
    let redeemed = redeem_invite(&path, &Fingerprint([2; 32]), Some(&id("carol")), HASH).unwrap();
    assert_eq!(redeemed, Redeemed { id: id("carol"), names: vec![Name::new("carol").unwrap()] });
    let expected = format!(
        "# top\n\n[clients.bob]\ntoken_hash = \"{HASH}\"\nnames = [\"blog\", \"bob\", \"*.blog\"]\n\n\
         [clients.carol]\ntoken_hash = \"{HASH}\"\n"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    let again = redeem_invite(&path, &Fingerprint([1; 32]), None, HASH);
    assert!(matches!(again, Err(RedeemError::NoSuchInvite)), "{again:?}");
}

#[test]
fn an_invitation_buys_nothing_but_what_it_says() {
    let (_directory, path) = scratch();
    let client = ClientEntry { names: vec!["blog".parse().unwrap()], ..new_client(HASH) };
    add_client(&path, &id("alice"), &client).unwrap();
    add_invite(&path, &invitation(1, Some("bob"), &["shop"], LATER)).unwrap();
    add_invite(&path, &invitation(2, None, &[], LATER)).unwrap();
    add_invite(&path, &invitation(3, Some("dave"), &[], EARLIER)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let redeem = |digest: [u8; 32], chosen: Option<&str>| {
        redeem_invite(&path, &Fingerprint(digest), chosen.map(id).as_ref(), HASH).unwrap_err()
    };
    assert!(matches!(redeem([9; 32], Some("bob")), RedeemError::NoSuchInvite));
    let mut same_key = [1; 32];
    same_key[31] = 0;
    assert!(matches!(redeem(same_key, Some("bob")), RedeemError::NoSuchInvite));
    assert!(matches!(redeem([3; 32], None), RedeemError::Expired));
    assert!(matches!(redeem([1; 32], Some("carol")), RedeemError::OtherId(other) if other == id("carol")));
    assert!(matches!(redeem([2; 32], None), RedeemError::IdNeeded));
    for taken in ["alice", "blog", "bob", "shop"] {
        assert!(matches!(redeem([2; 32], Some(taken)), RedeemError::IdTaken(id) if id.as_str() == taken), "{taken}");
    }
    for reserved in ["www", "ns1", "mta-sts", "login", "xn--pple-43d"] {
        assert!(matches!(redeem([2; 32], Some(reserved)), RedeemError::IdReserved(_)), "{reserved}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    fs::write(&path, "[clients.alice\n").unwrap();
    assert!(matches!(redeem([1; 32], None), RedeemError::Edit(EditError::Invalid(_))));
}

#[test]
fn the_operator_may_give_a_reserved_name_to_a_client() {
    let (_directory, path) = scratch();
    add(&path, "www").unwrap();
    add_invite(&path, &invitation(1, Some("mail"), &[], LATER)).unwrap();
    add_invite(&path, &invitation(2, Some("bob"), &["bob", "login", "*.login"], LATER)).unwrap();
    for (digest, who) in [([1; 32], "mail"), ([2; 32], "bob")] {
        redeem_invite(&path, &Fingerprint(digest), Some(&id(who)), HASH).unwrap();
    }
    let file = ClientsFile::load(&path).unwrap();
    assert_eq!(file.clients[&id("www")].names, ["www".parse().unwrap()]);
    assert_eq!(file.clients[&id("mail")].names, ["mail".parse().unwrap()]);
    assert_eq!(names_of(&file.clients[&id("bob")].names).len(), 2);
}

#[test]
fn the_folder_is_made_with_the_first_client_but_no_longer_path() {
    let (directory, _) = scratch();
    let typo = directory.path().join("typo/config/clients.toml");
    let error = add(&typo, "alice").unwrap_err();
    assert!(matches!(error, EditError::Io(_)), "{error}");
    let message = error.to_string();
    assert!(message.contains("config: ") && message.contains("check that the directory exists"), "{message}");
    assert!(!directory.path().join("typo").exists());
    let path = directory.path().join("config/clients.toml");
    assert!(revoke_client(&path, &id("alice")).is_err() && !directory.path().join("config").exists());
    add(&path, "alice").unwrap();
    assert!(ClientsFile::load(&path).unwrap().clients.contains_key("alice"));
}

#[test]
fn a_file_that_is_begun_lets_nobody_in_and_says_so_until_somebody_comes() {
    let (directory, _) = scratch();
    let path = directory.path().join("config/clients.toml");
    create_clients_file(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), NO_CLIENTS);
    assert!(ClientsFile::load_version(&path, true).unwrap().0.clients.is_empty());
    add(&path, "alice").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("[clients.alice]"), "{text}");
    create_clients_file(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn an_invitation_that_nobody_has_used_can_be_replaced() {
    let (_directory, path) = scratch();
    add(&path, "alice").unwrap();
    let replace = |byte, whom| replace_invite(&path, &invitation(byte, whom, &[], LATER));
    assert_eq!(replace(1, Some("bob")).unwrap(), ("01010101".to_owned(), None));
    let of_one = Replaced { key: "01010101".to_owned(), kept: vec![] };
    assert_eq!(replace(2, Some("bob")).unwrap(), ("02020202".to_owned(), Some(of_one)));
    let keys = || ClientsFile::load(&path).unwrap().invites.into_keys().collect::<Vec<_>>();
    assert_eq!(keys(), ["02020202"]);
    // One for anybody is in nobody's place, and a client is no invitation.
    assert_eq!(replace(3, None).unwrap().1, None);
    assert_eq!(keys().len(), 2);
    assert!(matches!(replace(4, Some("alice")).unwrap_err(), EditError::ClientExists(_)));
}

#[test]
fn an_invitation_without_names_has_those_of_the_one_before() {
    let (_directory, path) = scratch();
    let replace = |byte, names: &[&str]| {
        let (key, before) = replace_invite(&path, &invitation(byte, Some("bob"), names, LATER)).unwrap();
        let entry = ClientsFile::load(&path).unwrap().invites.remove(&key).unwrap();
        let texts = |claims: Vec<Claim>| claims.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        (texts(entry.names), before.map(|before| texts(before.kept)))
    };
    let had = |now: &str, kept: &str| (now.to_owned(), Some(kept.to_owned()));
    assert_eq!(replace(1, &["bob", "shop", "*.shop"]), ("bob,shop,*.shop".to_owned(), None));
    assert_eq!(replace(2, &[]), had("bob,shop,*.shop", "bob,shop,*.shop"));
    assert_eq!(replace(3, &["wiki"]), had("wiki", ""), "those that are named, and no others");
    assert_eq!(replace(4, &["bob"]), had("bob", ""));
    assert_eq!(replace(5, &[]), had("bob", ""), "its id alone");
}

#[test]
fn a_text_that_a_command_wrote_is_known_until_the_next_but_one() {
    let (_dir, path) = scratch();
    let by_command = |text: &str| was_written_by_command(&path, &digest_of(text));
    let texts = ["alice", "bob", "carol"].map(|client| {
        add(&path, client).unwrap();
        std::fs::read_to_string(&path).unwrap()
    });
    assert_eq!(texts.each_ref().map(|text| by_command(text)), [false, true, true]);
    // What somebody wrote by hand in between stays that, also when a command goes on from it.
    let by_hand = format!("{}# by hand\n", texts[2]);
    std::fs::write(&path, &by_hand).unwrap();
    add(&path, "dave").unwrap();
    let now = std::fs::read_to_string(&path).unwrap();
    assert_eq!([&texts[2], &by_hand, &now].map(|text| by_command(text)), [false, false, true]);
}

#[test]
fn writers_take_turns() {
    let (_directory, path) = scratch();
    add(&path, "rotating").unwrap();
    add_invite(&path, &invitation(1, Some("invited"), &[], LATER)).unwrap();
    let winners: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|number| {
                let path = &path;
                scope.spawn(move || {
                    let own = id(&format!("c{number}"));
                    add_client(path, &own, &new_client(HASH)).unwrap();
                    rotate_token(path, &id("rotating"), &format!("$argon2id${number}"), None).unwrap();
                    let redeemed = redeem_invite(path, &Fingerprint([1; 32]), None, HASH).is_ok();
                    if number % 2 == 0 {
                        revoke_client(path, &own).unwrap();
                    }
                    usize::from(redeemed)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    assert_eq!(winners, 1);
    let ids: Vec<_> = ClientsFile::load(&path).unwrap().clients.into_keys().map(String::from).collect();
    assert_eq!(ids, ["c1", "c3", "c5", "c7", "invited", "rotating"]);
}

#[cfg(unix)]
#[test]
fn a_file_that_root_makes_is_for_the_owner_of_its_folder() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let (directory, path) = scratch();
    // Only root may give a file away.
    if chown(directory.path(), Some(4711), Some(4712)).is_err() {
        return;
    }
    add(&path, "alice").unwrap();
    let folder = directory.path().join("config");
    let below = folder.join("clients.toml");
    add(&below, "alice").unwrap();
    for file in [&path, &directory.path().join(".lock"), &below, &folder.join(".lock"), &folder] {
        let made = fs::metadata(file).unwrap();
        assert_eq!((made.uid(), made.gid()), (4711, 4712), "{}", file.display());
        assert!(made.is_dir() || made.mode() & 0o777 == 0o600, "{}", file.display());
    }
}

#[cfg(unix)]
#[test]
fn nobody_leads_root_to_what_is_roots() {
    use std::os::unix::fs::{MetadataExt as _, chown, lchown, symlink};
    let (directory, path) = scratch();
    let link = directory.path().join("link.toml");
    fs::write(&path, "# root's\n").unwrap();
    symlink(&path, &link).unwrap();
    // Only root may give a link away.
    if lchown(&link, Some(4711), Some(4712)).is_err() {
        return;
    }
    let error = add(&link, "alice").unwrap_err();
    assert!(matches!(&error, EditError::Io(error) if error.to_string().contains("link.toml is a link")), "{error}");
    assert!(dry_run_create(&link).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "# root's\n");
    // What is theirs they may have wherever they like.
    chown(&path, Some(4711), Some(4712)).unwrap();
    add(&link, "alice").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && ClientsFile::load(&path).unwrap().clients.len() == 1);
    assert_eq!(fs::metadata(&path).unwrap().uid(), 4711);
}

#[cfg(unix)]
#[test]
fn a_link_and_the_permissions_survive() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, path) = scratch();
    let link = directory.path().join("link.toml");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    add(&link, "alice").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(ClientsFile::load(&path).unwrap().clients.contains_key("alice"));
}
