//! What visitors get when a site cannot be had.

use serde_json::Value;

use crate::processes::{DEADLINE, Program, tool};
use crate::setup::{Folder, HELLO, Scene, Server};
use crate::visitor::{Answer, visit, visit_until};

/// One line of JSON to programs, a page to browsers, and the same status and code to both.
fn fails_with(url: &str, status: u16, code: &str) -> Answer {
    let line = visit(url, &[]);
    assert_eq!((line.status, line.error_code()), (status, code), "{url}: {line:?}");
    assert_eq!(line.header("Content-Type"), Some("application/json"));
    assert_eq!(line.body.lines().count(), 1, "{}", line.body);
    let json: Value = serde_json::from_str(&line.body).unwrap();
    assert_eq!(json["error"], code);
    assert_eq!(json["request_id"].as_str(), line.header("X-Request-ID"), "{line:?}");

    let page = visit(url, &["--header", "Accept: text/html,application/xhtml+xml,*/*;q=0.8"]);
    assert_eq!((page.status, page.error_code()), (status, code), "{url}: {page:?}");
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    assert!(page.body.starts_with("<!doctype html>"), "{}", page.body);
    assert!(page.body.contains(page.header("X-Request-ID").unwrap()), "{page:?}");
    assert_eq!(page.header("Retry-After"), line.header("Retry-After"));
    line
}

fn health(server: &Server, query: &str) -> (u16, String) {
    let answer = visit(&server.bare_url(&format!("/health{query}")), &[]);
    (answer.status, answer.body)
}

fn connected() -> (u16, String) {
    (200, "Tunnel: Connected\n".to_owned())
}

fn disconnected() -> (u16, String) {
    (503, "Tunnel: Disconnected\n".to_owned())
}

#[test]
fn a_name_that_nobody_has_is_not_found() {
    let scene = Scene::with("");
    for url in [
        scene.server.url("nobody", "/hello.txt"),
        scene.server.bare_url("/nobody/hello.txt"),
        scene.server.url("www.alice", "/"),
        scene.server.url("no_name", "/"),
    ] {
        let answer = fails_with(&url, 404, "unknown_name");
        assert_eq!(answer.header("Retry-After"), None);
    }
    fails_with(&scene.server.bare_url("/"), 404, "not_found");
    assert_eq!(visit(&scene.server.url("alice", "/hello.txt"), &[]).body, HELLO);
}

#[test]
fn a_site_whose_agent_was_stopped_says_try_again() {
    let mut scene = Scene::with("");
    assert_eq!(health(&scene.server, ""), connected());
    assert_eq!(health(&scene.server, "?tunnel=alice"), connected());
    assert_eq!(health(&scene.server, "?tunnel=bob"), disconnected());
    scene.agent.signal("TERM");
    assert_eq!(scene.agent.ended().code, Some(0));
    scene.server.program.line("an agent's lane is down");
    let answer = fails_with(&scene.server.url("alice", "/hello.txt"), 503, "tunnel_offline");
    assert!(answer.header("Retry-After").unwrap().parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    assert_eq!(health(&scene.server, ""), disconnected());
    assert_eq!(health(&scene.server, "?tunnel=alice"), disconnected());
}

#[test]
fn a_site_that_nobody_has_connected_yet_says_try_again() {
    let folder = Folder::new();
    folder.add_client("alice");
    let server = Server::start(&folder, "");
    assert_eq!(health(&server, ""), disconnected());
    fails_with(&server.url("alice", "/hello.txt"), 503, "tunnel_offline");
}

#[test]
fn a_local_application_that_is_not_running_is_a_bad_gateway_until_it_is_back() {
    let scene = Scene::with("");
    let Scene { agent, server, site, folder, token: _ } = scene;
    let url = server.url("alice", "/hello.txt");
    assert_eq!(visit(&url, &[]).status, 200);
    let port = site.port;
    site.program.kill();
    fails_with(&url, 502, "local_unreachable");
    assert_eq!(health(&server, "?tunnel=alice"), connected());
    agent.line("127.0.0.1");

    let mut command = tool("python3");
    command.args(["-u", "-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--directory", &folder.text("site")]);
    let again = Program::start("python3 -m http.server", command);
    again.line(" port ");
    let answer = visit_until("the application answers again", DEADLINE, &url, |answer| answer.status == 200);
    assert_eq!(answer.body, HELLO);
}
