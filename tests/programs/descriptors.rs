//! Processes whose tables of file descriptors are full: the agent's, and the server's.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;

use crate::processes::{DEADLINE, Program, adit, run, tool};
use crate::setup::{Folder, HELLO, Scene, Server, python_app, python_site, start_agent};
use crate::visitor::{curl, visit, visit_until};

/// How many descriptors the agent may have: a dozen are its own.
const FEW: usize = 40;

/// The command with a limit of file descriptors, soft and hard.
fn with_few(command: &Command) -> Command {
    let mut limited = tool("prlimit");
    limited.arg(format!("--nofile={FEW}")).arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    limited
}

/// Sets the soft limit of a running process. With 3, its standard streams are all that fits.
fn limit(program: &Program, most: &str) {
    let mut prlimit = tool("prlimit");
    prlimit.arg(format!("--pid={}", program.id())).arg(format!("--nofile={most}:"));
    assert_eq!(run("prlimit", prlimit).code, Some(0));
}

fn soft_limit(program: &Program) -> String {
    let limits = fs::read_to_string(format!("/proc/{}/limits", program.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
    line.split_whitespace().nth(3).unwrap().to_owned()
}

#[test]
fn an_agent_without_descriptors_answers_503_says_so_once_and_recovers() {
    let mut scene = Scene::of(Folder::new(), python_app("two_parts.py"), "");
    scene.agent.signal("TERM");
    assert_eq!(scene.agent.ended().code, Some(0));
    let mut command = scene.server.http_command("alice", scene.site.port);
    command.env("ADIT_TOKEN", &scene.token);
    let agent = start_agent(with_few(&command));
    let slow = scene.server.url("alice", "/slow");
    // Each that is answered keeps a connection to the application.
    let mut held = Vec::new();
    let refused = loop {
        let mut command = curl(&slow);
        command.args(["--no-buffer", "--include", "--max-time", &DEADLINE.as_secs().to_string()]);
        let visitor = Program::start("curl", command);
        let status = visitor.line("HTTP/1.1 ");
        if !status.contains(" 200 ") {
            break visitor;
        }
        visitor.line("first part");
        held.push(visitor);
        assert!(held.len() < FEW, "no table of {FEW} holds so many");
    };
    assert!(refused.line("HTTP/1.1 ").contains(" 503 "), "{refused:?}");
    refused.line("x-adit-error: tunnel_busy");
    refused.line("retry-after: 1");
    agent.line("no file descriptors left; raise the limit");
    for _ in 0..20 {
        let answer = visit(&slow, &[]);
        assert_eq!((answer.status, answer.error_code()), (503, "tunnel_busy"));
    }
    assert_eq!(agent.printed().matches("no file descriptors left").count(), 1, "{agent:?}");
    // The others have noticed nothing.
    assert_eq!(visit(&format!("http://127.0.0.1:{}/go", scene.site.port), &[]).status, 200);
    for mut visitor in held {
        let ended = visitor.ended();
        assert!(ended.code == Some(0) && ended.stdout.ends_with("first part\nsecond part\n"), "{ended:?}");
    }
    visit_until("the agent has recovered", DEADLINE, &slow, |answer| answer.status == 200);
}

#[test]
fn whatever_kind_of_connection_fails_for_want_of_descriptors_it_is_503() {
    let scene = Scene::with("");
    scene.folder.allow_names("alice", &["alice", "name", "h2c", "tls", "unix", "skip"]);
    let port = scene.site.port;
    let mut text = format!(
        "servers = ['{}']\nclient_id = 'alice'\ntoken = '{}'\nfingerprint = '{}'\n",
        scene.server.tunnel, scene.token, scene.server.fingerprint
    );
    for (name, local) in [
        ("name", format!("localhost:{port}")),
        ("h2c", format!("h2c://127.0.0.1:{port}")),
        ("tls", format!("https://localhost:{port}")),
        ("unix", format!("unix:{}", scene.folder.text("app.sock"))),
        ("skip", format!("127.0.0.1:{port}")),
    ] {
        text.push_str(&format!("[[services]]\nname = '{name}'\nlocal = '{local}'\n"));
    }
    let mut command = adit();
    command.arg("agent").arg("--config").arg(scene.folder.write("agent.toml", &text));
    let agent = start_agent(command);
    let before = soft_limit(&agent);
    limit(&agent, "3");
    for name in ["name", "h2c", "tls", "unix", "skip"] {
        let answer = visit(&scene.server.url(name, "/hello.txt"), &[]);
        assert_eq!((name, answer.status, answer.error_code()), (name, 503, "tunnel_busy"), "{agent:?}");
    }
    limit(&agent, &before);
    for name in ["name", "skip"] {
        assert_eq!(visit(&scene.server.url(name, "/hello.txt"), &[]).body, HELLO);
    }
}

/// Asks for a page on this connection, and gives the first line of the answer.
fn ask(visitor: &mut BufReader<TcpStream>) -> String {
    visitor.get_mut().write_all(b"HEAD /hello.txt HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").unwrap();
    let (mut first, mut line) = (String::new(), String::new());
    visitor.read_line(&mut first).unwrap();
    while line != "\r\n" {
        line.clear();
        assert!(visitor.read_line(&mut line).unwrap() > 0, "no whole answer");
    }
    first
}

fn connect(server: &Server) -> BufReader<TcpStream> {
    let visitor = TcpStream::connect(&server.public).unwrap();
    visitor.set_read_timeout(Some(DEADLINE)).unwrap();
    BufReader::new(visitor)
}

#[test]
fn a_server_without_descriptors_serves_those_it_has_pauses_and_recovers() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let scene = Scene::of(folder, site, "");
    let server = &scene.server;
    let mut kept = connect(server);
    assert!(ask(&mut kept).starts_with("HTTP/1.1 200 "));
    let before = soft_limit(&server.program);
    limit(&server.program, "3");
    let elsewhere = Folder::new();
    elsewhere.add_client("bob");
    let texts = [&scene.folder, &elsewhere].map(|folder| fs::read_to_string(folder.path("clients.toml")).unwrap());
    scene.folder.write("clients.toml", &texts.concat());
    // The system takes the connection; the server cannot.
    let mut waits = connect(server);
    waits.get_mut().write_all(b"HEAD /hello.txt HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").unwrap();
    let lines = server.program.lines("cannot accept a connection; trying again shortly", 3);
    // A line each second, which counts the attempts in between: ten a second.
    for line in &lines[1..] {
        let others: u32 = line.split_once("others=").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
        assert!((1..=30).contains(&others), "{lines:?}");
    }
    assert!(lines[0].contains("Too many open files"), "{lines:?}");
    assert!(ask(&mut kept).starts_with("HTTP/1.1 200 "));
    limit(&server.program, &before);
    let mut first = String::new();
    waits.read_line(&mut first).unwrap();
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    // What could not be read is read again.
    visit_until("the new client is known", DEADLINE, &server.url("bob", "/"), |answer| {
        answer.error_code() == "tunnel_offline"
    });
}
