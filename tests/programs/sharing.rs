//! Several agents of one client.

use crate::processes::{DEADLINE, Program, run_on_a_terminal};
use crate::setup::{Folder, HELLO, Server, python_site, start_agent};
use crate::visitor::{visit, visit_until};

struct Shared {
    server: Server,
    token: String,
    _folder: Folder,
}

fn shared() -> Shared {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    folder.allow_names("alice", &["alice", "blog"]);
    Shared { server: Server::start(&folder, ""), token, _folder: folder }
}

impl Shared {
    fn agent(&self, port: u16, name: &str) -> Program {
        start_agent(self.command(port, name))
    }

    /// One that ends when another one has its name.
    fn passing_agent(&self, port: u16, name: &str) -> Program {
        let mut command = self.command(port, name);
        command.arg("--exit-when-replaced");
        start_agent(command)
    }

    fn command(&self, port: u16, name: &str) -> std::process::Command {
        let mut command = self.server.http_command("alice", port);
        command.args(["--name", name]).env("ADIT_TOKEN", &self.token);
        command
    }

    fn says(&self, name: &str) -> String {
        visit(&self.server.url(name, "/hello.txt"), &[]).body
    }
}

#[test]
fn two_names_live_side_by_side_and_the_newest_takes_a_name_over() {
    let shared = shared();
    let (first_folder, second_folder) = (Folder::new(), Folder::new());
    let (first, second) = (python_site(&first_folder), python_site(&second_folder));
    second_folder.write("site/hello.txt", "hello from the second\n");

    let alice = shared.passing_agent(first.port, "alice");
    let _blog = shared.agent(second.port, "blog");
    assert_eq!(shared.says("alice"), HELLO);
    assert_eq!(shared.says("blog"), "hello from the second\n");

    let _newest = take_over(&shared, alice, second.port);
    // The one that had to go has not come back, and took nobody along.
    assert_eq!(shared.says("alice"), "hello from the second\n");
    assert_eq!(shared.says("blog"), "hello from the second\n");
}

#[test]
fn agents_do_not_take_turns_throwing_each_other_out() {
    let shared = shared();
    let mut newest = shared.passing_agent(9, "alice");
    for _ in 0..5 {
        newest = take_over(&shared, newest, 9);
    }
    // Its last line may still be on the way.
    shared.server.program.lines("an agent is connected", 6);
    let log = shared.server.program.printed();
    assert_eq!(log.matches("an agent is connected").count(), 6, "{log}");
}

/// Starts another agent with the name `alice`; the one before must go for good.
fn take_over(shared: &Shared, mut before: Program, port: u16) -> Program {
    let newest = shared.passing_agent(port, "alice");
    let replaced = before.ended();
    assert_eq!(replaced.code, Some(77), "{replaced:?}");
    assert!(replaced.stderr.contains("replaced:") && replaced.stderr.contains("--name"), "{replaced:?}");
    newest
}

#[test]
fn the_older_of_two_agents_stands_by_and_says_who_has_the_name() {
    let shared = shared();
    let older = shared.agent(9, "alice");
    let newer = shared.agent(9, "alice");
    older.line("standing by");
    let said = older.line("was started later and has the name");
    assert!(said.contains("alice: adit ") && said.contains("(127.0.0.1)"), "{said}");
    older.line("30 s");
    let told = newer.line("until now ");
    assert!(told.contains("(127.0.0.1) had this name"), "{told}");
    let mut older = older;
    older.signal("TERM");
    assert_eq!(older.ended().code, Some(0));
}

#[test]
fn a_name_that_is_not_the_clients_is_not_allowed() {
    let shared = shared();
    let ended = run_on_a_terminal("adit http", &shared.command(9, "shop"));
    assert_eq!(ended.code, Some(77), "{ended:?}");
    for part in
        ["not_allowed", "`shop`", "alice, blog", "the operator allows it with `adit token set alice --names +shop`"]
    {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn one_of_two_agents_can_leave() {
    let shared = shared();
    let folder = Folder::new();
    let site = python_site(&folder);
    let mut alice = shared.agent(site.port, "alice");
    let _blog = shared.agent(site.port, "blog");
    alice.signal("INT");
    assert_eq!(alice.ended().code, Some(0));
    visit_until("alice is offline", DEADLINE, &shared.server.url("alice", "/"), |answer| answer.status == 503);
    assert_eq!(shared.says("blog"), HELLO);
}
