//! The operator's port, as tools on the same machine use it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::processes::{adit, run};
use crate::setup::{Folder, Server, python_site, start_agent};
use crate::visitor::visit;

#[test]
fn a_server_says_where_its_tools_ask_and_where_their_token_is() {
    let folder = Folder::new();
    folder.add_client("alice");
    let server = Server::start(&folder, "");
    let line = server.program.line("  admin  ");
    let (_, rest) = line.split_once("  admin ").unwrap();
    let (url, file) = rest.trim().split_once(" (token: ").unwrap();
    let file = std::path::Path::new(file.strip_suffix(')').unwrap());
    let token = std::fs::read_to_string(file).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let health = visit(&format!("{url}healthz"), &[]);
    assert!(health.status == 200 && health.body.contains("\"status\":\"ok\""), "{health:?}");
    let clients = format!("{url}api/v1/clients");
    assert_eq!(visit(&clients, &[]).status, 401);
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let added = visit(&clients, &["--header", &bearer, "--json", r#"{"id": "bob"}"#]);
    assert_eq!(added.status, 201, "{added:?}");
    // The log says who has done what, and nothing else of it.
    let line = server.program.line("adit::audit");
    assert!(line.contains("client.add") && line.contains("bob") && line.contains("done"), "{line}");
    assert!(!server.program.printed().contains("adit_"), "{}", server.program.printed());
}

#[test]
fn an_admin_port_that_others_can_reach_is_warned_of() {
    let folder = Folder::new();
    folder.add_client("alice");
    let mut command = adit();
    command.arg("check").arg(folder.write("server.toml", "[admin]\nlisten = '0.0.0.0:9091'\n"));
    let ended = run("adit check", command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("admin.listen is 0.0.0.0:9091") && ended.stderr.contains("plain HTTP"), "{ended:?}");
}

#[test]
fn a_health_check_needs_no_other_program() {
    let folder = Folder::new();
    folder.add_client("alice");
    let mut server = Server::start(&folder, "");
    let line = server.program.line("  admin  ");
    let (_, rest) = line.split_once("http://").unwrap();
    let address = rest.split('/').next().unwrap();
    let health = |settings: &[&str]| {
        let mut command = adit();
        command.arg("health").arg("--config").arg(folder.path("server.toml"));
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        run("adit health", command)
    };
    let admin = format!("admin.listen={address}");
    let ended = health(&[&admin]);
    assert_eq!((ended.code, ended.stdout.trim()), (Some(0), &*format!("fine: http://{address}/readyz answers 200")));
    // Without an admin port the public one is asked; that no agent is connected is no fault of the server.
    let ended = health(&["admin.listen=off", &format!("public.http={}", server.public)]);
    assert!(ended.code == Some(0) && ended.stdout.contains("/health answers 503"), "{ended:?}");
    let ended = health(&["admin.listen=127.0.0.1:0"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("admin.listen has the port 0"), "{ended:?}");
    server.program.signal("TERM");
    assert_eq!(server.program.ended().code, Some(0));
    let ended = health(&[&admin]);
    assert!(ended.code == Some(1) && ended.stderr.contains("the server does not answer at http://"), "{ended:?}");
}

#[test]
fn the_operator_sees_who_is_connected() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let token = folder.add_client("alice");
    folder.add_client("bob");
    let mut server = Server::start(&folder, "");
    let line = server.program.line("  admin  ");
    let (_, rest) = line.split_once("http://").unwrap();
    let address = rest.split('/').next().unwrap().to_owned();
    // From now on the file says where it really is.
    let file = std::fs::read_to_string(folder.path("server.toml")).unwrap();
    folder.write("server.toml", &file.replace("admin.listen = '127.0.0.1:0'", &format!("admin.listen = '{address}'")));
    let status = || {
        let mut command = adit();
        command.arg("status").arg("--config").arg(folder.path("server.toml"));
        run("adit status", command)
    };
    let list = || {
        let mut command = adit();
        command.args(["token", "list", "--clients", &folder.text("clients.toml")]);
        run("adit token list", command).stdout
    };
    assert!(status().stdout.ends_with("No agent is connected.\n"), "{:?}", status());
    let mut command = server.http_command("alice", site.port);
    command.env("ADIT_TOKEN", &token);
    let _agent = start_agent(command);
    let shown = status();
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""), "{shown:?}");
    let of_alice = shown.stdout.lines().last().unwrap();
    assert!(of_alice.starts_with("alice   alice     0     serving  2"), "{}", shown.stdout);
    assert!(shown.stdout.contains("  health        ok\n") && shown.stdout.contains("  tunnels       1\n"), "{shown:?}");
    let listed = list();
    let since: Vec<_> = listed.lines().map(|line| line.split('\t').nth(5).unwrap()).collect();
    assert!(since[0].starts_with('2') && since[1] == "-", "{listed}");
    let clients = std::fs::read_to_string(folder.path("clients.toml")).unwrap();
    folder.write("clients.toml", &format!("{clients}nonsense = 1\n"));
    server.program.line("cannot be used");
    assert!(status().stdout.contains("problem       ") && status().stdout.contains("nonsense"), "{:?}", status());
    folder.write("clients.toml", &clients);

    let kept = std::fs::read_to_string(folder.path("certs/admin-token")).unwrap();
    folder.write("certs/admin-token", "adit_admin_mistyped\n");
    let ended = status();
    assert!(ended.code == Some(1) && ended.stderr.contains("holds no admin token"), "{ended:?}");
    folder.write("certs/admin-token", &kept);
    server.program.signal("TERM");
    server.program.ended();
    let ended = status();
    assert!(ended.code == Some(1) && ended.stderr.contains("is it running?"), "{ended:?}");
    assert!(!format!("{shown:?}{ended:?}").contains(kept.trim()));
    let last: Vec<_> = list().lines().map(|line| line.split('\t').nth(5).unwrap().to_owned()).collect();
    assert_eq!(last, ["?", "?"], "nobody can be asked");
}

/// Somebody else at the address that it gives: passes each connection on to `to`, or answers as a server would that knows no token. Gives
/// what the first connection has brought, when it is over.
fn somebody_else(to: Option<String>) -> (String, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut brought, mut piece) = (Vec::new(), [0; 4096]);
        let mut behind = to.map(|to| TcpStream::connect(to).unwrap());
        loop {
            let read = stream.read(&mut piece).unwrap_or_default();
            if read == 0 {
                return brought;
            }
            brought.extend_from_slice(&piece[..read]);
            let mut answer = Vec::new();
            match &mut behind {
                Some(behind) => {
                    behind.write_all(&piece[..read]).unwrap();
                    let read = behind.read(&mut piece).unwrap();
                    answer.extend_from_slice(&piece[..read]);
                }
                None => {
                    let body = r#"{"status":"ok","version":"1","uptime_s":1,"tunnels":0,"clients":0,"problems":[]}"#;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
                    answer.extend(format!("{head}X-Adit-Proof: {}\r\n\r\n{body}", "0".repeat(64)).bytes());
                }
            }
            stream.write_all(&answer).unwrap();
        }
    };
    (address, thread::spawn(serve))
}

#[test]
fn whoever_holds_the_port_does_not_get_the_token() {
    let folder = Folder::new();
    folder.add_client("alice");
    let server = Server::start(&folder, "");
    let line = server.program.line("  admin  ");
    let (_, rest) = line.split_once("http://").unwrap();
    let real = rest.split('/').next().unwrap().to_owned();
    let file = std::fs::read_to_string(folder.path("server.toml")).unwrap();
    let token = std::fs::read_to_string(folder.path("certs/admin-token")).unwrap();
    let commands: [&[&str]; 2] = [&["status", "--config"], &["token", "list", "--config"]];
    // One that makes an answer up, and one that lets the running server make it.
    for to in [None, Some(&real)] {
        for arguments in commands {
            let (address, thief) = somebody_else(to.cloned());
            let setting = format!("admin.listen = '{address}'");
            folder.write("server.toml", &file.replace("admin.listen = '127.0.0.1:0'", &setting));
            let mut command = adit();
            command.args(arguments).arg(folder.path("server.toml"));
            let ended = run("adit", command);
            let brought = String::from_utf8(thief.join().unwrap()).unwrap();
            assert!(brought.starts_with("GET /healthz ") && brought.contains("x-adit-nonce: "), "{brought}");
            assert!(!brought.contains("adit_admin_") && brought.matches("GET ").count() == 1, "{brought}");
            match arguments[0] {
                "status" => {
                    let says = ["does not prove", "another program", "the token was not sent", &address];
                    assert!(ended.code == Some(1) && says.iter().all(|text| ended.stderr.contains(text)), "{ended:?}");
                    assert!(!ended.stderr.contains(token.trim()), "{ended:?}");
                }
                // Nobody could be asked.
                _ => assert_eq!((ended.code, &*ended.stdout), (Some(0), "alice\talice\t-\tnever\tactive\t?\n")),
            }
        }
    }
}

/// Somebody who answers each of so many connections with this, and ends it.
fn who_says(answer: &'static str, times: usize) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).unwrap();
            assert!(!String::from_utf8_lossy(&piece[..read]).contains("adit_admin_"), "the token was sent");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    };
    (address, thread::spawn(serve))
}

#[test]
fn a_busy_admin_port_is_called_busy_and_not_a_wrong_token() {
    let folder = Folder::new();
    folder.add_client("alice");
    // Its token is there; it is down.
    drop(Server::start(&folder, ""));
    let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 60\r\n\r\n\
                {\"error\":\"port_busy\",\"message\":\"the admin port is busy: 64\"}";
    for (answer, says) in
        [(busy, "the admin port is busy: 64"), ("", "closed the connection 5 times before it answered")]
    {
        let (address, server) = who_says(answer, 5);
        let mut command = adit();
        command.arg("status").arg("--config").arg(folder.path("server.toml"));
        command.arg("--set").arg(format!("admin.listen={address}"));
        let ended = run("adit status", command);
        assert!(ended.code == Some(1) && ended.stderr.contains(says), "{ended:?}");
        assert!(ended.stderr.contains("busy") && !ended.stderr.contains("admin token of"), "{ended:?}");
        server.join().unwrap();
        let (address, server) = who_says(answer, 5);
        let mut command = adit();
        command.arg("health").arg("--config").arg(folder.path("server.toml"));
        command.arg("--set").arg(format!("admin.listen={address}"));
        let ended = run("adit health", command);
        let says = if answer.is_empty() { "it has closed the connection" } else { "its admin port is busy" };
        assert!(ended.code == Some(1) && ended.stderr.contains(says), "{ended:?}");
        server.join().unwrap();
    }
}

#[test]
fn connections_that_rest_do_not_keep_the_operator_out() {
    let folder = Folder::new();
    folder.add_client("alice");
    let server = Server::start(&folder, "");
    let line = server.program.line("  admin  ");
    let address = line.split_once("http://").unwrap().1.split('/').next().unwrap();
    let mut held = Vec::new();
    for at in 0..200 {
        let mut stream = TcpStream::connect(address).unwrap();
        if at % 2 == 0 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        }
        held.push(stream);
    }
    for command in ["status", "health"] {
        let mut asked = adit();
        asked.arg(command).arg("--config").arg(folder.path("server.toml"));
        asked.arg("--set").arg(format!("admin.listen={address}"));
        let ended = run("adit", asked);
        assert!(ended.code == Some(0), "{command}: {ended:?}");
    }
    server.program.line("the admin port is busy");
    drop(held);
}

#[test]
fn a_port_where_nobody_speaks_http_is_said_to_be_somebody_elses() {
    let folder = Folder::new();
    folder.add_client("alice");
    // Its token is there; it is down.
    drop(Server::start(&folder, ""));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
        let mut brought = Vec::new();
        // It may end in whichever way.
        let _ = stream.read_to_end(&mut brought);
        brought
    });
    let mut command = adit();
    command.arg("status").arg("--config").arg(folder.path("server.toml"));
    command.arg("--set").arg(format!("admin.listen={address}"));
    let ended = run("adit status", command);
    assert!(ended.code == Some(1) && ended.stderr.contains("(it speaks no HTTP): it is another program"), "{ended:?}");
    assert!(!String::from_utf8(other.join().unwrap()).unwrap().contains("adit_admin_"), "the token was sent");
}
