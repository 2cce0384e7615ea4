//! What an operator does with `adit token`: let people in, invite them, give them new tokens, and send them away.

use std::fs;

use adit::auth::InviteCode;

use crate::processes::{Ended, adit, run, run_on_a_terminal};
use crate::setup::{Folder, Server, python_site, start_agent};
use crate::visitor::visit;

/// `adit token …` about the clients file of `folder`.
fn token(folder: &Folder, arguments: &[&str]) -> Ended {
    let mut command = adit();
    command.arg("token").args(arguments).args(["--clients", &folder.text("clients.toml")]);
    run("adit token", command)
}

/// The same, which has to succeed; gives what it printed on standard output, and on standard error.
fn did(folder: &Folder, arguments: &[&str]) -> (String, String) {
    let ended = token(folder, arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    (ended.stdout, ended.stderr)
}

fn assert_fails(ended: &Ended, code: i32, says: &str) {
    assert!(ended.code == Some(code) && ended.stderr.contains(says) && ended.stdout.is_empty(), "{says}: {ended:?}");
}

fn file(folder: &Folder) -> String {
    fs::read_to_string(folder.path("clients.toml")).unwrap()
}

/// Nothing but a secret, so that it can be piped; and it is nowhere else.
fn secret(folder: &Folder, (stdout, stderr): &(String, String)) -> String {
    let secret = stdout.strip_suffix('\n').unwrap().to_owned();
    assert!(secret.starts_with("adit_") && !secret.contains(char::is_whitespace), "{secret}");
    assert!(!stderr.contains(&secret) && !file(folder).contains(&secret), "{stderr}");
    secret
}

#[test]
fn a_list_is_made_for_programs_when_it_is_piped() {
    let folder = Folder::new();
    folder.write("clients.toml", "# mine\n");
    assert_eq!(did(&folder, &["list"]).0, "");
    did(&folder, &["new", "bob", "--names", "bob,shop,*.shop", "--expires", "2999-01-01T02:00:00+02:00"]);
    did(&folder, &["new", "alice"]);
    did(&folder, &["rotate", "alice", "--overlap", "1h"]);
    let (_, invited) = did(&folder, &["invite", "carol"]);
    let (list, complaints) = did(&folder, &["list"]);
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 3, "{list}");
    // As many columns as with a server that can be asked.
    assert!(lines.iter().all(|line| line.len() == 6 && line[5] == "?"), "{list}");
    assert_eq!(lines[0][..4], ["alice", "alice", "-", "never"]);
    assert!(lines[0][4].starts_with("rotating until 2"), "{list}");
    assert_eq!(lines[1][..5], ["bob", "bob,shop,*.shop", "-", "2999-01-01T00:00:00Z", "active"]);
    assert_eq!((lines[2][1], lines[2][4]), ("carol", "invitation for carol"));
    assert!(invited.contains(lines[2][0]), "its key: {invited}");
    assert!(!list.contains('$') && !list.contains("sha256") && complaints.is_empty(), "{list}{complaints}");
    assert!(file(&folder).starts_with("# mine\n"));
    fs::remove_file(folder.path("clients.toml")).unwrap();
    assert_fails(&token(&folder, &["list"]), 78, "there is no such file");
}

#[test]
fn a_new_token_takes_the_place_of_the_old_one() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let old = folder.add_client("alice");
    let rotated = did(&folder, &["rotate", "alice"]);
    let new = secret(&folder, &rotated);
    assert_ne!(new, old);
    assert!(rotated.1.contains("The old token holds until 2"), "{}", rotated.1);
    assert_eq!(file(&folder).matches("$argon2id$").count(), 2);
    let ended = did(&folder, &["rotate", "alice", "--overlap", "0s"]);
    let newest = secret(&folder, &ended);
    assert!(ended.1.contains("The old token holds no more"), "{}", ended.1);
    assert_eq!(file(&folder).matches("$argon2id$").count(), 1);

    let server = Server::start(&folder, "");
    for ended in [&old, &new] {
        let mut command = server.http_command("alice", site.port);
        command.env("ADIT_TOKEN", ended);
        let ended = run_on_a_terminal("adit http", &command);
        assert!(ended.code == Some(77) && ended.stderr.contains("`adit token rotate ID`"), "{ended:?}");
    }
    let mut command = server.http_command("alice", site.port);
    command.env("ADIT_TOKEN", &newest);
    let _agent = start_agent(command);
    assert_eq!(visit(&server.url("alice", "/hello.txt"), &[]).status, 200);
    assert_fails(&token(&folder, &["rotate", "bob"]), 1, "there is no client `bob`");
}

#[test]
fn whoever_is_revoked_goes_with_what_was_written_about_them() {
    let folder = Folder::new();
    folder.add_client("alice");
    let alice = file(&folder);
    folder.add_client("bob");
    let with_comment = file(&folder).replace("[clients.bob]", "# bob, from work\n[clients.bob]");
    folder.write("clients.toml", &with_comment);
    let (stdout, stderr) = did(&folder, &["revoke", "bob"]);
    assert!(stdout.is_empty() && stderr.contains("revoked the client `bob`"), "{stderr}");
    assert_eq!(file(&folder), alice);

    did(&folder, &["invite", "bob", "--names", "bob,shop"]);
    let key = did(&folder, &["list"]).0.lines().last().unwrap().split('\t').next().unwrap().to_owned();
    let (_, stderr) = did(&folder, &["revoke", &key]);
    assert!(stderr.contains(&format!("revoked the invitation {key}")), "{stderr}");
    assert_eq!(file(&folder), alice);
    for nobody in ["bob", &key, "No One"] {
        assert_fails(&token(&folder, &["revoke", nobody]), 1, &format!("no client and no invitation `{nobody}`"));
    }
    assert_eq!(file(&folder), alice);
}

#[test]
fn an_invitation_pins_the_server_by_what_its_configuration_says() {
    let folder = Folder::new();
    let config = folder.write_server_config("").display().to_string();
    let invite = |arguments: &[&str]| {
        let outcome = did(&folder, &[&["invite"][..], arguments].concat());
        let code = InviteCode::parse(&secret(&folder, &outcome)).unwrap();
        assert!(outcome.1.contains("adit login localhost:PORT --invite CODE"), "{}", outcome.1);
        let warned = outcome.1.find("will not say by which key");
        assert_eq!(warned.is_some(), code.pin().is_none(), "{}", outcome.1);
        assert!(warned < outcome.1.find("invited"), "it is said before anything is written: {}", outcome.1);
        (code, outcome.1)
    };
    let (code, stderr) = invite(&["--config", &config]);
    assert!(stderr.contains("made the server's authority"), "before the first start of the server: {stderr}");
    let made = code.pin().map(|pin| pin.to_string());

    let server = Server::start(&folder, "");
    assert_eq!(made.as_ref(), Some(&server.fingerprint), "and the server takes it");
    let (code, stderr) = invite(&["bob", "--config", &config, "--expires", "2999-01-01T00:00:00Z"]);
    assert_eq!(code.pin().map(|pin| pin.to_string()).as_ref(), Some(&server.fingerprint));
    assert_eq!(code.id().map(|id| id.as_str()), Some("bob"));
    assert!(stderr.contains("until 2999-01-01T00:00:00Z"), "{stderr}");
    assert!(file(&folder).contains(&code.digest().to_string()));

    let fingerprint = format!("sha256:{}", "ab".repeat(32));
    let (code, _) = invite(&["--fingerprint", &fingerprint]);
    assert_eq!(code.pin().map(|pin| pin.to_string()), Some(fingerprint));
    let own = folder.write_server_config("tunnel.tls.cert = 'own.pem'\ntunnel.tls.key = 'own.key'\n");
    let (code, stderr) = invite(&["--config", &own.display().to_string()]);
    assert!(code.pin().is_none() && stderr.contains("a certificate of your own"), "{stderr}");
}

#[test]
fn an_authority_is_made_before_the_first_start_alone() {
    let folder = Folder::new();
    let config = folder.write_server_config("").display().to_string();
    // A server that keeps its authority elsewhere, as a unit or a flag has it.
    let elsewhere = folder.path("elsewhere");
    let mut command = adit();
    command.args(["server", "--config", &config, "--set"]).arg(format!("tunnel.tls.dir={}", elsewhere.display()));
    let server = Server::start_command(command);
    let invited = did(&folder, &["invite", "bob", "--config", &config]);
    assert_eq!(InviteCode::parse(&secret(&folder, &invited)).unwrap().pin(), None);
    assert!(!folder.path("certs").exists(), "nothing is made: {}", invited.1);
    let warned = invited.1.find("will not say by which key").unwrap();
    assert!(warned < invited.1.find("invited `bob`").unwrap() && invited.1.contains("tunnel.tls.dir"), "{}", invited.1);
    // The command that the server itself names pins its key.
    let line = server.program.line("  to invite ");
    let (_, arguments) = line.split_once("adit token ").unwrap();
    let invited = did(&folder, &arguments.split(' ').collect::<Vec<_>>());
    let pin = InviteCode::parse(&secret(&folder, &invited)).unwrap().pin();
    assert_eq!(pin.map(|pin| pin.to_string()), Some(server.fingerprint.clone()), "{line}");
}

#[test]
fn a_first_invitation_that_cannot_be_leaves_a_server_that_starts() {
    let folder = Folder::new();
    let config = folder.write_server_config("").display().to_string();
    fs::create_dir(folder.path("clients.toml")).unwrap();
    let wrong = token(&folder, &["invite", "bob", "--config", &config]);
    assert!(wrong.code != Some(0) && wrong.stdout.is_empty(), "{wrong:?}");
    assert!(!folder.path("certs").exists(), "a server with an authority and without a clients file does not start");
    fs::remove_dir(folder.path("clients.toml")).unwrap();
    // A name that is said twice is one.
    let invited = did(&folder, &["invite", "bob", "--names", "bob,shop,bob", "--config", &config]);
    assert!(InviteCode::parse(&secret(&folder, &invited)).unwrap().pin().is_some());
    assert!(fs::read_to_string(folder.path("clients.toml")).unwrap().contains("[\"bob\", \"shop\"]"));
    let server = Server::start(&folder, "");
    server.program.line("1 invitation waits to be used");
}

#[test]
fn a_server_does_not_advise_to_end_a_code_that_waits() {
    let folder = Folder::new();
    let config = folder.write_server_config("").display().to_string();
    for invited in [&["invite", "alice", "--names", "alice,shop"][..], &["invite"]] {
        did(&folder, &[invited, &["--config", &config]].concat());
    }
    let server = Server::start(&folder, "");
    let line = server.program.line("no client may log in yet");
    assert!(line.contains("2 invitations wait to be used") && !line.contains("invite one"), "{line}");
    // Whoever does it all the same takes nothing from the one that is invited.
    let (_, stderr) = did(&folder, &["invite", "alice", "--config", &config]);
    assert!(stderr.contains("buys nothing any more. Its names stay: alice,shop."), "{stderr}");
    assert!(did(&folder, &["list"]).0.contains("\talice,shop\t"));
}

#[test]
fn a_second_invitation_takes_the_place_of_one_that_nobody_has_used() {
    let folder = Folder::new();
    folder.write("clients.toml", "# mine\n");
    let first = did(&folder, &["invite", "bob"]);
    // There is no configuration beside the file: where to dial and whom to trust cannot be known.
    assert!(
        first.1.contains("adit login HOST:8080 --invite CODE") && first.1.contains("name it (--config)"),
        "{first:?}"
    );
    let key = did(&folder, &["list"]).0.split('\t').next().unwrap().to_owned();
    let fingerprint = format!("sha256:{}", "ab".repeat(32));
    let second = did(&folder, &["invite", "bob", "--fingerprint", &fingerprint]);
    assert!(second.1.contains(&format!("in place of the invitation {key}, whose code buys nothing")), "{second:?}");
    let code = InviteCode::parse(&secret(&folder, &second)).unwrap();
    assert!(file(&folder).contains(&code.digest().to_string()) && file(&folder).matches("[invites.").count() == 1);
}

#[test]
fn a_client_can_be_changed_and_the_refusal_says_how() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let of_alice = folder.add_client("alice");
    let with_comment = file(&folder).replace("[clients.alice]", "# from work\n[clients.alice]");
    folder.write("clients.toml", &with_comment);
    let server = Server::start(&folder, "");
    let agent = |name: &str| {
        let mut command = server.http_command("alice", site.port);
        command.args(["--name", name]).env("ADIT_TOKEN", &of_alice);
        command
    };
    let refused = run_on_a_terminal("adit http", &agent("shop"));
    let line = refused.stderr.lines().find(|line| line.contains("not_allowed")).unwrap_or_default();
    let command = line.split("`adit token ").nth(1).and_then(|rest| rest.split('`').next()).unwrap_or_default();
    assert_eq!((refused.code, command), (Some(77), "set alice --names +shop"), "{refused:?}");
    server.program.line(&format!("adit token {command}"));
    // Exactly as it says.
    let (stdout, stderr) = did(&folder, &command.split(' ').collect::<Vec<_>>());
    assert!(
        stdout.starts_with("alice\talice,shop\t") && stderr.contains("changed the client `alice`"),
        "{stdout}{stderr}"
    );
    server.program.line("the clients file has changed and counts");
    let _agent = start_agent(agent("shop"));
    assert_eq!(visit(&server.url("shop", "/hello.txt"), &[]).status, 200);

    let changes = [
        "set",
        "alice",
        "--tcp-ports",
        "22,20000-20010",
        "--domains",
        "a.example",
        "--expires",
        "2999-01-01T00:00:00Z",
    ];
    let (stdout, _) = did(&folder, &changes);
    assert_eq!(stdout, "alice\talice,shop\ta.example,22,20000-20010\t2999-01-01T00:00:00Z\tactive\n");
    let (stdout, _) =
        did(&folder, &["set", "alice", "--tcp-ports", "", "--domains", "", "--names", "", "--expires", "never"]);
    assert_eq!(stdout, "alice\talice\t-\tnever\tactive\n");
    assert_eq!(file(&folder), with_comment, "nothing of it is left");
    assert_fails(&token(&folder, &["set", "bob", "--names", "bob"]), 1, "there is no client `bob`");
    assert_fails(&token(&folder, &["set", "alice"]), 2, "--expires");
    assert_fails(&token(&folder, &["set", "alice", "--tcp-ports", "x"]), 2, "is not a range of ports");
}

#[test]
fn the_first_client_of_an_empty_folder_needs_no_folder_and_the_server_no_file() {
    let folder = Folder::new();
    let inside = |arguments: &[&str]| {
        let mut command = adit();
        command.args(arguments).current_dir(folder.path("."));
        command
    };
    for command in [&["new", "alice"][..], &["invite", "zed"], &["set", "alice", "--names", "x"], &["list"]] {
        let ended = run("adit token", inside(&[&["token"], command].concat()));
        assert!(ended.code == Some(1) && ended.stdout.is_empty(), "{ended:?}");
        for part in ["nothing was created", "config/clients.toml", "/etc/adit/server.toml", "--config FILE", "--init"] {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
        assert_eq!(fs::read_dir(folder.path(".")).unwrap().count(), 0, "{command:?} has created something");
    }
    let new = ["token", "new", "alice", "--init", "--tcp-ports", "20000-20010,22"];
    let ended = run("adit token new", inside(&new));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let text = fs::read_to_string(folder.path("config/clients.toml")).unwrap();
    assert!(text.contains("tcp_ports = [\"20000-20010\", \"22\"]"), "{text}");
    fs::remove_dir_all(folder.path("config")).unwrap();
    let free = ["tunnel.listen", "public.http", "admin.listen"].map(|key| format!("{key}=127.0.0.1:0"));
    let serve = || inside(&["server", "--set", &free[0], "--set", &free[1], "--set", &free[2]]);
    let server = Server::start_command(serve());
    server.program.line("no client may log in yet: invite one with `adit token invite alice`");
    assert_eq!(run("adit token invite", inside(&["token", "invite", "alice"])).code, Some(0));
    server.program.line("the clients file has changed and counts");
    drop(server);
    // One that was there and is not any more is another matter.
    fs::remove_file(folder.path("config/clients.toml")).unwrap();
    let ended = run("adit server", serve());
    assert!(ended.code == Some(78) && ended.stderr.contains("there is no such file"), "{ended:?}");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    folder.add_client("alice");
    did(&folder, &["set", "alice", "--names", "alice,shop,shop", "--tcp-ports", "20000-20010,20005"]);
    let before = file(&folder);
    did(&folder, &["set", "alice", "--names", "+shop,shop", "--tcp-ports", "+20005"]);
    assert_eq!(file(&folder), before, "all of it was there");
    for (arguments, code, says) in [
        (&["new", "alice"][..], 1, "`alice` exists already"),
        (&["invite", "alice"], 1, "`alice` exists already"),
        (
            &["new", "bob", "--names", "bob,alice"],
            1,
            "error: --names bob,alice: the name `alice` of bob belongs to alice",
        ),
        (&["new", "bob", "--names", "*.bob"], 1, "error: --names *.bob: `*.bob` is for the service `bob`"),
        (&["new", "bob", "--tcp-ports", "22-23,23-24"], 1, "error: --tcp-ports 22-23,23-24: ports of 23-24 are listed"),
        (&["new", "shop"], 1, "error: ID shop: the name `shop` of shop belongs to alice"),
        (&["set", "alice", "--names", "*.blog"], 1, "error: --names *.blog: `*.blog` is for the service `blog`"),
        (&["set", "alice", "--tcp-ports", "+20005-20015"], 1, "error: --tcp-ports +20005-20015: ports of 20005-20015"),
        (&["invite", "bob", "--names", "bob,shop"], 1, "error: --names bob,shop: the name `shop` of "),
        (&["new", "bob", "--names", "Bob"], 2, "contains `B`"),
        (&["new", "bob", "--expires", "2001-01-01T00:00:00Z"], 2, "over already"),
        (&["rotate", "alice", "--overlap", "5"], 2, "--overlap"),
        (&["invite", "--names", "bob"], 2, "<ID>"),
        (&["invite", "--fingerprint", "ab:cd"], 2, "sha256:"),
        (&["invite", "--config", "nowhere.toml"], 78, "nowhere.toml"),
    ] {
        let ended = token(&folder, arguments);
        assert!(ended.code == Some(code) && ended.stderr.contains(says), "{arguments:?}: {ended:?}");
        assert_eq!(file(&folder), before, "{arguments:?}");
    }
    folder.write("clients.toml", "[clients.alice]\ntoken_hash = 'plain'\n");
    for arguments in [&["list"][..], &["new", "bob"], &["rotate", "alice"], &["revoke", "alice"], &["invite"]] {
        assert_fails(&token(&folder, arguments), 78, "clients.alice.token_hash: ");
    }
}

#[test]
fn whoever_has_an_expired_invitation_is_told_since_when_and_others_learn_nothing() {
    let folder = Folder::new();
    let [own, other] = [(); 2].map(|()| InviteCode::generate(None, Some(&"carol".parse().unwrap())).unwrap());
    let digest = own.digest();
    folder.write(
        "clients.toml",
        &format!(
            "[invites.{}]\ncode_hash = '{digest}'\nid = 'carol'\nexpires = 2026-01-01T00:00:00Z\n",
            adit::tenants::entry::invite_key(&digest)
        ),
    );
    let server = Server::start(&folder, "");
    let said = |code: &InviteCode| {
        let mut command = adit();
        command.args(["login", &server.tunnel, "--invite", code.as_secret().expose()]);
        command.args(["--fingerprint", &server.fingerprint]).env("XDG_CONFIG_HOME", folder.path("settings"));
        let ended = run("adit login", command);
        assert_eq!(ended.code, Some(77), "{ended:?}");
        ended.stderr
    };
    assert!(said(&own).contains("(bad_invite): the invitation expired on 2026-01-01T00:00:00Z; ask the operator"));
    let unknown = said(&other);
    assert!(unknown.contains("(bad_invite): the invitation is unknown or was used; ask the operator"), "{unknown}");
}
