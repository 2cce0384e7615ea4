//! The operator's port, as tools on the same machine use it.

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
    assert_eq!(list().lines().next().unwrap().split('\t').count(), 5, "as before, if nobody can be asked");
}
