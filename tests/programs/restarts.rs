//! Visitors who keep coming while the server restarts, and what becomes of their requests.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::processes::{DEADLINE, Program, tool, until};
use crate::setup::{Folder, HELLO, Scene, Server, python_app, python_site, serve, start_agent};
use crate::visitor::{curl, visit};

/// How many visitors come at once, and how long each pauses between two requests. Python's server holds five connections
/// until it takes them; further ones would wait for a second.
const VISITORS: usize = 4;
const PACE: Duration = Duration::from_millis(5);

/// How many requests there are before the restart and after it.
const AROUND: usize = 200;

/// The outcomes, each with the number of requests that ended so.
type Outcomes = BTreeMap<String, usize>;

/// Visitors who ask again and again, each time on a connection of its own.
struct Load {
    asked: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Outcomes>>,
    visitors: Vec<JoinHandle<()>>,
    longest: Arc<Mutex<Duration>>,
}

impl Load {
    fn start(public: &str) -> Self {
        let (asked, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (outcomes, longest) = (Arc::<Mutex<Outcomes>>::default(), Arc::<Mutex<Duration>>::default());
        let visitors = (0..VISITORS).map(|_| {
            let (asked, is_over, outcomes, longest) =
                (Arc::clone(&asked), Arc::clone(&is_over), Arc::clone(&outcomes), Arc::clone(&longest));
            let public = public.to_owned();
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let outcome = ask(&public);
                    *outcomes.lock().unwrap().entry(outcome).or_default() += 1;
                    let mut longest = longest.lock().unwrap();
                    *longest = longest.max(began.elapsed());
                    drop(longest);
                    asked.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PACE);
                }
            })
        });
        let visitors = visitors.collect();
        Self { asked, is_over, outcomes, visitors, longest }
    }

    /// Waits for so many more requests.
    fn more(&self, count: usize) {
        let before = self.asked.load(Ordering::Relaxed);
        until("more requests", DEADLINE, || (self.asked.load(Ordering::Relaxed) >= before + count).then_some(()));
    }

    /// Ends the visits, and gives what has become of all of them.
    fn end(self, what: &str) -> Outcomes {
        self.is_over.store(true, Ordering::Relaxed);
        self.visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
        let outcomes = self.outcomes.lock().unwrap().clone();
        println!("{what}: {outcomes:?}, the longest took {:?}", self.longest.lock().unwrap());
        outcomes
    }
}

/// Asks once; how that ended, in a few words.
fn ask(public: &str) -> String {
    let answer = TcpStream::connect(public).and_then(|mut visitor| {
        visitor.set_read_timeout(Some(DEADLINE))?;
        visitor.write_all(b"GET /hello.txt HTTP/1.1\r\nHost: alice.localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        visitor.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return format!("{:?}", error.kind()),
    };
    let code = answer.lines().find_map(|line| line.strip_prefix("x-adit-error: "));
    match (answer.split(' ').nth(1), code) {
        (Some("200"), _) if answer.ends_with(HELLO) => "200".to_owned(),
        (Some(status), code) => format!("{status} {}", code.unwrap_or("not whole")),
        (None, _) => "closed without an answer".to_owned(),
    }
}

/// `adit server` under a service manager that keeps its ports.
fn managed(config: &Path) -> Command {
    let mut command = tool("python3");
    command.arg("-u").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/apps/manager.py"));
    command.arg(env!("CARGO_BIN_EXE_adit")).arg(config).env("NO_COLOR", "1").env_remove("RUST_LOG");
    command
}

fn failed(outcomes: &Outcomes) -> usize {
    outcomes.iter().filter(|(outcome, _)| *outcome != "200").map(|(_, count)| count).sum()
}

#[test]
fn visitors_of_inherited_sockets_notice_no_restart_of_the_server() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let token = folder.add_client("alice");
    let server = Server::start_command(managed(&folder.write_server_config("")));
    let mut command = server.http_command("alice", site.port);
    command.env("ADIT_TOKEN", &token);
    let agent = start_agent(command);
    for (restarts, signal) in [(1, "TERM"), (2, "KILL")] {
        let load = Load::start(&server.public);
        load.more(AROUND);
        let id = server.program.lines("started ", restarts).pop().unwrap();
        let script = ["-c", "kill -s \"$0\" \"$1\"", signal, id.strip_prefix("started ").unwrap()];
        assert!(Command::new("sh").args(script).status().unwrap().success());
        agent.lines("connected to ", restarts + 1);
        load.more(AROUND);
        let outcomes = load.end(signal);
        if signal == "TERM" {
            assert_eq!(failed(&outcomes), 0, "{outcomes:?} {:?}", server.program);
        } else {
            assert!(failed(&outcomes) <= VISITORS, "only what was open: {outcomes:?}");
            assert!(!outcomes.keys().any(|outcome| outcome.starts_with("503")), "{outcomes:?}");
        }
    }
}

#[test]
fn a_successor_on_the_same_ports_is_reached_when_its_agent_is_back_and_no_answer_is_cut() {
    for signal in ["KILL", "TERM"] {
        let scene = Scene::with("");
        let load = Load::start(&scene.server.public);
        load.more(AROUND);
        scene.server.program.signal(signal);
        let _successor = succeed(&scene);
        scene.agent.lines("connected to ", 2);
        load.more(AROUND);
        let outcomes = load.end(signal);
        // Not before the agent is back, which takes it a moment.
        let away = ["503 tunnel_offline", "ConnectionRefused"].iter().filter_map(|outcome| outcomes.get(*outcome));
        let (away, failed) = (away.sum::<usize>(), failed(&outcomes));
        // What was open at that moment, of each visitor.
        let most = if signal == "KILL" { VISITORS * 2 } else { VISITORS };
        assert!(
            failed - away <= most && (signal == "KILL" || !outcomes.contains_key("200 not whole")),
            "{signal}: {outcomes:?}"
        );
    }
}

/// Starts the server once more on the ports that another one still has, as often as that takes.
fn succeed(scene: &Scene) -> Program {
    until("a successor", DEADLINE, || {
        let mut command = serve(&scene.folder.path("server.toml"));
        command.arg("--set").arg(format!("tunnel.listen={}", scene.server.tunnel));
        command.arg("--set").arg(format!("public.http={}", scene.server.public));
        let program = Program::start("the successor", command);
        program.line_or_end("agents dial").then_some(program)
    })
}

#[test]
fn a_successor_has_its_agent_while_the_server_before_it_still_finishes_a_request() {
    let mut scene = Scene::of(Folder::new(), python_app("two_parts.py"), "");
    let mut command = curl(&scene.server.url("alice", "/slow"));
    command.args(["--no-buffer", "--max-time", &DEADLINE.as_secs().to_string()]);
    let mut visitor = Program::start("curl", command);
    visitor.line("first part");
    scene.server.program.signal("TERM");
    until("a closed port", DEADLINE, || TcpStream::connect(&scene.server.public).is_err().then_some(()));
    let successor = Server::start_again(&scene.folder, &scene.server.tunnel, &scene.server.public);
    scene.agent.lines("connected to ", 2);
    // By the successor, what the other waits for.
    assert_eq!(visit(&successor.url("alice", "/go"), &[]).status, 200);
    let visitor = visitor.ended();
    assert_eq!((visitor.code, visitor.stdout.as_str()), (Some(0), "first part\nsecond part\n"), "{visitor:?}");
    let server = scene.server.program.ended();
    assert!(server.code == Some(0) && server.stderr.contains("requests_cut=0"), "{server:?}");
}
