//! What is written to the log, and where.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::processes::{DEADLINE, until};
use crate::setup::{Folder, HELLO, Scene, Server, start_agent};
use crate::visitor::visit;

/// The URL of the server's operator, and the field that lets one in.
fn operator(server: &Server) -> (String, String) {
    let line = server.program.line("  admin  ");
    let (url, file) = line.split_once("  admin ").unwrap().1.trim().split_once(" (token: ").unwrap();
    let token = std::fs::read_to_string(file.strip_suffix(')').unwrap()).unwrap();
    (url.to_owned(), format!("Authorization: Bearer {}", token.trim()))
}

/// The lines of the access log in a file, once there are so many.
fn requests(file: &Path, count: usize) -> Vec<Value> {
    until("the lines of the access log", DEADLINE, || {
        let text = std::fs::read_to_string(file).ok()?;
        // The last line may be half there.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines.filter(|line: &Value| line["target"] == "adit::access").collect();
        (lines.len() == count).then_some(lines)
    })
}

#[test]
fn each_request_has_its_line_in_the_file_also_one_that_was_refused() {
    let scene = Scene::with("log.file = 'adit.log'\nlog.format = 'json'\nlog.access = true\n");
    let server = &scene.server;
    let file = scene.folder.path("adit.log");
    assert_eq!(visit(&server.url("alice", "/hello.txt?secret=1"), &[]).body, HELLO);
    // Each was on a connection of its own, and the line comes after the answer: in their order only if each is awaited.
    requests(&file, 1);
    let refused = visit(&server.url("nobody", "/x?secret=1"), &[]);
    requests(&file, 2);
    let own = visit(&server.bare_url("/health?tunnel=alice"), &[]);
    assert_eq!((refused.status, own.status), (404, 200));
    let lines = requests(&file, 3);
    let of = |at: usize, field: &str| lines[at][field].clone();
    assert_eq!((of(0, "client"), of(0, "name"), of(0, "method")), ("alice".into(), "alice".into(), "GET".into()));
    assert_eq!((of(0, "path"), of(0, "status"), of(0, "outcome")), ("/hello.txt".into(), 200.into(), "ok".into()));
    assert_eq!(
        (of(0, "bytes"), of(0, "received"), of(0, "visitor")),
        (HELLO.len().into(), 0.into(), "127.0.0.1".into())
    );
    assert!(of(0, "wait_ms").is_u64() && of(0, "ms").is_u64(), "{lines:?}");
    assert!(of(0, "local_ms").as_u64() <= of(0, "wait_ms").as_u64() && of(0, "local_ms").is_u64(), "{lines:?}");
    assert_eq!((of(1, "client"), of(1, "path"), of(1, "status")), ("".into(), "/x".into(), 404.into()));
    assert_eq!((of(1, "outcome"), of(1, "wait_ms")), ("unknown_name".into(), Value::Null));
    assert_eq!((of(1, "bytes"), of(1, "local_ms")), (refused.body.len().into(), Value::Null));
    let (_, port) = server.public.split_once(':').unwrap();
    assert_eq!(of(1, "host"), format!("nobody.localhost:{port}").as_str(), "nothing else says what was asked for");
    assert_eq!((of(0, "host"), of(2, "host")), (Value::Null, server.public.as_str().into()));
    assert_eq!((of(2, "path"), of(2, "outcome")), ("/health".into(), "own".into()));
    assert_eq!(of(2, "bytes"), own.body.len());
    let ids: std::collections::HashSet<String> = lines.iter().map(|line| line["request"].to_string()).collect();
    assert_eq!(ids.len(), 3, "{lines:?}");
    let said = std::fs::read_to_string(file).unwrap();
    assert!(!said.contains("secret") && !server.program.printed().contains("adit::access"));
}

/// A connection to the public port on which `text` was said.
fn said(server: &Server, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(&server.public).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(text.as_bytes()).unwrap();
    socket
}

#[test]
fn a_head_that_cannot_be_read_has_its_line_too() {
    let scene = Scene::with("log.file = 'adit.log'\nlog.format = 'json'\nlog.access = true\n");
    let mut answer = String::new();
    said(&scene.server, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n").read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let line = &requests(&scene.folder.path("adit.log"), 1)[0];
    let of = |field: &str| line[field].clone();
    assert_eq!((of("status"), of("outcome"), of("visitor")), (400.into(), "bad_request".into(), "127.0.0.1".into()));
    assert!(answer.contains(&format!("x-request-id: {}\r\n", of("request").as_str().unwrap())), "{answer} {line}");
}

#[test]
fn a_limit_that_refuses_requests_is_named_once() {
    let limits = "limits.per_ip.requests_per_second = 1\nlimits.per_ip.burst = 1\n";
    let scene = Scene::with(&format!("log.file = 'adit.log'\n{limits}"));
    // All at once: what comes later only waits.
    let head = "GET / HTTP/1.1\r\nHost: nobody.localhost\r\nConnection: close\r\n\r\n";
    let asked: Vec<TcpStream> = (0..20).map(|_| said(&scene.server, head)).collect();
    let refused = asked.into_iter().filter(|mut socket| {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 429 ")
    });
    assert!(refused.count() > 10);
    let log = std::fs::read_to_string(scene.folder.path("adit.log")).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("a limit refuses requests")).collect();
    assert!(lines.len() == 1 && lines[0].contains("limits.per_ip.requests_per_second"), "{log}");
}

#[test]
fn a_connection_that_was_refused_has_its_line_too() {
    let scene = Scene::with("log.file = 'adit.log'\nlog.format = 'json'\nlog.access = true\n");
    let clients = scene.folder.path("clients.toml");
    let text = std::fs::read_to_string(&clients).unwrap();
    // In one step: a server that reads half of it sends alice away.
    let text = text.replace("[clients.alice]\n", "[clients.alice]\ntcp_ports = ['22000-22999']\n");
    std::fs::rename(scene.folder.write("clients.toml.new", &text), &clients).unwrap();
    until("the log to say so", DEADLINE, || {
        std::fs::read_to_string(scene.folder.path("adit.log"))
            .ok()
            .filter(|text| text.contains("has changed and counts"))
    });
    let agent = scene.folder.write(
        "agent.toml",
        &format!(
            "servers = ['{}']\nclient_id = 'alice'\ntoken = '{}'\nfingerprint = '{}'\n[[services]]\nname = 'alice'\n\
             kind = 'tcp'\nlocal = '127.0.0.1:{}'\naccess.deny = ['127.0.0.0/8']\n",
            scene.server.tunnel, scene.token, scene.server.fingerprint, scene.site.port
        ),
    );
    let mut command = crate::processes::adit();
    command.arg("agent").arg("--config").arg(agent);
    let agent = crate::processes::Program::start("the agent", command);
    let line = agent.line("  ->  ");
    let at = line.split_whitespace().find_map(|word| word.strip_prefix("tcp://")).unwrap_or_else(|| panic!("{line}"));
    let (_, port) = at.rsplit_once(':').unwrap();
    let _ = std::net::TcpStream::connect(("127.0.0.1", port.trim_end_matches('/').parse().unwrap()));
    let lines = requests(&scene.folder.path("adit.log"), 1);
    assert_eq!(
        (&lines[0]["client"], &lines[0]["method"], &lines[0]["status"]),
        (&"alice".into(), &"tcp".into(), &0.into())
    );
    assert_eq!((&lines[0]["outcome"], &lines[0]["path"]), (&"forbidden".into(), &"".into()));
}

#[test]
fn the_log_changes_while_the_server_runs() {
    let scene = Scene::with("log.file = 'adit.log'\nlog.format = 'json'\nlog.query = true\n");
    let (admin, bearer) = operator(&scene.server);
    let (url, file) = (format!("{admin}api/v1/log"), scene.folder.path("adit.log"));
    let change = |body: &str| {
        // Whether a request has its line is decided at its very end, which is after its answer.
        until("the end of all requests", DEADLINE, || {
            visit(&format!("{admin}metrics"), &[]).body.contains("\nadit_streams 0.0\n").then_some(())
        });
        visit(&url, &["--header", &bearer, "--request", "PUT", "--json", body])
    };
    assert_eq!(visit(&url, &["--header", &bearer]).body.trim(), r#"{"level":"info","access":false}"#);
    let page = scene.server.url("alice", "/hello.txt?all=1");
    assert_eq!(visit(&page, &[]).status, 200);
    assert_eq!(change(r#"{"access": true, "level": "debug"}"#).body.trim(), r#"{"level":"debug","access":true}"#);
    assert_eq!(visit(&page, &[]).status, 200);
    assert_eq!(requests(&file, 1)[0]["path"], "/hello.txt?all=1");
    // What is said at this level alone.
    assert_eq!(visit(&scene.server.url("nobody", "/"), &[]).status, 404);
    until("a line of the new level", DEADLINE, || std::fs::read_to_string(&file).ok()?.find("a request failed"));
    let wrong = change(r#"{"level": "loud"}"#);
    assert!(wrong.status == 422 && wrong.body.contains("is not a log level"), "{wrong:?}");
    assert_eq!(change(r#"{"access": false}"#).body.trim(), r#"{"level":"debug","access":false}"#);
    assert_eq!(visit(&page, &[]).status, 200);
    assert_eq!(change(r#"{"level": "info", "access": true}"#).status, 200);
    assert_eq!(visit(&page, &[]).status, 200);
    // The first, the one that was refused, and the last: none while it was off.
    assert_eq!(requests(&file, 3).len(), 3);
    let audited = std::fs::read_to_string(&file).unwrap();
    assert_eq!(audited.matches("log.change").count(), 4, "{audited}");
}

#[test]
fn an_agent_writes_to_a_file_too_and_a_folder_that_is_not_there_is_named() {
    let folder = Folder::new();
    folder.add_client("alice");
    let config = folder.write_server_config("log.file = 'nowhere/adit.log'\n");
    let ended = crate::processes::run("adit server", crate::setup::serve(&config));
    assert!(ended.code == Some(1) && ended.stderr.contains("log.file"), "{ended:?}");

    let scene = Scene::with("");
    let agent = scene.folder.write(
        "agent.toml",
        &format!(
            "servers = ['{}']\nclient_id = 'alice'\ntoken = '{}'\nfingerprint = '{}'\nlog.file = 'agent.log'\n\
             log.level = 'debug'\n[[services]]\nname = 'alice'\nlocal = {}\n",
            scene.server.tunnel, scene.token, scene.server.fingerprint, scene.site.port
        ),
    );
    let mut command = crate::processes::adit();
    command.arg("agent").arg("--config").arg(agent);
    let agent = start_agent(command);
    until("a line in the file", DEADLINE, || {
        std::fs::read_to_string(scene.folder.path("agent.log")).ok().filter(|text| text.contains("adit::"))
    });
    assert!(!agent.printed().contains("DEBUG"), "{}", agent.printed());
}

/// A metric of the server, as its page has it.
fn metric(server: &Server, name: &str) -> u64 {
    let (admin, _) = operator(server);
    let page = visit(&format!("{admin}metrics"), &[]).body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {page}"));
    line.trim().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn lines_that_a_full_disk_does_not_take_are_counted_and_the_server_is_not_well() {
    let folder = Folder::new();
    folder.add_client("alice");
    // By a link of the test's own: should it be renamed after all, the machine keeps its device.
    std::os::unix::fs::symlink("/dev/full", folder.path("adit.log")).unwrap();
    let server = Server::start(&folder, "log.file = 'adit.log'\nlog.access = true\n");
    for _ in 0..20 {
        assert_eq!(visit(&server.url("nobody", "/"), &[]).status, 404);
    }
    until("the lines are counted", DEADLINE, || (metric(&server, "adit_log_lines_lost_total") >= 20).then_some(()));
    let (admin, _) = operator(&server);
    let health = visit(&format!("{admin}healthz"), &[]);
    let health: Value = serde_json::from_str(&health.body).unwrap();
    let problem = health["problems"][0].as_str().unwrap_or_default();
    assert!(health["status"] == "degraded" && problem.contains("adit.log cannot be written"), "{health}");
    let warnings = server.program.printed().matches("WARNING").count();
    assert_eq!(warnings, 1, "{:?}", server.program);
}

#[test]
fn a_file_that_cannot_make_room_is_complained_of_once_and_no_line_is_lost() {
    let folder = Folder::new();
    folder.add_client("alice");
    std::fs::create_dir_all(folder.path("adit.log.1/not empty")).unwrap();
    let settings =
        "log.file = 'adit.log'\nlog.file_size = 1024\nlog.files = 1\nlog.format = 'json'\nlog.access = true\n";
    let server = Server::start(&folder, settings);
    let (admin, _) = operator(&server);
    for _ in 0..40 {
        assert_eq!(visit(&server.url("nobody", "/"), &[]).status, 404);
    }
    assert_eq!(requests(&folder.path("adit.log"), 40).len(), 40);
    // Should this take longer than a minute, it is tried once more.
    let warnings = server.program.printed().matches("WARNING").count();
    assert!((1..=2).contains(&warnings), "{:?}", server.program);
    let health = visit(&format!("{admin}healthz"), &[]).body;
    assert!(health.contains("degraded") && health.contains("no other can be begun"), "{health}");
    assert_eq!(metric(&server, "adit_log_lines_lost_total"), 0);
}

#[test]
fn a_flood_of_connections_does_not_flood_the_log() {
    let folder = Folder::new();
    folder.add_client("alice");
    let server = Server::start(&folder, "limits.connections = 1\n");
    let began = Instant::now();
    let held = TcpStream::connect(&server.public).unwrap();
    for _ in 0..300 {
        drop(TcpStream::connect(&server.public).unwrap());
    }
    let hits = || metric(&server, "adit_limit_hits_total{limit=\"connections\"}");
    until("all of them are turned away", DEADLINE, || (hits() >= 300).then_some(()));
    drop(held);
    let mut server = server;
    server.program.signal("TERM");
    let lines = server.program.ended().stderr.matches("closed a connection").count();
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=2 + seconds).contains(&lines), "{lines} lines in {seconds} s");
}

/// A frame of HTTP/2 on the connection (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
}

#[test]
fn what_libraries_say_of_a_strangers_frames_is_not_in_the_log() {
    const PING: u8 = 6;
    let folder = Folder::new();
    folder.add_client("alice");
    let mut server = Server::start(&folder, "");
    let mut stranger = TcpStream::connect(&server.public).unwrap();
    stranger.set_read_timeout(Some(DEADLINE)).unwrap();
    // Answers to questions that nobody has asked, and a question of its own, whose answer comes after them.
    let mut said = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, &[])].concat();
    (0..100).for_each(|n| said.extend(frame(PING, 1, &[n; 8])));
    said.extend(frame(PING, 0, b"question"));
    stranger.write_all(&said).unwrap();
    let (answer, mut heard) = (frame(PING, 1, b"question"), Vec::new());
    while !heard.windows(answer.len()).any(|part| part == answer) {
        let mut buffer = [0; 1024];
        let n = stranger.read(&mut buffer).unwrap();
        assert!(n > 0, "the connection was closed: {heard:?}");
        heard.extend_from_slice(&buffer[..n]);
    }
    drop(stranger);
    server.program.signal("TERM");
    let ended = server.program.ended();
    assert!(ended.stderr.contains("shut down") && !ended.stderr.to_lowercase().contains("ping"), "{ended:?}");
}

#[test]
fn a_log_that_another_program_moves_or_deletes_goes_on_in_a_new_file() {
    let scene = Scene::with("log.file = 'adit.log'\nlog.format = 'json'\nlog.access = true\n");
    let (log, moved) = (scene.folder.path("adit.log"), scene.folder.path("adit.log-1"));
    let lines_of = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    let ask = || assert_eq!(visit(&scene.server.url("alice", "/hello.txt"), &[]).status, 200);
    ask();
    requests(&log, 1);
    std::fs::rename(&log, &moved).unwrap();
    let before = lines_of(&moved);
    ask();
    requests(&log, 1);
    std::fs::remove_file(&log).unwrap();
    ask();
    requests(&log, 1);
    // logrotate makes the next file itself if it is told to (`create`).
    std::fs::rename(&log, scene.folder.path("adit.log-2")).unwrap();
    std::fs::File::create(&log).unwrap();
    ask();
    requests(&log, 1);
    assert_eq!(lines_of(&moved), before, "nothing more was written to a file that was put away");
    // What a `postrotate` script sends.
    std::fs::rename(&log, scene.folder.path("adit.log-3")).unwrap();
    scene.server.program.signal("HUP");
    until("the reload in the new file", DEADLINE, || {
        std::fs::read_to_string(&log).ok().filter(|text| text.contains("reloaded; "))
    });
}

#[test]
fn a_proxy_that_is_not_trusted_is_named_once() {
    let scene = Scene::with("log.file = 'adit.log'\n");
    let url = scene.server.url("alice", "/hello.txt");
    for n in 0..120 {
        let of_another = format!("X-Forwarded-For: 192.0.2.{n}");
        assert_eq!(visit(&url, &["--interface", "127.0.0.7", "--header", &of_another]).status, 200);
    }
    let log = until("the hint", DEADLINE, || {
        std::fs::read_to_string(scene.folder.path("adit.log"))
            .ok()
            .filter(|text| text.contains("public.trusted_proxies"))
    });
    let hints: Vec<&str> = log.lines().filter(|line| line.contains("public.trusted_proxies")).collect();
    assert!(hints.len() == 1 && hints[0].contains("peer=127.0.0.7"), "{hints:?}");
}
