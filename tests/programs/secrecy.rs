//! Nothing secret in what the programs print, however much they are asked to print.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use adit::agent::options::AgentOptions;
use adit::schema::{Environment, Flags};
use adit::server::options::ServerOptions;

use crate::processes::{Program, run_on_a_terminal};
use crate::setup::{Folder, HELLO, Server, python_site, serve, start_agent};
use crate::visitor::visit;

const VISITORS_SECRETS: [&str; 4] = ["query-secret", "bearer-secret", "cookie-secret", "body-secret"];

#[test]
fn the_log_at_level_debug_holds_no_secrets() {
    nothing_secret_is_printed("debug", &[]);
}

#[test]
fn the_log_of_everything_holds_no_secrets() {
    // Of the libraries, too.
    nothing_secret_is_printed("trace", &[("RUST_LOG", "trace")]);
}

fn nothing_secret_is_printed(level: &str, environment: &[(&str, &str)]) {
    let folder = Folder::new();
    let site = python_site(&folder);
    let token = folder.add_client("alice");
    folder.add_client("bob");
    let config = folder.write_server_config(&format!("log.level = '{level}'\nlog.access = true\n"));
    let mut command = serve(&config);
    command.envs(environment.iter().copied());
    let server = Server::start_command(command);

    let mut refused = server.http_command("bob", site.port);
    refused.args(["-vv", "--token", &token]).envs(environment.iter().copied());
    let refused = run_on_a_terminal("adit http", &refused);
    assert_eq!(refused.code, Some(77), "{refused:?}");

    let mut command = server.http_command("alice", site.port);
    command.args(["-vv", "--token", &token]).envs(environment.iter().copied());
    let mut agent = start_agent(command);
    let url = server.url("alice", "/hello.txt?password=query-secret");
    let headers = ["--header", "Authorization: Bearer bearer-secret", "--header", "Cookie: session=cookie-secret"];
    assert_eq!(visit(&url, &headers).body, HELLO);
    let with_body = [&headers[..], &["--data", "body-secret"]].concat();
    assert_eq!(visit(&url, &with_body).status, 501, "python's web server knows no POST");

    let unknown = visit(&server.url("nobody", "/hello.txt?password=query-secret"), &headers);
    assert_eq!(unknown.status, 404);

    // Nobody on the machine reads it off the processes either: the agent was started with it, to be sure that it is found.
    assert!(server.program.told_by_the_system().iter().all(|text| token_in(text).is_none()));
    assert!(agent.told_by_the_system().iter().any(|text| token_in(text).is_some()));
    let quiet = agent_by_environment(&server, &token, site.port);
    let [command, environment] = quiet.told_by_the_system();
    assert!(token_in(&command).is_none() && token_in(&environment).is_some(), "its owner alone can read the second");

    // The access log's line comes when the answer has been sent.
    server.program.lines("path=\"/hello.txt\"", 2);
    agent.signal("TERM");
    let agent = agent.ended();
    let printed = format!("{}\n{refused:?}\n{agent:?}", server.program.printed());
    assert!(printed.contains("DEBUG"), "{printed}");
    if let Some(found) = VISITORS_SECRETS.iter().find(|secret| printed.contains(*secret)) {
        panic!("`{found}` was printed:\n{printed}");
    }
    if let Some(found) = token_in(&printed) {
        panic!("`{found}` was printed:\n{printed}");
    }
}

/// As `docs/security.md` says to do it.
fn agent_by_environment(server: &Server, token: &str, port: u16) -> Program {
    let mut command = server.http_command("alice", port);
    command.env("ADIT_TOKEN", token);
    start_agent(command)
}

#[test]
fn what_holds_secrets_is_its_owners_alone() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let token = folder.add_client("alice");
    let server = Server::start(&folder, "");
    let mut agent = server.http_command("alice", site.port);
    agent.args(["--token", &token]);
    let _agent = start_agent(agent);
    let mut found = Vec::new();
    for file in files_in(&folder.path("")) {
        let bytes = fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(token_in(&text).is_none_or(|_| file.ends_with("admin-token")), "a token in {}", file.display());
        let is_secret = ["PRIVATE KEY", "token_hash", "$argon2"].iter().any(|word| text.contains(word))
            || file.ends_with("admin-token")
            || file.ends_with("ticket.key");
        if is_secret {
            let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.display());
            found.push(file);
        }
    }
    assert!(found.len() >= 5, "clients, two keys, tickets and the admin token: {found:?}");
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

#[test]
fn configurations_print_without_their_secrets() {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    let agent = format!(
        "servers = ['127.0.0.1:1']\nclient_id = 'alice'\ntoken = '{token}'\n[[services]]\nlocal = 3000\n\
         [services.access]\nheader = {{ name = 'X-Key', value = 'header-secret' }}\n\
         webhook = {{ scheme = 'github', secret = 'webhook-secret' }}\n"
    );
    let agent =
        AgentOptions::from_text(&folder.path("agent.toml"), &agent, &Environment::default(), &Flags::new()).unwrap();
    let clients = adit::tenants::file_store::load_clients(&folder.path("clients.toml")).unwrap();
    let config = folder.write_server_config("");
    let server = ServerOptions::load_with(Some(&config), &Environment::default(), &Flags::new()).unwrap();
    let printed = format!("{agent:?} {clients:?} {server:?} {agent:#?}");
    assert!(printed.contains("alice") && printed.contains("***"), "{printed}");
    for secret in [token.as_str(), "header-secret", "webhook-secret", "$argon2"] {
        assert!(!printed.contains(secret), "`{secret}` was printed:\n{printed}");
    }
}

/// Anything that looks like a token, whole or in part.
fn token_in(text: &str) -> Option<&str> {
    text.match_indices("adit_").map(|(at, prefix)| &text[at + prefix.len()..]).find_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap_or(rest.len());
        (end >= 20).then_some(&rest[..end])
    })
}

#[test]
fn a_token_would_be_found() {
    let token = Folder::new().add_client("alice");
    assert_eq!(token_in(&format!("x=\"{token}\"")), token.strip_prefix("adit_"));
    assert_eq!(token_in("adit_http adit_ adit_this_is_no_token"), None);
}
