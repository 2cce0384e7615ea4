//! A login that is proved once and kept; passwords for visitors.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use adit::agent::options::SavedLogin;
use adit::transport::tls::Trust;
use adit::values::{ClientId, Secret};

use crate::processes::{Ended, adit, run, run_on_a_terminal};
use crate::setup::{Folder, HELLO, Server, python_site, start_agent};
use crate::stand_in::StandIn;
use crate::visitor::visit;

const TOKEN: &str = "adit_secret-of-alice";

/// `adit …`, with what is kept in this folder.
fn here(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = adit();
    command.args(arguments).env("XDG_CONFIG_HOME", folder.path("config"));
    command
}

fn log_in(folder: &Folder, server: &StandIn, more: &[&str]) -> Ended {
    let address = server.address.to_string();
    let arguments = [&["login", &address, "--id", "alice"], more].concat();
    run("adit login", here(folder, &arguments))
}

fn logged_in(folder: &Folder, server: &StandIn) {
    let ended = log_in(folder, server, &["--token", TOKEN, "--fingerprint", &server.fingerprint]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(server.asked(), ("alice".to_owned(), TOKEN.to_owned()));
}

/// Runs a command with this on its standard input.
fn with_input(mut command: Command, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_login_is_kept_for_its_owner_alone_and_says_what_to_type_next() {
    let (folder, server) = (Folder::new(), StandIn::knowing(TOKEN));
    let ended = log_in(&folder, &server, &["--token", TOKEN, "--fingerprint", &server.fingerprint]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(server.hello().services.is_empty(), "it only asks");
    let file = folder.path("config/adit/login.toml");
    let address = server.address.to_string();
    let kept = format!("kept in   {}", file.display());
    for part in [&format!("logged in to {address} as alice"), "alice, blog", &kept, "adit http 3000", "adit logout"] {
        assert!(ended.stdout.contains(part), "{part} in {}", ended.stdout);
    }
    assert!(!format!("{ended:?}").contains(TOKEN), "{ended:?}");
    let mode = |name: &str| fs::metadata(folder.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("config/adit"), mode("config/adit/login.toml")), (0o700, 0o600));
    assert!(fs::read_to_string(&file).unwrap().contains(TOKEN));
}

#[test]
fn what_was_kept_needs_no_flags() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let token = folder.add_client("alice");
    let server = Server::start(&folder, "");
    let login = SavedLogin {
        server: server.tunnel.parse().unwrap(),
        client_id: ClientId::new("alice").unwrap(),
        token: Secret::new(token),
        trust: Trust::Fingerprint(server.fingerprint.parse().unwrap()),
    };
    login.write(&folder.path("config/adit")).unwrap();
    let mut agent = start_agent(here(&folder, &["http", &site.port.to_string()]));
    assert_eq!(visit(&server.url("alice", "/hello.txt"), &[]).body, HELLO);
    agent.signal("TERM");
    assert_eq!(agent.ended().code, Some(0));
    let config = folder.write("agent.toml", &format!("[[services]]\nlocal = {}\n", site.port));
    let checked = run("adit check", here(&folder, &["check", config.to_str().unwrap()]));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let _agent = start_agent(here(&folder, &["agent", "--config", config.to_str().unwrap()]));
    assert_eq!(visit(&server.url("alice", "/hello.txt"), &[]).body, HELLO);
}

#[test]
fn flags_and_environment_win_and_the_token_goes_nowhere_else() {
    let (folder, server, other) = (Folder::new(), StandIn::knowing(TOKEN), StandIn::knowing(TOKEN));
    logged_in(&folder, &server);
    let own = |token: &str| Some(("alice".to_owned(), token.to_owned()));
    let address = other.address.to_string();
    for (arguments, environment, asked) in [
        (vec![], None, own(TOKEN)),
        (vec!["--token", "adit_flag"], Some(("ADIT_TOKEN", "adit_environment")), own("adit_flag")),
        (vec![], Some(("ADIT_TOKEN", "adit_environment")), own("adit_environment")),
        (vec!["--server", &address], None, None),
        (vec!["--id", "bob"], None, None),
        (vec![], Some(("ADIT__SERVERS", address.as_str())), None),
        (vec!["--fingerprint", &other.fingerprint], None, None),
    ] {
        let mut command = here(&folder, &[&["http", "9"], &arguments[..]].concat());
        command.envs(environment);
        let ended = run_on_a_terminal("adit http", &command);
        match asked {
            Some(asked) => {
                // A stand-in gives no tunnels.
                assert_eq!(ended.code, Some(77), "{ended:?}");
                assert_eq!(server.asked(), asked);
            }
            None => {
                assert_eq!(ended.code, Some(78), "{ended:?}");
                assert!(ended.stderr.contains("is used for nothing else"), "{ended:?}");
                assert!(server.nobody_has_asked());
            }
        }
        assert!(other.nobody_has_asked(), "{arguments:?} {environment:?}");
        assert!(!format!("{ended:?}").contains(TOKEN), "{ended:?}");
    }
}

#[test]
fn what_was_kept_can_be_forgotten() {
    let (folder, server) = (Folder::new(), StandIn::knowing(TOKEN));
    logged_in(&folder, &server);
    let ended = run("adit logout", here(&folder, &["logout"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("logged out: removed"), "{ended:?}");
    assert!(!folder.path("config/adit/login.toml").exists());
    let ended = run("adit logout", here(&folder, &["logout"]));
    assert!(ended.code == Some(0) && ended.stdout.contains("nobody was logged in"), "{ended:?}");
    let ended = run("adit http", here(&folder, &["http", "9"]));
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("`adit login HOST:PORT --invite CODE` once"), "{ended:?}");
}

#[test]
fn a_login_that_is_refused_keeps_nothing_and_leaves_what_was_kept() {
    let (folder, server) = (Folder::new(), StandIn::knowing(TOKEN));
    let trust = ["--fingerprint", server.fingerprint.as_str()];
    let wrong = [&["--token", "adit_wrong"], &trust[..]].concat();
    let ended = log_in(&folder, &server, &wrong);
    assert_eq!(ended.code, Some(77), "{ended:?}");
    assert!(ended.stderr.contains("bad_token") && ended.stderr.contains("Look at the token again"), "{ended:?}");
    assert!(!folder.path("config").exists());
    logged_in(&folder, &StandIn::knowing(TOKEN));
    let before = fs::read_to_string(folder.path("config/adit/login.toml")).unwrap();
    assert_eq!(log_in(&folder, &server, &wrong).code, Some(77));
    assert_eq!(fs::read_to_string(folder.path("config/adit/login.toml")).unwrap(), before);
    let pin = format!("sha256:{}", "0".repeat(64));
    let ended = log_in(&folder, &server, &["--token", TOKEN, "--fingerprint", &pin]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("not the pinned one"), "{ended:?}");
    for usage in [&["login", "a.example"][..], &["login"], &["login", "https://a.example", "--id", "alice"]] {
        assert_eq!(run("adit login", here(&folder, usage)).code, Some(2), "{usage:?}");
    }
}

#[test]
fn a_servers_ca_is_kept_with_the_login() {
    let (folder, server) = (Folder::new(), StandIn::knowing(TOKEN));
    let ca = folder.write("theirs.pem", &server.pem);
    let ended = log_in(&folder, &server, &["--token", TOKEN, "--ca", ca.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    server.hello();
    fs::remove_file(ca).unwrap();
    assert_eq!(run_on_a_terminal("adit http", &here(&folder, &["http", "9"])).code, Some(77));
    assert_eq!(server.asked(), ("alice".to_owned(), TOKEN.to_owned()));
}

#[test]
fn a_token_that_is_not_given_is_read() {
    let (folder, server) = (Folder::new(), StandIn::knowing(TOKEN));
    let address = server.address.to_string();
    let arguments = ["login", &address, "--id", "alice", "--fingerprint", &server.fingerprint];
    let ended = with_input(here(&folder, &arguments), &format!("{TOKEN}\nmore\n"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(server.asked().1, TOKEN);
    let mut command = here(&folder, &arguments);
    command.env("ADIT_TOKEN", TOKEN);
    assert_eq!(with_input(command, "").code, Some(0));
    assert_eq!(server.asked().1, TOKEN);
    let ended = with_input(here(&folder, &arguments), "");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no token was given"), "{ended:?}");
}

#[test]
fn a_password_becomes_a_hash_that_a_service_takes() {
    let folder = Folder::new();
    let ended = with_input(here(&folder, &["password"]), "correct horse\r\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let hash = ended.stdout.strip_suffix('\n').unwrap();
    assert!(hash.starts_with("$argon2id$") && !hash.contains('\n'), "{ended:?}");
    assert!(!format!("{ended:?}").contains("horse"), "{ended:?}");
    let config = folder.write(
        "agent.toml",
        &format!(
            "servers = ['a.example']\nclient_id = 'alice'\ntoken = 'x'\n[[services]]\nlocal = 9\n\
             access.basic_auth = {{ ann = '{hash}' }}\n"
        ),
    );
    let checked = run("adit check", here(&folder, &["check", config.to_str().unwrap()]));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let ended = with_input(here(&folder, &["password"]), "\n");
    assert!(ended.code == Some(1) && ended.stderr.contains("no password was given"), "{ended:?}");
}
