//! What a self-hoster gets wrong at first: each time the agent says what is wrong and what to do.

use std::process::Command;

use crate::processes::{Ended, Program, adit, run, run_on_a_terminal};
use crate::setup::{Folder, Server, serve, unused_address};

/// No site is needed where no login succeeds.
const NOWHERE: u16 = 9;

fn with_token(server: &Server, id: &str, token: &str) -> Command {
    let mut command = server.http_command(id, NOWHERE);
    command.args(["--token", token]);
    command
}

fn with_trust(address: &str, trust: &[&str], token: &str) -> Command {
    let mut command = adit();
    command.args(["http", &NOWHERE.to_string(), "--server", address, "--id", "alice", "--token", token]);
    command.args(trust);
    command
}

/// What an agent says of a problem that may pass. It goes on trying until it is stopped.
fn not_connected(command: Command) -> String {
    let mut agent = Program::start("adit http", command);
    let why = agent.line("not connected:");
    agent.line("trying again in");
    agent.signal("TERM");
    let ended = agent.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.ends_with("stopped\n"), "{ended:?}");
    why
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

fn assert_hides(ended: &Ended, token: &str) {
    assert!(!format!("{ended:?}").contains(token), "the token is in: {ended:?}");
}

#[test]
fn a_wrong_token_and_an_unknown_client_are_refused_in_the_same_words() {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    let wrong = Folder::new().add_client("alice");
    let server = Server::start(&folder, "");
    let of_alice = run_on_a_terminal("adit http", &with_token(&server, "alice", &wrong));
    assert_eq!(of_alice.code, Some(77), "{of_alice:?}");
    assert_says(
        &of_alice.stderr,
        &["refused the login (bad_token)", "ask the operator for a new one", "adit token new"],
    );
    assert_hides(&of_alice, &wrong);
    // Nobody learns from the answer which clients there are.
    let of_nobody = run_on_a_terminal("adit http", &with_token(&server, "mallory", &token));
    let refusal = |ended: &Ended| ended.stderr.lines().last().map(str::to_owned);
    assert_eq!((of_nobody.code, refusal(&of_nobody)), (Some(77), refusal(&of_alice)));
    server.program.line("code=\"bad_token\"");
    let log = server.program.printed();
    assert!(!log.contains(&wrong) && !log.contains(&token), "{log}");
}

#[test]
fn the_servers_log_says_which_of_the_things_it_was_that_the_agent_is_told_in_one_way() {
    let folder = Folder::new();
    let [own, expired, revoked] = ["alice", "zed", "bob"].map(|id| folder.add_client(id));
    let clients = folder.path("clients.toml");
    let text = std::fs::read_to_string(&clients).unwrap();
    let text = text.replace("[clients.zed]\n", "[clients.zed]\nexpires = 2026-01-01T00:00:00Z\n");
    std::fs::write(&clients, &text).unwrap();
    let server = Server::start(&folder, "");
    let mut revoke = adit();
    revoke.args(["token", "revoke", "bob", "--clients", &folder.text("clients.toml")]);
    assert_eq!(run("adit token revoke", revoke).code, Some(0));
    server.program.line("the clients file has changed and counts");
    let answers: Vec<String> = [("zed", &expired), ("nobody", &own), ("alice", &expired), ("bob", &revoked)]
        .map(|(id, token)| run_on_a_terminal("adit http", &with_token(&server, id, token)).stderr)
        .into_iter()
        .map(|said| said.lines().find(|line| line.contains("refused the login")).unwrap_or_default().to_owned())
        .collect();
    assert!(answers.iter().all(|said| *said == answers[0] && said.contains("bad_token")), "{answers:?}");
    for said in [
        "the client `zed` has expired since 2026-01-01T00:00:00Z",
        "there is no client `nobody` in the clients file",
        "a wrong token for `alice`",
        "the client `bob` was revoked at 2",
    ] {
        let line = server.program.line(said);
        assert!(line.contains("refused a login: ") && line.contains("code=\"bad_token\""), "{line}");
    }
    let log = server.program.printed();
    assert!(![own, expired, revoked].iter().any(|token| log.contains(token.as_str())), "{log}");
}

#[test]
fn a_mistyped_token_is_told_from_a_wrong_one() {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    let server = Server::start(&folder, "");
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    let mistyped = format!("{}{last}", &token[..token.len() - 1]);
    let cut = &token[..token.len() - 5];
    for (slip, advice) in [
        (mistyped.as_str(), "the token is mistyped: its checksum does not fit; copy it again"),
        (cut, "a token has 53 characters and this has 48"),
    ] {
        let ended = run_on_a_terminal("adit http", &with_token(&server, "alice", slip));
        assert_eq!(ended.code, Some(77), "{ended:?}");
        assert_says(&ended.stderr, &["bad_token", advice]);
        assert_hides(&ended, slip);
    }
}

#[test]
fn a_wrong_fingerprint_says_which_one_the_server_has() {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    let server = Server::start(&folder, "");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let why = not_connected(with_trust(&server.tunnel, &["--fingerprint", &wrong], &token));
    assert_says(
        &why,
        &["not the pinned one", &server.fingerprint, "take the new fingerprint from its start-up message"],
    );
}

#[test]
fn a_wrong_or_missing_ca_says_what_to_pass() {
    let (folder, other) = (Folder::new(), Folder::new());
    let token = folder.add_client("alice");
    let server = Server::start(&folder, "");
    other.add_client("alice");
    let _other_server = Server::start(&other, "");
    // As after a server was set up anew.
    let why = not_connected(with_trust(&server.tunnel, &["--ca", &other.text("certs/ca.pem")], &token));
    assert_says(&why, &["the server's certificate", "--fingerprint", "--ca with its certs/ca.pem"]);
    let why = not_connected(with_trust(&server.tunnel, &[], &token));
    assert_says(&why, &["the server's certificate", "--fingerprint", "--ca with its certs/ca.pem"]);
    let ended = run("adit http", with_trust(&server.tunnel, &["--ca", &folder.text("nowhere.pem")], &token));
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert_says(&ended.stderr, &["nowhere.pem", "copy `ca.pem` from the server's certs folder"]);
}

#[test]
fn a_certificate_for_another_name_says_where_the_name_belongs() {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    // The other addresses of the loopback network are this machine's, too, and in no certificate.
    let mut command = serve(&folder.write_server_config(""));
    command.args(["--set", "tunnel.listen=0.0.0.0:0"]);
    let server = Server::start_command(command);
    let address = server.tunnel.replace("0.0.0.0", "127.9.9.9");
    let why = not_connected(with_trust(&address, &["--fingerprint", &server.fingerprint], &token));
    assert_says(&why, &["is for another name", "tunnel.tls.names"]);
}

#[test]
fn a_wrong_port_says_which_one_is_right() {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    let server = Server::start(&folder, "");
    let trust = ["--fingerprint", server.fingerprint.as_str()];
    let why = not_connected(with_trust(&server.public, &trust, &token));
    assert_says(&why, &["does not speak TLS on this port", "the tunnel port (8080 by default)"]);
    let closed = unused_address();
    let why = not_connected(with_trust(&closed, &trust, &token));
    assert_says(&why, &[&closed, "nothing listens there", "is the server running", "8080 by default"]);
}

#[test]
fn a_mistake_on_the_command_line_is_named_as_it_is_there() {
    let mut command = adit();
    command.args(["http", "99999", "--server", "127.0.0.1:1", "--id", "alice", "--token", "x", "--allow", "nowhere"]);
    let ended = run("adit http", command);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert_says(&ended.stderr, &["PORT|URL: `99999` is not a port", "--allow: `nowhere` is not a network"]);
    assert!(!ended.stderr.contains("services[0]"), "{ended:?}");
    // Nobody who could type a password is there, and nobody is asked.
    for (flags, says) in [
        (&["--token", ""][..], "--token: holds no token; put in the one that `adit token new` printed\n"),
        (&["--token", "x", "--basic-auth", ""], "--basic-auth: is not the name of a user"),
        (&["--token", "x", "--basic-auth", "ann", "--basic-auth", "ann"], "--basic-auth: `ann` is given twice"),
        (&["--token", "x", "--basic-auth", "ann", "--allow", "nowhere"], "--allow: `nowhere` is not a network"),
    ] {
        let mut command = adit();
        command.args(["http", "3000", "--server", "127.0.0.1:1", "--id", "alice"]).args(flags);
        let ended = run("adit http", command);
        assert!(ended.code != Some(0) && ended.stderr.contains(says), "{flags:?}: {ended:?}");
    }
}

#[test]
fn nobody_is_asked_for_a_token_before_the_server_was_reached() {
    let closed = unused_address();
    let mut command = adit();
    command.args(["login", &closed, "--id", "alice"]);
    let ended = run("adit login", command);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_says(&ended.stderr, &[&closed, "connection refused"]);
}

#[test]
fn plain_http_on_a_tls_port_is_answered_in_plain_http() {
    let folder = Folder::new();
    folder.add_client("alice");
    let server = Server::start(&folder, "public.https = '127.0.0.1:0'\n");
    let line = server.program.line("https://NAME.localhost:");
    let https = line.rsplit_once(':').unwrap().1.trim_end_matches('/').to_owned();
    for (address, advice) in
        [(format!("127.0.0.1:{https}"), "use https://"), (server.tunnel.clone(), "agents connect here")]
    {
        // The answer to a body that nobody reads must not be lost either.
        for more in [&[][..], &["--data", &"x".repeat(30_000)]] {
            let answer = crate::visitor::visit(&format!("http://{address}/"), more);
            assert_eq!((answer.status, answer.error_code()), (400, "tls_required"), "{answer:?}");
            assert!(answer.body.contains("this is a TLS port") && answer.body.contains(advice), "{answer:?}");
        }
    }
}
