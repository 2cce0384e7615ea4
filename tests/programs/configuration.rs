//! Configuration files, and what a server says that cannot start.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::processes::{Ended, adit, run};
use crate::setup::{Folder, serve};

fn check(file: &Path, token: Option<&str>) -> Ended {
    let mut command = adit();
    command.arg("check").arg(file);
    command.envs(token.map(|token| ("ADIT_TOKEN", token)));
    run("adit check", command)
}

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

const THREE_MISTAKES: &str = "\
    [tunnel]\nheartbeat = '1ms'\n\
    [public]\nrouting = ['subdomain', 'cookie']\n\
    [limits.per_ip]\nrequest_per_second = 10\n";

const THEIR_PLACES: [&str; 3] = ["tunnel.heartbeat: ", "public.routing[1]: ", "limits.per_ip.request_per_second: "];

#[test]
fn check_names_all_mistakes_with_their_places() {
    let folder = Folder::new();
    let file = folder.write("server.toml", THREE_MISTAKES);
    let ended = check(&file, None);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for place in THEIR_PLACES {
        let line = format!("{}: {place}", file.display());
        assert_eq!(ended.stderr.matches(&line).count(), 1, "{place}: {}", ended.stderr);
    }
    assert!(ended.stdout.is_empty(), "{ended:?}");
}

#[test]
fn a_server_does_not_start_with_mistakes() {
    let folder = Folder::new();
    let broken = run("adit server", serve(&folder.write("server.toml", THREE_MISTAKES)));
    assert_eq!(broken.code, Some(78), "{broken:?}");
    assert!(THEIR_PLACES.iter().all(|place| broken.stderr.contains(place)), "{}", broken.stderr);
    let missing = run("adit server", serve(&folder.path("nowhere.toml")));
    assert_eq!(missing.code, Some(78), "{missing:?}");
    assert!(missing.stderr.contains("nowhere.toml"), "{}", missing.stderr);
    folder.write("clients.toml", "[clients.alice]\ntoken_hash = 'plain'\n");
    let clients = run("adit server", serve(&folder.write_server_config("")));
    assert_eq!(clients.code, Some(78), "{clients:?}");
    assert!(clients.stderr.contains("clients.alice.token_hash: "), "{}", clients.stderr);
}

#[test]
fn the_samples_are_right() {
    for (name, token, kind) in [
        ("server.toml", None, "server configuration"),
        ("clients.toml", None, "clients file"),
        ("agent.toml", Some(Folder::new().add_client("alice")), "agent configuration"),
    ] {
        let ended = check(&sample(name), token.as_deref());
        assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
        assert!(ended.stdout.contains("fine:") && ended.stdout.contains(kind), "{name}: {ended:?}");
        assert_eq!(ended.stdout.contains("memory: "), kind.contains("server"), "{name}: {ended:?}");
    }
    let without_token = check(&sample("agent.toml"), None);
    assert_eq!(without_token.code, Some(78), "{without_token:?}");
    assert!(
        without_token.stderr.contains("token: is missing; give --token, ADIT_TOKEN or token_file"),
        "{without_token:?}"
    );
}

#[test]
fn an_agent_without_its_settings_names_all_that_are_missing() {
    let mut command = adit();
    command.args(["http", "3000"]);
    let ended = run("adit http", command);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for flag in ["--server", "--id", "--token"] {
        assert!(ended.stderr.contains(flag), "{flag}: {}", ended.stderr);
    }
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    folder.write("clients.toml", "");
    let config = folder.write_server_config("");
    for setting in ["tunnel.listen", "public.http"] {
        let mut command = serve(&config);
        // The operator sees it in the words of the configuration.
        command.arg("--set").arg(format!("{setting}={taken}"));
        let ended = run("adit server", command);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for part in [setting, &taken, "another program uses this port", "choose another port"] {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_a_mistake_in_the_configuration() {
    let folder = Folder::new();
    folder.write("clients.toml", "");
    let nothing = folder.write("empty.pem", "");
    let with_certificate = |cert: &Path| {
        let mut command = serve(&folder.write_server_config(""));
        for (setting, file) in [("cert", cert), ("key", &nothing)] {
            command.arg("--set").arg(format!("tunnel.tls.{setting}={}", file.display()));
        }
        run("adit server", command)
    };
    for (cert, problem) in
        [(folder.path("nowhere.pem"), "there is no file"), (nothing.clone(), "there is no certificate")]
    {
        let ended = with_certificate(&cert);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains(problem) && ended.stderr.contains(&*cert.to_string_lossy()), "{}", ended.stderr);
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let mut command = adit();
    command.args(["http", "3000", "--sever", "tunnel.example.com"]);
    let ended = run("adit http", command);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--server"), "{}", ended.stderr);
}
