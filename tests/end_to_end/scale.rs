//! Many clients, all of them connected, while the operator changes things. How many is scaled to the machine, or what
//! `ADIT_SCALE` says (`make scale`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use adit::protocol::login::{Hello, ServiceKind, ServiceOffer};
use adit::tenants::file_store::load_clients;
use adit::values::{ClientId, Name};
use futures_util::stream::{self, StreamExt};
use http::StatusCode;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::harness::puppet::{hello, log_in};
use crate::harness::visitor::{self, Visitor};
use crate::harness::{FILES, TestAgent, TestServer, apps, clients, replace_file, spawn, token_hash, until};

/// Logins at once: a server takes 32 of one address.
const AT_ONCE: usize = 24;

/// Clients whose agents are idle: each takes two sockets here, one of each side.
fn size() -> usize {
    let room = usize::try_from(*FILES).unwrap_or(usize::MAX).saturating_sub(1_000) / 2;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = std::env::var("ADIT_SCALE").map_or(250 * cores, |text| text.parse().unwrap());
    if wanted > room {
        println!("{wanted} agents are wanted; the limit of open files leaves room for {room}");
    }
    wanted.min(room)
}

fn id(at: usize) -> String {
    format!("client-{at}")
}

/// The clients of all tests, and `count` more, from the `from`th on.
fn many(from: usize, count: usize, lines: &str) -> String {
    let hash = token_hash("alice");
    let more = (from..from + count).map(|at| {
        let id = id(at);
        format!("\n[clients.{id}]\ntoken_hash = \"{hash}\"\nnames = [\"{id}\", \"{id}-blog\"]\n{lines}\n")
    });
    clients() + &more.collect::<String>()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_clients_file_costs_nobody_else_a_request() {
    let count = size();
    let dir = Arc::new(TempDir::new().unwrap());
    let file = dir.path().join("clients.toml");
    std::fs::write(&file, many(0, count, "")).unwrap();
    let began = Instant::now();
    let listed = load_clients(&file).unwrap();
    println!("{} clients were read in {:?}", listed.clients.len(), began.elapsed());
    let settings = [("tunnel.heartbeat", "5m"), ("tunnel.max_tunnels", "100000")];
    let server = TestServer::start_in(Arc::clone(&dir), &settings);
    server.clients.replace(listed);

    let asked = [("alice", apps::fixed("alice").await), ("bob", apps::fixed("bob").await)];
    let mut agents = Vec::new();
    for (client, local) in asked {
        agents.push(TestAgent::connect(&server, client, &[(client, local)]).await);
    }
    let began = Instant::now();
    let idle = connect(&server, count).await;
    println!("{count} idle agents were logged in within {:?}", began.elapsed());
    let all = |expected: usize| server.registry.len() == expected;
    until("all agents", &server.registry, || all(count + 2)).await;

    let stop = CancellationToken::new();
    let answered = Arc::new(AtomicU64::new(0));
    let visitors: Vec<_> = ["alice", "bob", "alice", "bob"].map(|name| ask(&server, name, &stop, &answered)).into();

    // New clients come, all the others stay; then some are revoked; then everybody's limits change.
    let revoked = count / 10;
    let edits = [
        ("newcomers", many(0, count + 100, ""), count + 2),
        ("revoked", many(revoked, count + 100 - revoked, ""), count + 2 - revoked),
        ("limits", many(revoked, count + 100 - revoked, "limits = { streams = 7 }"), count + 2 - revoked),
    ];
    for (what, text, expected) in edits {
        let (mut changes, before) = (server.clients.changes(), answered.load(Ordering::Relaxed));
        let began = Instant::now();
        replace_file(&file, &text);
        crate::harness::soon(what, changes.changed()).await.unwrap();
        until(what, &server.registry, || all(expected)).await;
        println!("{what}: taken over within {:?}, debounce included", began.elapsed());
        // Visitors have asked since, and were answered.
        while answered.load(Ordering::Relaxed) < before + 100 {
            tokio::task::yield_now().await;
        }
    }
    let last = server.registry.by_name(&Name::new(&id(count - 1)).unwrap()).unwrap();
    let limited = async {
        while last.tunnel.usage().allowance().streams != Some(7) {
            tokio::task::yield_now().await;
        }
    };
    crate::harness::soon("the limits of the last client", limited).await;
    stop.cancel();
    for visitor in visitors {
        visitor.await.expect("a visitor has lost a request");
    }
    println!("{} requests meanwhile, none lost", answered.load(Ordering::Relaxed));
    drop((idle, agents));
}

/// Logs in an idle agent of each client, and keeps them.
async fn connect(server: &TestServer, count: usize) -> Vec<impl Sized> {
    let log_in = |at: usize| async move {
        let client = ClientId::new(&id(at)).unwrap();
        let services = vec![ServiceOffer::new(client.clone().into(), ServiceKind::Http)];
        let hello = Hello { client_id: client, services, ..hello("alice", &[]) };
        log_in(server, &hello).await.unwrap()
    };
    stream::iter(0..count).map(log_in).buffer_unordered(AT_ONCE).collect().await
}

/// A visitor who asks `name` without a pause, and does not put up with anything but the right answer.
fn ask(
    server: &TestServer,
    name: &'static str,
    stop: &CancellationToken,
    answered: &Arc<AtomicU64>,
) -> tokio::task::JoinHandle<()> {
    let (public, stop, answered) = (server.public, stop.clone(), Arc::clone(answered));
    spawn(async move {
        let mut visitor = Visitor::connect(public).await;
        while !stop.is_cancelled() {
            let answer = visitor.ask(visitor::get(name, "/")).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, name));
            answered.fetch_add(1, Ordering::Relaxed);
        }
    })
}
