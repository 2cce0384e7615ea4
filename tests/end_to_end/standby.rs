//! Several agents of one client that offer the same name: the one that was started last has it, the others stand by.

use std::net::SocketAddr;
use std::time::Duration;

use adit::agent::{GivenUp, State};
use adit::protocol::control::Control;
use adit::protocol::json;
use adit::protocol::login::{Hello, Proof, Refusal, Welcome};
use adit::protocol::standby::{OtherAgent, STANDBY, Standby};
use adit::schema::Flags;
use adit::values::{InstanceId, Secret};
use http::StatusCode;

use crate::harness::apps;
use crate::harness::puppet::{Puppet, ask, hello, log_in, now, secret};
use crate::harness::stand_in::StandIn;
use crate::harness::visitor::fetch;
use crate::harness::{TestAgent, TestServer, name, service, soon, until};

/// For how long these servers keep a free name, instead of half a minute.
const SOON: Duration = Duration::from_millis(200);

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

fn starting(keep: Duration) -> TestServer {
    let server = TestServer::start(&[]);
    server.registry.set_reservation_time(keep);
    server
}

async fn agent(server: &TestServer, text: &'static str) -> TestAgent {
    TestAgent::start(server, "alice", &[("alice", apps::fixed(text).await)])
}

async fn connected(server: &TestServer, text: &'static str) -> TestAgent {
    let mut agent = agent(server, text).await;
    agent.connected().await;
    agent
}

/// Waits until it stands by; who has the name.
async fn stands_by(agent: &mut TestAgent) -> Option<String> {
    let state = agent.reaches("a standby", |state| matches!(state, State::Standby { .. })).await;
    let State::Standby { elsewhere, .. } = state else { unreachable!() };
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].name, name("alice"));
    elsewhere[0].by.clone()
}

/// The first words of an agent in the test's own hands, which can stand by.
fn words(host: &str) -> Hello {
    let mut hello = hello("alice", &["alice"]);
    hello.compatibility.capabilities = vec![STANDBY.to_owned()];
    hello.agent.host = Some(host.to_owned());
    hello
}

/// The same agent coming back with the ticket that it was given.
fn back(hello: &Hello, welcome: &Welcome) -> Hello {
    Hello { proof: Some(Proof::Ticket(welcome.ticket.clone())), ..hello.clone() }
}

/// The host that is said to have the name instead.
fn by(welcome: &Welcome) -> Option<&str> {
    assert!(welcome.services.is_empty(), "it has a name");
    welcome.standby[0].by.as_ref()?.host.as_deref()
}

#[tokio::test]
async fn the_older_agent_stands_by_takes_over_and_yields() {
    let server = starting(SOON);
    let mut laptop = connected(&server, "laptop").await;
    let mut desktop = connected(&server, "desktop").await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "desktop");
    // Both sides are told of the other's host and address.
    let other = stands_by(&mut laptop).await.unwrap();
    assert!(other.starts_with("adit ") && other.ends_with("(127.0.0.1)"), "{other}");
    let State::Connected { services, .. } = desktop.state.borrow().clone() else { panic!("not connected") };
    assert!(services[0].taken_over);
    assert_eq!(services[0].taken_from.as_ref().map(ToString::to_string), Some(other.clone()));
    if cfg!(target_os = "linux") {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert!(other.contains(&format!(" on {}", host.trim())), "{other}");
    }
    for in_order in [true, false] {
        let newest = connected(&server, "newest").await;
        stands_by(&mut desktop).await;
        match in_order {
            true => newest.stop().await.unwrap(),
            false => newest.crash().await,
        }
        // Of those that are left, the one that was started last.
        desktop.connected().await;
        assert_eq!(fetch(server.public, "alice", "/").await.text(), "desktop");
    }
    desktop.stop().await.unwrap();
    laptop.connected().await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "laptop");
    let _desktop = connected(&server, "desktop again").await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "desktop again", "at once");
    stands_by(&mut laptop).await;
    laptop.stop().await.unwrap();
}

#[tokio::test]
async fn a_name_is_kept_for_its_owner() {
    let server = starting(NEVER);
    let mut laptop = connected(&server, "laptop").await;
    let desktop = connected(&server, "desktop").await;
    stands_by(&mut laptop).await;
    desktop.crash().await;
    until("a name without an agent", &server.registry, || server.registry.by_name(&name("alice")).is_none()).await;
    assert!(matches!(*laptop.state.borrow(), State::Standby { .. }));
    assert_eq!(fetch(server.public, "alice", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let _desktop = connected(&server, "desktop again").await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "desktop again");
}

/// A laptop that has slept comes back by its ticket, before or after the server has noticed, in whatever way its proof has
/// become too old; agents' clocks are off.
#[tokio::test]
async fn a_laptop_that_wakes_takes_nothing_from_the_desktop() {
    for noticed in [false, true] {
        let server = starting(NEVER);
        let laptop = Hello { timestamp: now() + 250, ..words("laptop") };
        let (first, pipe) = log_in(&server, &laptop).await.unwrap();
        assert!(first.standby.is_empty());
        let asleep = (!noticed).then_some(pipe);
        if noticed {
            until("a lost laptop", &server.registry, || server.registry.is_empty()).await;
        }
        let desktop = Hello { timestamp: now() - 250, ..words("desktop") };
        let (welcome, _desktop) = log_in(&server, &desktop).await.unwrap();
        assert_eq!(welcome.services[0].taken_over, !noticed);
        drop(asleep);
        // Its own past is no other agent, and a login that has its number goes on having it.
        for _ in 0..2 {
            let (woken, _pipe) = log_in(&server, &back(&laptop, &first)).await.unwrap();
            assert_eq!(by(&woken), Some("desktop"));
        }
        // An hour later its ticket is no proof, and the server may have forgotten the instance.
        let instance_id = InstanceId::random().unwrap();
        let late = Hello { start: Some(first.ticket.clone()), instance_id, ..laptop.clone() };
        let (woken, _late) = log_in(&server, &late).await.unwrap();
        assert_eq!(by(&woken), Some("desktop"));
        // Nobody else's word counts for that, and no other client's: this is a start of its own.
        let bob = hello("bob", &["bob"]);
        let (of_bob, _bob) = log_in(&server, &bob).await.unwrap();
        for start in [secret("forged"), of_bob.ticket] {
            let instance_id = InstanceId::random().unwrap();
            let (fresh, _pipe) =
                log_in(&server, &Hello { start: Some(start), instance_id, ..laptop.clone() }).await.unwrap();
            assert!(fresh.standby.is_empty());
        }
    }
}

#[tokio::test]
async fn after_a_restart_of_the_server_the_desktop_has_the_name_in_either_order() {
    let server = starting(NEVER);
    let (laptop, desktop) = (words("laptop"), words("desktop"));
    let (of_laptop, laptop_pipe) = log_in(&server, &laptop).await.unwrap();
    let (of_desktop, desktop_pipe) = log_in(&server, &desktop).await.unwrap();
    let dir = server.dir();
    drop((laptop_pipe, desktop_pipe));
    server.crash();
    for laptop_is_first in [true, false] {
        let server = TestServer::start_in(dir.clone(), &[]);
        server.registry.set_reservation_time(NEVER);
        let laptop = Hello { standby: vec![name("alice")], ..back(&laptop, &of_laptop) };
        let desktop = back(&desktop, &of_desktop);
        if laptop_is_first {
            let (welcome, _laptop) = log_in(&server, &laptop).await.unwrap();
            assert_eq!(by(&welcome), None, "it is kept for an owner of whom nobody knows yet");
            let (welcome, _desktop) = log_in(&server, &desktop).await.unwrap();
            assert_eq!(welcome.services.len(), 1);
            assert_eq!(server.tunnel_of("alice").id(), welcome.tunnel_id);
        } else {
            let (welcome, _desktop) = log_in(&server, &desktop).await.unwrap();
            let (of_laptop, _laptop) = log_in(&server, &laptop).await.unwrap();
            assert_eq!(by(&of_laptop), Some("desktop"));
            assert_eq!(server.tunnel_of("alice").id(), welcome.tunnel_id);
        }
    }
}

/// As after another `ticket.key`, or at a backup server.
#[tokio::test]
async fn where_tickets_are_void_an_agent_that_stands_by_takes_nothing() {
    for laptop_is_first in [true, false] {
        let server = starting(NEVER);
        let laptop = Hello { standby: vec![name("alice")], ..words("laptop") };
        let mut first = None;
        if laptop_is_first {
            let (welcome, pipe) = log_in(&server, &laptop).await.unwrap();
            assert_eq!(by(&welcome), None);
            first = Some(pipe);
        }
        let (welcome, _desktop) = log_in(&server, &words("desktop")).await.unwrap();
        assert_eq!(welcome.services.len(), 1);
        let (woken, _pipe) = log_in(&server, &laptop).await.unwrap();
        assert_eq!(by(&woken), Some("desktop"));
        drop(first);
    }
}

#[tokio::test]
async fn real_agents_sort_themselves_out_after_a_restart_of_the_server() {
    let server = starting(NEVER);
    let (tunnel, public, dir): (SocketAddr, SocketAddr, _) = (server.tunnel, server.public, server.dir());
    let mut laptop = connected(&server, "laptop").await;
    let mut desktop = connected(&server, "desktop").await;
    stands_by(&mut laptop).await;
    server.crash();
    for agent in [&mut laptop, &mut desktop] {
        agent.reaches("a lost connection", |state| !state.is_connected()).await;
    }
    let server = TestServer::start_again(dir, tunnel, public).await;
    server.registry.set_reservation_time(NEVER);
    desktop.connected().await;
    stands_by(&mut laptop).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "desktop");
}

#[tokio::test]
async fn an_agent_that_is_to_exit_when_it_is_replaced_does() {
    let server = starting(NEVER);
    let services = vec![service("alice", &apps::fixed("laptop").await.to_string(), &[])];
    let settings = Flags::new().with("exit_when_replaced", true);
    let mut laptop = TestAgent::start_set(&[server.tunnel], server.fingerprint, "alice", services, settings);
    laptop.connected().await;
    let _desktop = connected(&server, "desktop").await;
    match laptop.ended().await {
        Err(GivenUp::Replaced { by }) => assert!(by.ends_with("(127.0.0.1)"), "{by}"),
        other => panic!("{other:?}"),
    }
    until("one tunnel", &server.registry, || server.registry.len() == 1).await;
}

#[tokio::test]
async fn a_server_without_room_sends_the_older_agent_away_and_that_waits() {
    let server = TestServer::start(&[("tunnel.max_tunnels", "1")]);
    let mut laptop = connected(&server, "laptop").await;
    let _desktop = connected(&server, "desktop").await;
    let waits = |state: &State| matches!(state, State::Waiting { why, .. } if why.starts_with("standing by"));
    laptop.reaches("a wait", waits).await;
    until("one tunnel", &server.registry, || server.registry.len() == 1).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "desktop");
}

/// An older server, which does not know `standby`, refuses such a login instead of giving it the name.
#[tokio::test]
async fn an_agent_that_stands_by_says_so_and_requires_a_server_that_knows_of_it() {
    let server = StandIn::start().await;
    let local = apps::fixed("laptop").await;
    let mut laptop = TestAgent::start_at(&[server.address], server.fingerprint, "alice", &[("alice", local)]);
    let login = server.login().await;
    assert_eq!(login.hello.compatibility.capabilities, [STANDBY]);
    assert!(login.hello.standby.is_empty() && login.hello.compatibility.required.is_empty());
    let lane = login.welcome().await;
    laptop.connected().await;
    let by = OtherAgent { agent: "adit".to_owned(), host: Some("desktop".to_owned()), address: [192, 0, 2, 1].into() };
    let standby = vec![Standby { name: name("alice"), by: Some(by) }];
    lane.say(Control::Offered { change: 0, services: Vec::new(), standby });
    assert_eq!(stands_by(&mut laptop).await.as_deref(), Some("adit on desktop (192.0.2.1)"));
    lane.cut();
    let login = server.login().await;
    assert!(matches!(login.hello.proof, Some(Proof::Ticket(_))));
    assert_eq!(login.hello.standby, [name("alice")]);
    assert_eq!(login.hello.compatibility.required, [STANDBY]);
    drop(login);
    laptop.stop().await.unwrap();
}

/// A ticket that has expired is shown beside the token: it says when the agent was started.
#[tokio::test]
async fn an_agent_shows_its_ticket_also_when_that_is_no_proof_any_more() {
    let server = StandIn::start().await;
    let local = apps::fixed("laptop").await;
    let laptop = TestAgent::start_at(&[server.address], server.fingerprint, "alice", &[("alice", local)]);
    let login = server.login().await;
    assert!(login.hello.start.is_none());
    login.welcome().await.cut();
    let login = server.login().await;
    assert!(matches!(login.hello.proof, Some(Proof::Ticket(_))) && login.hello.start.is_none());
    login.refuse(Refusal::BadToken, "it has expired").await;
    let login = server.login().await;
    assert!(matches!(login.hello.proof, Some(Proof::Token(_))));
    assert_eq!(login.hello.start.as_ref().map(Secret::expose), Some("ticket"));
    let _lane = login.welcome().await;
    laptop.stop().await.unwrap();
}

#[tokio::test]
async fn an_agent_of_before_is_told_that_it_is_replaced_and_by_whom() {
    let server = starting(NEVER);
    let old = hello("alice", &["alice"]);
    let puppet = Puppet::connect(&server, &old).await;
    let stream = puppet.control(&json::encode(&Control::Heartbeat).unwrap()).await;
    let mut reader = adit::link::handshake::ControlReader::new(stream);
    let (welcome, _desktop) = log_in(&server, &words("desktop")).await.unwrap();
    assert_eq!(welcome.services[0].taken_from.as_ref().unwrap().agent, "puppet 0 (test)");
    let told = loop {
        match soon("a notice", reader.receive()).await.unwrap() {
            Control::Replaced { by } => break by,
            // The second may come first, and says nothing to an agent of before.
            Control::Heartbeat | Control::Offered { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told, "puppet 0 (test) on desktop (127.0.0.1)");
    let refused = log_in(&server, &back(&old, &puppet.welcome)).await.unwrap_err();
    assert_eq!(refused.code, Refusal::NameTaken);
    assert!(refused.message.contains("on desktop (127.0.0.1) was started later"), "{}", refused.message);
}

#[tokio::test]
async fn who_is_told_of_another_agent_is_told_nothing_that_steers_a_terminal() {
    let server = starting(NEVER);
    let (_, _laptop) = log_in(&server, &words("lap\x1b[2J\u{202e}top \n")).await.unwrap();
    let (welcome, _desktop) = log_in(&server, &words(&"x".repeat(1000))).await.unwrap();
    assert_eq!(welcome.services[0].taken_from.as_ref().unwrap().host.as_deref(), Some("lap2Jtop"));
    let (last, _last) = log_in(&server, &words("")).await.unwrap();
    assert_eq!(last.services[0].taken_from.as_ref().unwrap().host.as_ref().unwrap().len(), 64);
    // A question is no start.
    assert!(ask(&server, &hello("alice", &[])).await.is_ok());
}
