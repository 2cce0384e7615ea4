//! Configuration files that change while their agent or server runs.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::processes::{DEADLINE, Program, adit, until};
use crate::setup::{Folder, HELLO, Scene, Server, python_site, start_agent};
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
    agent.line("max_streams: is 0, but must be between");
    agent.line("colour: unknown key");
    assert_eq!(agent.printed().matches("max_streams: is 0").count(), 1, "it is said once");
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
fn a_server_takes_all_of_it_over_on_a_signal_or_nothing() {
    let folder = Folder::new();
    folder.add_client("alice");
    let server = Server::start(&folder, "");
    let hangup = || server.program.signal("HUP");
    folder.write_server_config("limits.streams = 0\ntunnel.tls.cert = 'own.pem'\ntunnel.tls.key = 'own.key'\n");
    hangup();
    server.program.line("nothing was reloaded, and everything stays as it was");
    let line = server.program.line("limits.streams: is 0");
    assert!(line.contains("server.toml: "), "{line}");
    // Of a good configuration the certificates are looked at, too.
    folder.write_server_config("limits.streams = 10\ntunnel.tls.cert = 'own.pem'\ntunnel.tls.key = 'own.key'\n");
    hangup();
    server.program.lines("nothing was reloaded", 2);
    server.program.line("tunnel.tls.cert: there is no file");
    let good = "limits.streams = 10\nlimits.per_ip.burst = 1\nlog.level = 'debug'\npublic.domain = 'x.example'\n";
    folder.write_server_config(good);
    hangup();
    let line = server.program.line("reloaded; changed: ");
    let changed = "changed: limits.streams, limits.per_ip.burst, log.level; waiting for a restart: public.domain";
    assert!(line.ends_with(changed), "{line}");
    hangup();
    server.program.line("reloaded; nothing has changed; waiting for a restart: public.domain");
    // The new limit and the new level count, the new domain does not.
    let asked: Vec<u16> = (0..20).map(|_| visit(&server.url("nobody", "/"), &[]).status).collect();
    assert!(asked.contains(&404) && asked.iter().all(|status| [404, 429].contains(status)), "{asked:?}");
    server.program.line("DEBUG");
    folder.write_server_config(&good.replace("public.domain = 'x.example'\n", ""));
    hangup();
    let line = server.program.lines("reloaded; nothing has changed", 2).remove(1);
    assert!(line.ends_with("nothing has changed"), "{line}");
}

#[test]
fn a_servers_usual_file_that_is_gone_changes_nothing() {
    let folder = Folder::new();
    folder.add_client("alice");
    fs::create_dir(folder.path("config")).unwrap();
    let text = fs::read_to_string(folder.write_server_config("")).unwrap();
    folder.write("config/server.toml", &text.replace("'clients.toml'", "'../clients.toml'"));
    let mut command = adit();
    command.arg("server").current_dir(folder.path(""));
    let server = Server::start_command(command);
    fs::remove_file(folder.path("config/server.toml")).unwrap();
    server.program.signal("HUP");
    server.program.line("nothing was reloaded, and everything stays as it was");
    server.program.line("config/server.toml");
}

/// Says that something is over, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_request_fails_while_a_server_takes_another_configuration_over() {
    let scene = Scene::with("limits.per_ip.requests_per_second = 100000\n");
    let url = scene.server.url("alice", "/hello.txt");
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Two requests on one connection.
                    let answer = visit(&url, &[&url]);
                    assert!(answer.status == 200 && answer.body.starts_with(HELLO), "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 1..=5 {
            let streams = 1000 + round;
            scene.folder.write_server_config(&format!(
                "limits.per_ip.requests_per_second = {}\nlimits.streams = {streams}\ntimeouts.idle = '{streams}s'\n",
                100_000 + round
            ));
            let before = answered.load(Ordering::Relaxed);
            scene.server.program.signal("HUP");
            scene
                .server
                .program
                .lines("reloaded; changed: timeouts.idle, limits.streams, limits.per_ip.requests", round);
            until("some more requests", DEADLINE, || (answered.load(Ordering::Relaxed) > before + 6).then_some(()));
        }
    });
}
