//! A configuration file that changes while its agent runs.

use std::fs;

use crate::processes::{DEADLINE, Program, adit, until};
use crate::setup::{Folder, HELLO, Server, python_site, start_agent};
use crate::visitor::visit;

struct Home {
    folder: Folder,
    server: Server,
    site: crate::setup::Application,
}

impl Home {
    fn new() -> Self {
        let folder = Folder::new();
        let site = python_site(&folder);
        let token = folder.add_client("alice");
        folder.allow_names("alice", &["alice", "blog"]);
        let server = Server::start(&folder, "");
        folder.write("token", &token);
        Self { folder, server, site }
    }

    /// What `agent.toml` says with these services, and these lines before them.
    fn text(&self, head: &str, names: &[&str]) -> String {
        let service = |name: &&str| format!("[[services]]\nname = '{name}'\nlocal = {}\n", self.site.port);
        let services: String = names.iter().map(service).collect();
        format!(
            "servers = ['{}']\nclient_id = 'alice'\ntoken_file = 'token'\nca = 'certs/ca.pem'\n{head}\n{services}",
            self.server.tunnel
        )
    }

    fn write(&self, head: &str, names: &[&str]) {
        self.folder.write("agent.toml", &self.text(head, names));
    }

    fn start(&self) -> Program {
        let mut command = adit();
        command.arg("agent").arg("--config").arg(self.folder.path("agent.toml"));
        start_agent(command)
    }

    fn is_served(&self, name: &str) -> bool {
        visit(&self.server.url(name, "/hello.txt"), &[]).body == HELLO
    }
}

#[test]
fn services_come_and_go_with_the_file() {
    let home = Home::new();
    home.write("", &["alice"]);
    let mut agent = home.start();
    home.write("", &["alice", "blog"]);
    agent.line(&home.server.url("blog", "/"));
    assert!(home.is_served("blog") && home.is_served("alice"));
    // As editors do it: a new file in the old one's place.
    let new = home.folder.write("agent.toml.new", &home.text("", &["blog"]));
    fs::rename(new, home.folder.path("agent.toml")).unwrap();
    until("a name that is not offered any more", DEADLINE, || (!home.is_served("alice")).then_some(()));
    assert!(home.is_served("blog"));
    agent.signal("TERM");
    assert_eq!(agent.ended().code, Some(0));
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing_and_says_why() {
    let home = Home::new();
    home.write("", &["alice"]);
    let agent = home.start();
    home.write("max_streams = 0\ncolour = 'blue'", &["alice", "blog"]);
    agent.line("not changed: the configuration cannot be used");
    agent.lines("max_streams: is 0, but must be between", 2);
    agent.lines("colour: unknown key", 2);
    assert!(home.is_served("alice"));
    home.write("", &["alice", "blog"]);
    agent.line(&home.server.url("blog", "/"));
    assert!(home.is_served("blog"));
}

#[test]
fn a_change_that_the_server_refuses_is_shown_and_can_be_mended() {
    let home = Home::new();
    home.write("", &["alice"]);
    let agent = home.start();
    home.write("", &["alice", "bob"]);
    let why = agent.line("not changed: the server refused");
    assert!(why.contains("may not claim the name `bob`"), "{why}");
    agent.line("ask the operator to allow it");
    assert!(home.is_served("alice"));
    home.write("", &["alice", "blog"]);
    agent.line(&home.server.url("blog", "/"));
}

#[test]
fn what_needs_a_restart_is_named_and_a_signal_has_the_file_read() {
    let home = Home::new();
    home.write("", &["alice"]);
    let agent = home.start();
    home.write("max_streams = 7", &["alice"]);
    let line = agent.line("restart needed for changes of");
    assert!(line.ends_with(": max_streams"), "{line}");
    agent.signal("HUP");
    agent.line("SIGHUP: reading");
    agent.lines("its services are the same", 2);
    // The token has a file of its own.
    let token = fs::read_to_string(home.folder.path("token")).unwrap();
    home.folder.write("token", &format!("{token}\n"));
    agent.lines("its services are the same", 3);
    home.folder.write("agent.toml", &home.text("", &["alice"]).replace("client_id = 'alice'", "client_id = 'bob'"));
    agent.line("an agent cannot become another client: restart it");
    assert!(home.is_served("alice"));
}

#[test]
fn a_servers_file_is_read_again_on_a_signal_and_what_waits_for_a_restart_is_named() {
    let folder = Folder::new();
    folder.add_client("alice");
    let server = Server::start(&folder, "");
    folder.write_server_config("limits.streams = 0\n");
    server.program.signal("HUP");
    server.program.line("the server's configuration cannot be used; what it said before still counts");
    server.program.line("limits.streams: is 0");
    folder.write_server_config("limits.streams = 10\nlog.level = 'debug'\n");
    server.program.signal("HUP");
    server.program.line("what is logged has changed");
    let line = server.program.line("count from the next start on");
    assert!(line.contains("changes of limits count"), "{line}");
    assert_eq!(visit(&format!("http://{}/health", server.public), &[]).status, 503);
}
