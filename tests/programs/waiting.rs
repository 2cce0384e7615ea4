//! Temporary states in which an agent must not exit: it waits, reports that, and reconnects on its own.

use std::fs;
use std::process::Command;

use crate::processes::{DEADLINE, Program, adit, on_a_terminal, run, run_on_a_terminal, until};
use crate::setup::{Folder, HELLO, Server, python_site, serve, start_agent, unused_address};
use crate::visitor::{visit, visit_until};

/// `adit token …` about the clients file of `folder`, which has to succeed; gives what it printed on standard output, and
/// on standard error.
fn token(folder: &Folder, arguments: &[&str]) -> (String, String) {
    let mut command = adit();
    command.arg("token").args(arguments).args(["--clients", &folder.text("clients.toml")]);
    let ended = run("adit token", command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    (ended.stdout.trim_end().to_owned(), ended.stderr)
}

/// `adit agent` with this token file, for an application at this port.
fn agent(folder: &Folder, server: &Server, local: u16) -> Command {
    folder.write(
        "agent.toml",
        &format!(
            "servers = ['{}']\nclient_id = 'alice'\ntoken_file = 'token'\nfingerprint = '{}'\n[[services]]\nlocal = {local}\n",
            server.tunnel, server.fingerprint
        ),
    );
    let mut command = adit();
    command.args(["agent", "--config", &folder.text("agent.toml")]);
    command
}

fn http(server: &Server, id: &str, token: &str, local: u16) -> Command {
    let mut command = server.http_command(id, local);
    command.env("ADIT_TOKEN", token);
    command
}

/// Waits until the agent has been refused, and says what to do and that it goes on.
fn is_refused(agent: &Program, code: &str) {
    let why = agent.line("not connected: ");
    let why = if why.contains("lost the connection") { agent.lines("not connected: ", 2).remove(1) } else { why };
    assert!(why.contains(code) && why.contains("ask the operator"), "{why}");
    agent.line("trying again in");
}

#[test]
fn agents_are_back_when_a_clients_file_was_written_in_two_steps() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let ids = ["alice", "bob", "carol"];
    let tokens = ids.map(|id| folder.add_client(id));
    let server = Server::start(&folder, "");
    let agents: Vec<Program> =
        ids.iter().zip(&tokens).map(|(id, token)| start_agent(http(&server, id, token, site.port))).collect();
    let whole = fs::read_to_string(folder.path("clients.toml")).unwrap();
    let (first, _) = whole.split_once("[clients.bob]").unwrap();
    folder.write("clients.toml", first);
    for agent in &agents[1..] {
        is_refused(agent, "bad_token");
    }
    folder.write("clients.toml", &whole);
    for (id, agent) in ids.iter().zip(&agents) {
        visit_until("the site is back", DEADLINE, &server.url(id, "/hello.txt"), |answer| answer.body == HELLO);
        assert!(agent.printed().contains("connected to "), "{agent:?}");
    }
}

#[test]
fn an_agent_whose_client_expired_is_back_when_it_is_renewed() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let of_alice = folder.add_client("alice");
    let server = Server::start(&folder, "");
    let agent = start_agent(http(&server, "alice", &of_alice, site.port));
    let file = folder.path("clients.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[clients.alice]\n", "[clients.alice]\nexpires = 2026-01-01T00:00:00Z\n")).unwrap();
    is_refused(&agent, "bad_token");
    token(&folder, &["set", "alice", "--expires", "never"]);
    visit_until("the site is back", DEADLINE, &server.url("alice", "/hello.txt"), |answer| answer.body == HELLO);
}

#[test]
fn a_token_file_that_is_written_in_two_steps_or_comes_later_is_waited_for() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let of_alice = folder.add_client("alice");
    let server = Server::start(&folder, "");
    folder.write("token", &of_alice[..20]);
    let mut half = Program::start("the agent", agent(&folder, &server, site.port));
    is_refused(&half, "bad_token");
    folder.write("token", &of_alice);
    half.line("connected to ");
    half.signal("TERM");
    assert_eq!(half.ended().code, Some(0));

    for nothing in [None, Some("")] {
        match nothing {
            Some(nothing) => drop(folder.write("token", nothing)),
            None => fs::remove_file(folder.path("token")).unwrap(),
        }
        let mut without = Program::start("the agent", agent(&folder, &server, site.port));
        let why = without.line("not connected: ");
        assert!(why.contains("token_file: "), "{why}");
        folder.write("token", &of_alice);
        without.line("connected to ");
        without.signal("TERM");
        assert_eq!(without.ended().code, Some(0));
        // A person who waits for the outcome is told at once.
        folder.write("token", "");
        let ended = run_on_a_terminal("the agent", &agent(&folder, &server, site.port));
        assert!(ended.code == Some(78) && ended.stdout.contains("token_file: holds no token"), "{ended:?}");
        folder.write("token", &of_alice);
    }
}

#[test]
fn what_a_command_has_made_can_be_used_at_once() {
    let folder = Folder::new();
    folder.write("clients.toml", "# nobody yet\n");
    let server = Server::start(&folder, "");
    for round in 0..5 {
        let (id, invited) = (format!("new{round}"), format!("guest{round}"));
        let (of_new, said) = token(&folder, &["new", &id]);
        assert!(said.contains("The running server has applied the change."), "{said}");
        // At a terminal an agent does not ask twice.
        let agent = Program::start("the agent", on_a_terminal(&http(&server, &id, &of_new, 9)));
        agent.line("connected to ");
        let (code, said) = token(&folder, &["invite", &invited]);
        assert!(said.contains("The running server has applied the change."), "{said}");
        let mut login = adit();
        login.args(["login", &server.tunnel, "--invite", &code, "--fingerprint", &server.fingerprint]);
        login.env("XDG_CONFIG_HOME", folder.path(&invited));
        let ended = run("adit login", login);
        assert!(ended.code == Some(0) && ended.stdout.contains(&format!("as {invited}")), "round {round}: {ended:?}");
    }
}

#[test]
fn commands_say_what_a_server_has_made_of_the_change() {
    let folder = Folder::new();
    let (_, said) = token(&folder, &["new", "alice"]);
    assert!(said.contains("No running server is known to use this file"), "{said}");
    // By the admin port, and without one.
    let port = unused_address().rsplit_once(':').unwrap().1.to_owned();
    for admin in [format!("127.0.0.1:{port}"), "127.0.0.1:0".to_owned(), "off".to_owned()] {
        let config = folder.write_server_config("");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("admin.listen = '127.0.0.1:0'", &format!("admin.listen = '{admin}'"))).unwrap();
        let mut server = Server::start_command(serve(&config));
        for arguments in [
            &["set", "alice", "--names", "alice,shop"][..],
            &["rotate", "alice"],
            &["new", "bob"],
            &["revoke", "bob"],
            &["invite", "carol"],
        ] {
            let (_, said) = token(&folder, arguments);
            assert!(said.contains("The running server has applied the change."), "{admin} {arguments:?}: {said}");
        }
        let (listed, _) = token(&folder, &["list"]);
        assert!(listed.contains("alice\talice,shop\t"), "{listed}");
        server.program.signal("TERM");
        server.program.ended();
        let (_, said) = token(&folder, &["set", "alice", "--names", "alice"]);
        assert!(said.contains("No server is running: the change applies when the server starts."), "{admin}: {said}");
    }
    let server = Server::start(&folder, "");
    server.program.kill();
    let (_, said) = token(&folder, &["rotate", "alice"]);
    assert!(said.contains("No server is running"), "one that was killed runs no more: {said}");
}

#[test]
fn under_a_service_manager_no_refusal_ends_an_agent() {
    let folder = Folder::new();
    let of_alice = folder.add_client("alice");
    let stale = Folder::new().add_client("alice");
    let server = Server::start(&folder, "");
    for (variable, value) in [("INVOCATION_ID", "0123456789abcdef"), ("NOTIFY_SOCKET", "/nowhere")] {
        for command in [http(&server, "alice", &stale, 9), {
            let mut command = http(&server, "alice", &of_alice, 9);
            command.args(["--name", "shop"]);
            command
        }] {
            let mut command = command;
            command.env(variable, value);
            for command in [on_a_terminal(&command), command] {
                let agent = Program::start("the agent", command);
                agent.line("not connected: ");
                agent.line("trying again in");
            }
        }
    }
    // What the terminal's own program was started with says nothing of those that it starts.
    let mut command = http(&server, "alice", &stale, 9);
    command.envs([("INVOCATION_ID", "0123456789abcdef"), ("SYSTEMD_EXEC_PID", "1")]);
    let ended = run_on_a_terminal("adit http", &command);
    assert_eq!(ended.code, Some(77), "{ended:?}");
}

#[test]
fn a_signal_ends_an_agents_wait() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let of_alice = folder.add_client("alice");
    let server = Server::start(&folder, "");
    let elsewhere = Folder::new().add_client("alice");
    folder.write("token", &elsewhere);
    let mut command = agent(&folder, &server, site.port);
    // With this the log has a line for each attempt.
    command.env("RUST_LOG", "warn");
    let agent = Program::start("the agent", command);
    agent.line("trying again in");
    agent.hears_hangups();
    let attempts = || agent.printed().matches("cannot connect").count();
    // By itself it would ask so often in some ten minutes.
    for _ in 0..10 {
        let before = attempts();
        agent.signal("HUP");
        until("another attempt", DEADLINE, || (attempts() > before).then_some(()));
    }
    folder.write("token", &of_alice);
    agent.line("connected to ");
    assert_eq!(visit(&server.url("alice", "/hello.txt"), &[]).body, HELLO);
}
