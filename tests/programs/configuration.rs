//! Configuration files, and what a server says that cannot start.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::processes::{Ended, Program, adit, run, tool};
use crate::setup::{Folder, Server, serve, start_agent};

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
fn an_agent_that_is_not_logged_in_says_how_to_log_in() {
    let mut command = adit();
    command.args(["http", "3000"]);
    let ended = run("adit http", command);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.starts_with("error: not logged in; run `adit login HOST:PORT --invite CODE`"), "{ended:?}");
    let mut command = adit();
    command.args(["http", "3000", "--server", "a.example"]);
    let ended = run("adit http", command);
    for missing in ["client_id: is missing; give --id", "token: is missing; give --token"] {
        assert!(ended.stderr.contains(missing), "{missing}: {}", ended.stderr);
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
fn files_are_read_as_editors_and_shells_write_them() {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    // Notepad's byte order mark, and the quotes of a variable's file.
    let clients = std::fs::read_to_string(folder.path("clients.toml")).unwrap();
    folder.write("clients.toml", &format!("\u{feff}{clients}"));
    let server = Server::start(&folder, "");
    let config = format!(
        "\u{feff}servers = ['{}']\nclient_id = 'alice'\ntoken_file = 'token'\nfingerprint = '{}'\n[[services]]\nlocal = 1\n",
        server.tunnel, server.fingerprint
    );
    let file = folder.write("agent.toml", &config);
    folder.write("token", &format!("\u{feff}\"{token}\"\r\n"));
    let fine = check(&file, None);
    assert_eq!(fine.code, Some(0), "{fine:?}");
    assert!(fine.stderr.contains("token has a byte order mark and quotes around the token"), "{}", fine.stderr);
    let mut command = adit();
    command.args(["agent", "--config"]).arg(&file);
    drop(start_agent(command));
    let mut command = server.http_command("alice", 1);
    command.env("ADIT_TOKEN", format!("\"{token}\""));
    drop(start_agent(command));
    // The next client goes into the same file.
    folder.add_client("bob");
    for (text, says) in [(format!("{token}\n{token}\n"), "has white space or a line end inside"), (token.clone(), "")] {
        folder.write("token", &text);
        let ended = check(&file, None);
        assert_eq!(
            (ended.code, ended.stderr.contains(says)),
            (Some(if says.is_empty() { 0 } else { 78 }), true),
            "{ended:?}"
        );
        assert!(!ended.stderr.contains(&token) && !ended.stderr.contains("warning:"), "{ended:?}");
    }
}

/// The key paths that a check names, in their order.
fn keys(ended: &Ended, file: &Path) -> Vec<String> {
    let start = format!("{}: ", file.display());
    let lines = ended.stderr.lines().filter_map(|line| line.strip_prefix(&start));
    lines.map(|line| line.split(": ").next().unwrap().to_owned()).collect()
}

#[test]
fn check_names_what_a_start_would_stumble_over_and_makes_nothing() {
    let folder = Folder::new();
    folder.add_client("alice");
    let before = std::fs::read_dir(folder.path(".")).unwrap().count() + 1;
    let own = "[[public.certificates]]\ncert = 'c.pem'\nkey = 'k.pem'\n";
    let file = folder.write_server_config(&format!("public.https = '127.0.0.1:0'\nlog.file = 'logs/adit.log'\n{own}"));
    let ended = check(&file, None);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert_eq!(keys(&ended, &file), ["public.certificates[0].cert", "public.certificates[0].key", "log.file"]);
    assert_eq!(std::fs::read_dir(folder.path(".")).unwrap().count(), before, "something was made");
    // With a mistake elsewhere in the file they are named all the same.
    let mistake = std::fs::read_to_string(&file).unwrap().replace("log.file", "limits.streams = 0\nlog.file");
    folder.write("server.toml", &mistake);
    assert_eq!(keys(&check(&file, None), &file).len(), 4);
    // Junk is no key, and no server starts with it.
    let pair = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    folder.write("c.pem", &params.self_signed(&pair).unwrap().pem());
    folder.write("k.pem", "junk");
    let file = folder.write_server_config(&format!("public.https = '127.0.0.1:0'\n{own}"));
    assert_eq!(keys(&check(&file, None), &file), ["public.certificates[0].key"]);
    assert_eq!(run("adit server", serve(&file)).code, Some(78));
    folder.write("k.pem", &pair.serialize_pem());
    let fine = check(&file, None);
    assert_eq!(fine.code, Some(0), "{fine:?}");
}

#[test]
fn check_looks_at_what_the_server_has_made_for_itself() {
    let folder = Folder::new();
    folder.add_client("alice");
    let file = folder.write_server_config("");
    assert_eq!(check(&file, None).code, Some(0), "what is made at the start need not be there");
    assert!(!folder.path("certs").exists());
    std::fs::create_dir(folder.path("certs")).unwrap();
    for (name, key) in
        [("ca.pem", "tunnel.tls.dir"), ("ticket.key", "tunnel.tls.dir"), ("admin-token", "admin.token_file")]
    {
        let junk = folder.write(&format!("certs/{name}"), "junk");
        let ended = check(&file, None);
        assert_eq!((ended.code, keys(&ended, &file)), (Some(78), vec![key.to_owned()]), "{name}: {ended:?}");
        std::fs::remove_file(junk).unwrap();
    }
}

#[test]
fn check_reads_the_clients_file_as_the_server_does() {
    let folder = Folder::new();
    let file = folder.write_server_config("");
    let refused = |what: &str| {
        let ended = check(&file, None);
        assert_eq!((ended.code, keys(&ended, &file)), (Some(78), vec!["clients".to_owned()]), "{ended:?}");
        assert!(ended.stderr.contains(what), "{ended:?}");
        assert_eq!(run("adit server", serve(&file)).code, Some(78));
    };
    // At the first start the server makes one.
    assert_eq!(check(&file, None).code, Some(0));
    let mut server = Program::start("adit server", serve(&file));
    server.line("fingerprint");
    server.signal("TERM");
    assert_eq!(server.ended().code, Some(0));
    std::fs::remove_file(folder.path("clients.toml")).unwrap();
    refused("make one with `adit token new");
    // It looks like a hash, and is none.
    folder.write("clients.toml", "[clients.alice]\ntoken_hash = '$argon2id$x'\n");
    refused("clients.alice.token_hash");
}

#[test]
fn check_looks_at_the_files_that_an_agent_trusts() {
    let folder = Folder::new();
    folder.write("empty.pem", "");
    let agent = "servers = ['a.example']\nclient_id = 'alice'\nca = 'nowhere.pem'\nlog.file = 'nowhere/adit.log'\n\
                 [[services]]\nlocal = 1\n[[services]]\nname = 'web'\nlocal = 'https://localhost:1'\nca = 'empty.pem'\n";
    let file = folder.write("agent.toml", agent);
    let ended = check(&file, Some("t"));
    assert_eq!(
        (ended.code, keys(&ended, &file)),
        (Some(78), ["ca", "services[1].ca", "log.file"].map(String::from).into())
    );
}

#[cfg(unix)]
#[test]
fn check_says_so_if_it_is_the_users_permission() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let folder = Folder::new();
    folder.add_client("alice");
    folder.write("c.pem", "");
    let mode = |name: &str, mode| {
        std::fs::set_permissions(folder.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let file = folder.write_server_config("tunnel.tls.cert = 'c.pem'\ntunnel.tls.key = 'c.pem'\n");
    for (name, bits) in [(".", 0o755), ("server.toml", 0o644), ("clients.toml", 0o644), ("c.pem", 0)] {
        mode(name, bits);
    }
    // Root may read everything; and nobody else need get at where the program is built.
    let is_root = std::fs::read(folder.path("c.pem")).is_ok();
    std::fs::copy(env!("CARGO_BIN_EXE_adit"), folder.path("adit")).unwrap();
    let mut command = tool(&folder.text("adit"));
    command.arg("check").arg(&file).env("NO_COLOR", "1");
    if is_root {
        command.uid(65_534).gid(65_534);
    }
    let ended = run("adit check", command);
    assert_eq!(
        (ended.code, keys(&ended, &file)),
        (Some(78), ["tunnel.tls.cert", "tunnel.tls.key", "tunnel.tls.dir"].map(String::from).into())
    );
    assert_eq!(ended.stderr.matches("the user who runs this check may not").count(), 3, "{ended:?}");
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let mut command = adit();
    command.args(["http", "3000", "--sever", "tunnel.example.com"]);
    let ended = run("adit http", command);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--server"), "{}", ended.stderr);
}
