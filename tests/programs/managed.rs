//! The program under a service manager: what it tells it, and the sockets it takes over.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use crate::processes::{DEADLINE, Program, adit, tool};
use crate::setup::{Folder, Scene, serve};
use crate::visitor::visit;

/// Where a service manager listens (sd_notify(3)).
struct Manager(UnixDatagram);

impl Manager {
    fn new(folder: &Folder) -> Self {
        let socket = UnixDatagram::bind(folder.path("notify")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    /// Waits until it is told this; signs of life in between are passed over.
    fn is_told(&self, expected: &str) {
        let mut buffer = [0; 256];
        loop {
            let length = self.0.recv(&mut buffer).unwrap_or_else(|error| panic!("not told {expected}: {error}"));
            let told = std::str::from_utf8(&buffer[..length]).unwrap();
            if told.lines().any(|line| line == expected) {
                return;
            }
            assert!(told.trim() == "WATCHDOG=1", "told {told:?} before {expected}");
        }
    }
}

/// The agent of a scene as a file.
fn agent_file(scene: &Scene) -> PathBuf {
    let text = format!(
        "servers = ['{}']\nclient_id = 'alice'\ntoken = '{}'\nfingerprint = '{}'\n[[services]]\nlocal = {}\n",
        scene.server.tunnel, scene.token, scene.server.fingerprint, scene.site.port
    );
    scene.folder.write("agent.toml", &text)
}

#[test]
fn a_service_manager_is_told_how_the_server_is() {
    let folder = Folder::new();
    folder.add_client("alice");
    let manager = Manager::new(&folder);
    let mut command = serve(&folder.write_server_config(""));
    command.env("NOTIFY_SOCKET", folder.path("notify")).env("WATCHDOG_USEC", "200000");
    let mut server = Program::start("adit server", command);
    manager.is_told("READY=1");
    manager.is_told("WATCHDOG=1");
    server.signal("HUP");
    manager.is_told("RELOADING=1");
    manager.is_told("READY=1");
    manager.is_told("WATCHDOG=1");
    server.signal("TERM");
    manager.is_told("STOPPING=1");
    manager.is_told("EXTEND_TIMEOUT_USEC=30000000");
    assert_eq!(server.ended().code, Some(0));
}

#[test]
fn a_service_manager_is_told_how_the_agent_is() {
    let scene = Scene::with("");
    let manager = Manager::new(&scene.folder);
    let mut command = adit();
    command.arg("agent").arg("--config").arg(agent_file(&scene));
    command.env("NOTIFY_SOCKET", scene.folder.path("notify")).env("WATCHDOG_USEC", "200000");
    let mut agent = Program::start("adit agent", command);
    manager.is_told("READY=1");
    agent.line("  ->  ");
    agent.signal("HUP");
    manager.is_told("RELOADING=1");
    manager.is_told("READY=1");
    manager.is_told("WATCHDOG=1");
    agent.signal("TERM");
    manager.is_told("STOPPING=1");
    manager.is_told("EXTEND_TIMEOUT_USEC=30000000");
    assert_eq!(agent.ended().code, Some(0));
}

#[test]
fn whoever_is_told_that_the_server_runs_may_send_it_a_signal() {
    let folder = Folder::new();
    folder.add_client("alice");
    // It cannot print a word until the test reads.
    let (mut reader, mut stdout) = UnixStream::pair().unwrap();
    stdout.set_nonblocking(true).unwrap();
    while stdout.write(&[b'.'; 1024]).is_ok() {}
    stdout.set_nonblocking(false).unwrap();
    let server = Program::start_to(OwnedFd::from(stdout), "adit server", serve(&folder.write_server_config("")));
    server.hears_hangups();
    server.signal("HUP");
    let mut printed = BufReader::new(&mut reader).lines();
    assert!(printed.any(|line| line.unwrap().contains("adit server")));
    server.line("SIGHUP: reading");
    server.line("reloaded; ");
}

#[test]
fn whoever_is_told_that_the_agent_runs_may_send_it_a_signal() {
    let scene = Scene::with("");
    let manager = Manager::new(&scene.folder);
    // It cannot be told a word until the test listens.
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"WATCHDOG=1", scene.folder.path("notify")).is_ok() {}
    let mut command = adit();
    command.arg("agent").arg("--config").arg(agent_file(&scene)).env("NOTIFY_SOCKET", scene.folder.path("notify"));
    let agent = Program::start("adit agent", command);
    agent.hears_hangups();
    agent.signal("HUP");
    manager.is_told("READY=1");
    agent.line("SIGHUP: reading");
    manager.is_told("RELOADING=1");
    manager.is_told("READY=1");
}

#[test]
fn a_socket_that_is_there_already_is_taken_over() {
    let folder = Folder::new();
    folder.add_client("alice");
    let config = folder.write_server_config("");
    let mut command = tool("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/apps/activate.py"));
    command.arg(env!("CARGO_BIN_EXE_adit")).arg(&config).env("NO_COLOR", "1");
    let server = Program::start("adit server", command);
    let port = server.line("port ");
    let port = port.strip_prefix("port ").unwrap();
    let url = format!("http://127.0.0.1:{port}/health");
    // It listens since before there was a server: nobody is refused, however early.
    let answer = visit(&url, &[]);
    assert!(answer.status == 503 && answer.body.starts_with("Tunnel: Disconnected"), "{answer:?}");
    assert!(server.line("  visitors").ends_with(&format!(":{port}/")));
}
