use super::*;
use crate::tenants::claim::names_of;
use std::num::NonZeroU32;

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
    let names = |id: &str| file.clients[id].names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((names("alice"), names("bob")), (vec!["alice".to_owned()], vec!["blog".to_owned(), "shop".to_owned()]));
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
        "clients.bob.domains[0]",
        "clients.bob.expires",
        "clients.carol.token_hash",
        "clients.carol.names",
        "clients.dave.token_hash",
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

fn keys_of(text: &str) -> Vec<String> {
    read(text).unwrap_err().problems.into_iter().map(|problem| problem.key).collect()
}

/// Asserts that `text` has one problem, at `key`, whose message contains `says`.
fn refused(text: &str, key: &str, says: &str) {
    let errors = read(text).unwrap_err();
    assert_eq!(errors.problems[0].key, key, "{errors}");
    assert!(errors.problems.len() == 1 && errors.to_string().contains(says), "{errors}");
}

const HASH: &str = "token_hash = '$argon2id$x'";

#[test]
fn a_client_may_have_all_hosts_below_a_name_of_its_own() {
    let text = format!("[clients.alice]\n{HASH}\nnames = ['alice', '*.blog', 'blog']\n[clients.bob]\n{HASH}\n");
    let file = read(&text).unwrap();
    let alice = &file.clients["alice"];
    let names: Vec<_> = alice.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["alice", "blog", "*.blog"]);
    for (names, says) in [
        ("['alice', '*.blog']", "`*.blog` is for the service `blog`, which alice may not claim"),
        ("['alice', '*.bob']", "which alice may not claim"),
        ("['*.alice']", "which alice may not claim"),
        ("['alice', '*.alice', '*.alice']", "`*.alice` is listed twice"),
        ("['alice', 'alice']", "`alice` is listed twice"),
        ("['*.*.alice']", "contains `*`"),
        ("['*']", "contains `*`"),
    ] {
        let message = refusal(&text.replace("['alice', '*.blog', 'blog']", names));
        assert!(message.contains(says) && message.matches('\n').count() <= 1, "{message}");
    }
}

#[test]
fn a_domain_belongs_to_one_client_with_all_below_its_wildcards() {
    let of = |alice: &str, bob: &str| {
        format!("[clients.alice]\n{HASH}\ndomains = {alice}\n[clients.bob]\n{HASH}\ndomains = {bob}\n")
    };
    let file = read(&of("['a.example', '*.a.example', 'B.example.']", "['x.b.example']")).unwrap();
    assert_eq!(file.clients["alice"].domains[2].as_str(), "b.example");
    for (alice, bob, key, says) in [
        ("['a.example']", "['A.example']", "clients.bob.domains", "`a.example` of bob belongs to alice, too"),
        ("['*.a.example']", "['*.a.example']", "clients.bob.domains", "belongs to alice, too"),
        (
            "['*.a.example']",
            "['x.y.a.example']",
            "clients.bob.domains",
            "is one of `*.a.example`, which belong to alice",
        ),
        ("['x.a.example']", "['*.a.example']", "clients.alice.domains", "is one of `*.a.example`, which belong to bob"),
        ("['*.x.a.example']", "['*.a.example']", "clients.alice.domains", "is one of `*.a.example`"),
        ("['a.example', 'a.example']", "[]", "clients.alice.domains", "listed twice"),
        ("['alice']", "[]", "clients.alice.domains[0]", "is not a domain"),
        ("'a.example'", "[]", "clients.alice.domains", "a list"),
    ] {
        refused(&of(alice, bob), key, says);
    }
}

#[test]
fn overlaps_are_found_wherever_they_are_among_many_ports() {
    let client = |(id, ports): (&str, &str)| format!("[clients.{id}]\n{HASH}\ntcp_ports = {ports}\n");
    let text = |clients: &[(&str, &str)]| clients.iter().copied().map(client).collect::<String>();
    assert!(read(&text(&[("a", "['10-19', 40]"), ("b", "['20-29', '30-39']"), ("c", "['1-9', 41]")])).is_ok());
    // One that reaches over many is told of with each of them.
    let wide = text(&[("a", "['1-65535']"), ("b", "['20-29']"), ("c", "['40-49', '60']")]);
    assert_eq!(keys_of(&wide), ["clients.b.tcp_ports", "clients.c.tcp_ports", "clients.c.tcp_ports"]);
    let last = text(&[("a", "['10-20']"), ("b", "['1-10']")]);
    assert_eq!(keys_of(&last), ["clients.b.tcp_ports"], "the later client, though its ports come first");
}

#[test]
fn limits_and_the_previous_token_are_checked() {
    let of = |keys: &str| format!("[clients.alice]\n{HASH}\n{keys}\n");
    let file = read(&of("limits = { requests_per_second = 200, burst = 400, streams = 7 }\n\
                         previous = { token_hash = '$argon2id$secret', until = '2027-01-01T00:00:00Z' }"))
    .unwrap();
    let alice = &file.clients["alice"];
    assert_eq!(
        alice.limits,
        ClientLimits { requests_per_second: NonZeroU32::new(200), burst: NonZeroU32::new(400), streams: Some(7) }
    );
    let [before, then] = ["2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"].map(|moment| moment.parse().unwrap());
    assert_eq!(alice.overlapping(before).map(|previous| &*previous.token_hash), Some("$argon2id$secret"));
    assert!(alice.overlapping(then).is_none());
    assert!(!format!("{alice:?}").contains("argon2id"));
    let limits = read(&of("limits = { streams = 7 }")).unwrap().clients["alice"].limits;
    assert_eq!(limits, ClientLimits { streams: Some(7), ..ClientLimits::default() });
    for (keys, key) in [
        ("limits = { burst = 4 }", "limits.burst"),
        ("limits = { requests_per_second = 0 }", "limits.requests_per_second"),
        ("limits = { requests_per_second = 5, burst = -1 }", "limits.burst"),
        ("limits = { streams = 1000001 }", "limits.streams"),
        ("limits = { strems = 5 }", "limits.strems"),
        ("limits = 5", "limits"),
        ("previous = { token_hash = '$argon2id$x' }", "previous.until"),
        ("previous = { until = 2027-01-01T00:00:00Z }", "previous.token_hash"),
        ("previous = { token_hash = 'adit_x', until = 2027-01-01T00:00:00Z }", "previous.token_hash"),
        ("previous = { token_hash = '$argon2id$x', until = 2027-01-01 }", "previous.until"),
    ] {
        assert_eq!(keys_of(&of(keys)), [format!("clients.alice.{key}")], "{keys}");
    }
}

/// The section of an invitation whose code has a digest of this byte.
fn invitation(byte: u8, keys: &str) -> String {
    let digest = Fingerprint([byte; 32]);
    format!("[invites.{}]\ncode_hash = '{digest}'\nexpires = 2027-01-01T00:00:00Z\n{keys}\n", invite_key(&digest))
}

#[test]
fn an_invitation_is_for_somebody_or_for_whoever_has_it() {
    let text =
        invitation(0x3f, "id = 'bob'") + &invitation(0x4f, "") + &invitation(0x5f, "id = 'eve'\nnames = ['e', '*.e']");
    let file = read(&text).unwrap();
    let found = |key: &str| {
        let InviteEntry { code_hash, id, names, expires } = file.invites[key].clone();
        assert_eq!((invite_key(&code_hash).as_str(), expires.to_string().as_str()), (key, "2027-01-01T00:00:00Z"));
        (id.map(String::from), names.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let [bob, eve, e, below_e] = ["bob", "eve", "e", "*.e"].map(str::to_owned);
    assert_eq!(found("3f3f3f3f"), (Some(bob.clone()), vec![bob]));
    assert_eq!(found("4f4f4f4f"), (None, vec![]));
    assert_eq!(found("5f5f5f5f"), (Some(eve), vec![e, below_e]));
}

#[test]
fn whoever_is_invited_is_new_and_gets_what_nobody_has() {
    let alice = format!("[clients.alice]\n{HASH}\nnames = ['alice', 'blog']\n");
    let invites = |first: &str, second: &str| alice.clone() + &invitation(1, first) + &invitation(2, second);
    assert!(read(&invites("id = 'bob'", "id = 'carol'\nnames = ['carol', 'shop']")).is_ok());
    for (first, second, key, says) in [
        ("id = 'alice'", "", "invites.01010101.id", "is a client already"),
        ("id = 'bob'", "id = 'bob'", "invites.02020202.id", "is invited by 01010101, too"),
        ("id = 'blog'", "", "invites.01010101", "the name `blog` of the invitation 01010101 belongs to alice"),
        ("id = 'bob'\nnames = ['blog']", "", "invites.01010101", "belongs to alice, too"),
        ("id = 'bob'\nnames = ['shop']", "id = 'shop'", "invites.02020202", "belongs to the invitation 01010101"),
        ("id = 'bob'\nnames = ['*.bob']", "", "invites.01010101.names", "which the invitation 01010101 may not claim"),
        ("names = ['bob']", "", "invites.01010101.names", "needs an id"),
        ("id = 'bob'\nnames = []", "", "invites.01010101.names", "is empty"),
        ("id = 'Bob'", "", "invites.01010101.id", "contains `B`"),
        ("nmaes = ['bob']", "", "invites.01010101.nmaes", "unknown key"),
    ] {
        refused(&invites(first, second), key, says);
    }
    assert_eq!(keys_of("[invites.01010101]\n"), ["invites.01010101.code_hash", "invites.01010101.expires"]);
    let wrong_key = invitation(1, "").replace("[invites.01010101]", "[invites.bob]");
    assert_eq!(keys_of(&wrong_key), ["invites.bob"]);
    let no_hash = "[invites.01010101]\ncode_hash = 'adit_invite_hunter2'\nexpires = '2027-01-01T00:00:00+02:00'\n";
    assert_eq!(keys_of(no_hash), ["invites.01010101.code_hash"]);
    assert!(!refusal(no_hash).contains("hunter2"));
}

/// Large files are read again and again by a server that runs: each check may look at everything once.
#[test]
fn ten_thousand_clients_load() {
    let text = ten_thousand("");
    let file = read(&text).unwrap();
    assert_eq!(file.clients.len(), 10_000);
    assert_eq!((names_of(&file.clients["c9999"].names).len(), file.clients["c9999"].domains.len()), (3, 2));
    // As many mistakes as clients, each with what was meant.
    let errors = read(&text.replace("expires =", "expirse =")).unwrap_err();
    assert_eq!(errors.problems.len(), 10_000);
    assert!(errors.problems[0].message.contains("did you mean `clients.c0.expires`?"), "{}", errors.problems[0]);
    let shared = ten_thousand("tcp_ports = ['20000-20010']");
    assert_eq!(read(&shared).unwrap_err().problems.len(), 9_999);
}

/// Names, domains and ports for each; `ports` instead of ports of its own.
fn ten_thousand(ports: &str) -> String {
    let client = |number: u32| {
        // Five ports each, and few are left over.
        let own = format!("tcp_ports = ['{}-{}']", 5_000 + number * 6, 5_004 + number * 6);
        format!(
            "[clients.c{number}]\n{HASH}\nnames = ['c{number}', 'blog-c{number}', 'shop-c{number}', '*.c{number}']\n\
             domains = ['c{number}.example', '*.c{number}.example']\n{}\nexpires = 2999-01-01T00:00:00Z\n\n",
            if ports.is_empty() { &own } else { ports }
        )
    };
    (0..10_000).map(client).collect()
}
