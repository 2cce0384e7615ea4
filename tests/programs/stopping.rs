//! SIGTERM in the middle of a request: what is under way is finished, nothing new begins.

use std::net::TcpStream;

use crate::processes::{DEADLINE, Program, on_a_terminal, until};
use crate::setup::{Folder, Scene, python_app, start_agent};
use crate::visitor::{curl, visit, visit_until};

const WHOLE: &str = "first part\nsecond part\n";

/// A visitor who has the first part of an answer.
fn begin(scene: &Scene) -> Program {
    let mut command = curl(&scene.server.url("alice", "/slow"));
    command.args(["--no-buffer", "--max-time", &DEADLINE.as_secs().to_string()]);
    let visitor = Program::start("curl", command);
    visitor.line("first part");
    visitor
}

/// Has the second part sent, past the tunnel.
fn finish(scene: &Scene) {
    assert_eq!(visit(&format!("http://127.0.0.1:{}/go", scene.site.port), &[]).status, 200);
}

fn scene() -> Scene {
    Scene::of(Folder::new(), python_app("two_parts.py"), "")
}

#[test]
fn a_stopping_server_finishes_what_is_under_way() {
    let mut scene = scene();
    let mut visitor = begin(&scene);
    scene.server.program.signal("TERM");
    scene.server.program.line("shutting down");
    // Which it says a moment before nobody gets in any more.
    until("a closed port", DEADLINE, || TcpStream::connect(&scene.server.public).is_err().then_some(()));
    let refused = Program::start("curl", curl(&scene.server.url("alice", "/"))).ended();
    assert_eq!(refused.code, Some(7), "curl should find no connection (7): {refused:?}");
    finish(&scene);
    let visitor = visitor.ended();
    assert_eq!((visitor.code, visitor.stdout.as_str()), (Some(0), WHOLE), "{visitor:?}");
    let server = scene.server.program.ended();
    assert_eq!(server.code, Some(0), "{server:?}");
    assert!(server.stderr.contains("requests_cut=0"), "{server:?}");
    // The agent waits for the server to come back.
    let said = scene.agent.line("not connected:");
    assert!(said.contains(&format!("the server {} is restarting", scene.server.tunnel)), "{said}");
}

#[test]
fn a_stopping_agent_finishes_what_is_under_way() {
    let mut scene = scene();
    let mut visitor = begin(&scene);
    scene.agent.signal("TERM");
    scene.agent.line("finishing 1 request, Ctrl-C again to quit now (30 s at most)");
    let url = scene.server.url("alice", "/slow");
    visit_until("new visitors are told to try again", DEADLINE, &url, |answer| {
        (answer.status, answer.error_code()) == (503, "tunnel_offline")
    });
    finish(&scene);
    let visitor = visitor.ended();
    assert_eq!((visitor.code, visitor.stdout.as_str()), (Some(0), WHOLE), "{visitor:?}");
    let agent = scene.agent.ended();
    assert_eq!(agent.code, Some(0), "{agent:?}");
    assert!(agent.stdout.ends_with("stopped\n"), "{agent:?}");
}

#[test]
fn an_agent_that_leaves_is_not_said_to_break_the_protocol() {
    let mut scene = Scene::with("");
    // More than one, because it depends on what the server hears first.
    for leaves in 1..=5 {
        scene.agent.signal("TERM");
        assert_eq!(scene.agent.ended().code, Some(0));
        let log = scene.server.program.lines("an agent's lane is down", leaves).remove(leaves - 1);
        assert!(!log.contains("broke the protocol"), "{log}");
        let mut command = scene.server.http_command("alice", scene.site.port);
        command.env("ADIT_TOKEN", &scene.token);
        scene.agent = start_agent(command);
    }
}

#[test]
fn an_agent_at_a_terminal_counts_down_and_a_second_signal_ends_it() {
    let mut scene = scene();
    let mut command = scene.server.http_command("alice", scene.site.port);
    command.env("ADIT_TOKEN", &scene.token);
    scene.agent.signal("TERM");
    assert_eq!(scene.agent.ended().code, Some(0));
    scene.agent = start_agent(on_a_terminal(&command));
    let _visitor = begin(&scene);
    scene.agent.signal_on_terminal("INT");
    scene.agent.line("finishing 1 request, Ctrl-C again to quit now");
    scene.agent.signal_on_terminal("INT");
    let ended = scene.agent.ended();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("1 request, 30 s left"), "{ended:?}");
}

#[test]
fn a_server_with_nothing_under_way_stops_at_once() {
    let mut scene = Scene::with("");
    assert_eq!(visit(&scene.server.url("alice", "/hello.txt"), &[]).status, 200);
    scene.server.program.signal("INT");
    let ended = scene.server.program.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("/hello.txt"), "nobody asked for an access log: {ended:?}");
}

#[test]
fn an_answer_that_the_drain_has_to_cut_is_never_shown_as_whole() {
    let mut scene = Scene::of(Folder::new(), python_app("two_parts.py"), "tunnel.drain_timeout = '200ms'\n");
    let mut visitor = begin(&scene);
    scene.server.program.signal("TERM");
    let server = scene.server.program.ended();
    assert_eq!(server.code, Some(0), "{server:?}");
    assert!(server.stderr.contains("requests_cut=1"), "{server:?}");
    let visitor = visitor.ended();
    assert_ne!(visitor.code, Some(0), "{visitor:?}");
}

#[test]
fn a_server_that_is_told_twice_ends_at_once_and_its_log_says_so() {
    let settings = "log.file = 'adit.log'\nlog.access = true\ntunnel.drain_timeout = '10m'\n";
    let mut scene = Scene::of(Folder::new(), python_app("two_parts.py"), settings);
    let _visitor = begin(&scene);
    let log = scene.folder.path("adit.log");
    let said = |what: &str| std::fs::read_to_string(&log).unwrap().contains(what);
    scene.server.program.signal("TERM");
    until("the drain has begun", DEADLINE, || said("shutting down").then_some(()));
    scene.server.program.signal("TERM");
    let server = scene.server.program.ended();
    assert_eq!(server.code, Some(1), "{server:?}");
    assert!(said("told to stop twice"), "{}", std::fs::read_to_string(&log).unwrap());
}
