//! Power cuts and frozen machines: `kill -9` and SIGSTOP, on either side.

use std::time::{Duration, Instant};

use crate::processes::{DEADLINE, until};
use crate::setup::{HELLO, Scene, Server, start_agent};
use crate::visitor::{visit, visit_until};

const BEAT: Duration = Duration::from_secs(1);
const QUICK_BEAT: &str = "tunnel.heartbeat = '1s'\n";

/// Three missed heartbeats, and what a busy machine needs to see them. With the usual heartbeat it would take 30 s.
const NOTICED: Duration = Duration::from_secs(15);

/// The longest wait of an agent between two attempts, in seconds, when its server has just gone.
const LONGEST_WAIT: f64 = 2.0;

#[test]
fn an_agent_tries_again_within_two_seconds_and_is_back() {
    let scene = Scene::with("");
    let connected = Instant::now();
    let Scene { agent, server, site: _site, folder, token: _ } = scene;
    let url = server.url("alice", "/hello.txt");
    assert_eq!(visit(&url, &[]).body, HELLO);
    // What follows holds for sessions that were not lost as soon as they were made.
    until("a second has passed", DEADLINE, || (connected.elapsed() > Duration::from_millis(1100)).then_some(()));
    let Server { program, tunnel, public, .. } = server;
    program.kill();
    // Long enough for the agent's waits to have grown.
    let line = agent.line("still not connected (5 attempts); trying again in");
    let wait: f64 = line.rsplit_once(" in ").unwrap().1.strip_suffix(" s").unwrap().parse().unwrap();
    assert!(wait <= LONGEST_WAIT, "{line}");
    let reasons = agent.lines("not connected:", 2);
    assert!(reasons[0].contains("lost the connection") && reasons[1].contains("refused"), "{reasons:?}");
    let server = Server::start_again(&folder, &tunnel, &public);
    let answer = visit_until("the site is back", DEADLINE, &url, |answer| answer.status == 200);
    assert_eq!(answer.body, HELLO);
    agent.lines("connected to ", 2);
    assert_eq!(server.tunnel, tunnel);
}

#[test]
fn a_killed_agent_is_noticed_and_the_next_one_takes_its_place() {
    let Scene { agent, server, site, token, folder: _folder } = Scene::with(QUICK_BEAT);
    agent.kill();
    goes_offline(&server);
    let mut command = server.http_command("alice", site.port);
    command.env("ADIT_TOKEN", &token);
    let _agent = start_agent(command);
    assert_eq!(visit(&server.url("alice", "/hello.txt"), &[]).body, HELLO);
}

#[test]
fn a_frozen_agent_is_noticed_by_its_heartbeats_and_comes_back() {
    let scene = Scene::with(QUICK_BEAT);
    assert_eq!(visit(&scene.server.url("alice", "/hello.txt"), &[]).body, HELLO);
    scene.agent.signal("STOP");
    goes_offline(&scene.server);
    scene.server.program.line("heartbeats were missed");
    scene.agent.signal("CONT");
    is_back(&scene);
}

#[test]
fn a_frozen_server_is_noticed_by_its_heartbeats_and_found_again() {
    let scene = Scene::with(QUICK_BEAT);
    assert_eq!(visit(&scene.server.url("alice", "/hello.txt"), &[]).body, HELLO);
    let frozen = Instant::now();
    scene.server.program.signal("STOP");
    let why = scene.agent.line("not connected:");
    assert!(why.contains("heartbeats"), "{why}");
    assert!(frozen.elapsed() < NOTICED, "{:?}", frozen.elapsed());
    assert!(frozen.elapsed() > BEAT, "{:?}", frozen.elapsed());
    scene.server.program.signal("CONT");
    is_back(&scene);
}

fn goes_offline(server: &Server) {
    let started = Instant::now();
    let health = server.bare_url("/health?tunnel=alice");
    let answer = visit_until("the lost tunnel is noticed", NOTICED, &health, |answer| answer.status == 503);
    assert_eq!(answer.body, "Tunnel: Disconnected\n");
    let answer = visit(&server.url("alice", "/hello.txt"), &[]);
    assert_eq!((answer.status, answer.error_code()), (503, "tunnel_offline"));
    assert!(started.elapsed() < NOTICED, "{:?}", started.elapsed());
}

fn is_back(scene: &Scene) {
    let url = scene.server.url("alice", "/hello.txt");
    let answer = visit_until("the site is back", DEADLINE, &url, |answer| answer.status == 200);
    assert_eq!(answer.body, HELLO);
}
