//! Two agents of one client: side by side, or one after the other.

use std::time::Duration;

use adit::agent::State;
use adit::protocol::login::Refusal;
use tokio::io::AsyncWriteExt;

use crate::harness::apps::{self, Script};
use crate::harness::puppet::{hello, log_in};
use crate::harness::visitor::{self, fetch};
use crate::harness::{TestAgent, TestServer, clients, clients_file, name, service, soon, until};

/// For how long these servers keep a free name, instead of half a minute.
const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn different_names_live_side_by_side() {
    let server = TestServer::start(&[]);
    let _one = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("one").await)]).await;
    let _two = TestAgent::connect(&server, "alice", &[("blog", apps::fixed("two").await)]).await;
    let _other = TestAgent::connect(&server, "bob", &[("bob", apps::fixed("other").await)]).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "one");
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "two");
    assert_eq!(fetch(server.public, "bob", "/").await.text(), "other");
    assert_eq!(server.registry.len(), 3);
}

#[tokio::test]
async fn the_newest_agent_takes_a_name_over_and_what_was_open_on_the_older_one_goes_on() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let mut older = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut open = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    let (mut local, _) = app.request().await;

    let _newer = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("newer").await)]).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "newer", "the name has moved at once");
    older.reaches("a standby", |state| matches!(state, State::Standby { .. })).await;
    // What was open on the older one goes on to its end.
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nolder").await.unwrap();
    assert!(visitor::read_until(&mut open, "older").await.starts_with("HTTP/1.1 200"));
    older.stop().await.unwrap();
    until("one tunnel", &server.registry, || server.registry.len() == 1).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "newer");
}

/// What leads to an agent, and whether it was another's before.
fn names(state: &State) -> Vec<(&str, bool)> {
    match state {
        State::Connected { services, .. } => {
            services.iter().map(|service| (service.name.as_str(), service.taken_over)).collect()
        }
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn an_agent_that_keeps_a_name_goes_on_and_has_the_other_back_in_the_end() {
    let server = TestServer::start(&[]);
    server.registry.set_reservation_time(SOON);
    let [one, two] = [apps::fixed("older").await, apps::fixed("newer").await];
    let mut older = TestAgent::connect(&server, "alice", &[("alice", one), ("blog", one)]).await;
    assert_eq!(names(&older.state.borrow()), [("alice", false), ("blog", false)]);
    for ends_in_order in [true, false] {
        let newer = TestAgent::connect(&server, "alice", &[("blog", two)]).await;
        assert_eq!(names(&newer.state.borrow()), [("blog", true)]);
        older.reaches("the loss of a name", |state| names(state) == [("alice", false)]).await;
        assert_eq!(fetch(server.public, "alice", "/").await.text(), "older");
        assert_eq!(fetch(server.public, "blog", "/").await.text(), "newer");
        if ends_in_order {
            newer.stop().await.unwrap();
        } else {
            newer.crash().await;
        }
        older.reaches("the name again", |state| names(state).len() == 2).await;
        assert_eq!(fetch(server.public, "blog", "/").await.text(), "older");
        until("one tunnel", &server.registry, || server.registry.len() == 1).await;
    }
}

#[tokio::test]
async fn a_name_that_an_agent_does_not_offer_any_more_goes_back() {
    let server = TestServer::start(&[]);
    server.registry.set_reservation_time(SOON);
    let [one, two] = [apps::fixed("older").await, apps::fixed("newer").await];
    let mut older = TestAgent::connect(&server, "alice", &[("alice", one), ("blog", one)]).await;
    let newer = TestAgent::connect(&server, "alice", &[("blog", two), ("shop", two)]).await;
    older.reaches("the loss of a name", |state| names(state).len() == 1).await;
    assert!(newer.change(vec![service("shop", &two.to_string(), &[])]));
    older.reaches("the name again", |state| names(state).len() == 2).await;
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "older");
    assert_eq!(fetch(server.public, "shop", "/").await.text(), "newer");
}

#[tokio::test]
async fn the_same_agent_coming_back_replaces_its_own_past() {
    let server = TestServer::start(&[]);
    let hello = hello("alice", &["alice"]);
    let (first, mut past) = log_in(&server, &hello).await.unwrap();
    let (second, _now) = log_in(&server, &hello).await.unwrap();
    assert_ne!(first.tunnel_id, second.tunnel_id);
    let mut rest = Vec::new();
    let _ = soon("the end of the past", tokio::io::AsyncReadExt::read_to_end(&mut past, &mut rest)).await;
    until("one tunnel", &server.registry, || server.registry.len() == 1).await;
    assert_eq!(server.tunnel_of("alice").id(), second.tunnel_id);
}

#[tokio::test]
async fn a_name_that_the_operator_gives_to_another_client_is_free_at_once() {
    let server = TestServer::start(&[]);
    let blog = [("blog", apps::fixed("alice").await), ("shop", apps::fixed("alice's still").await)];
    let _alice = TestAgent::connect(&server, "alice", &blog).await;
    let refused = log_in(&server, &hello("bob", &["blog"])).await.expect_err("the name is alice's");
    assert_eq!(refused.code, Refusal::NotAllowed);
    let given = clients().replace("\"alice\", \"blog\", \"shop\"", "\"alice\", \"shop\"");
    server.clients.replace(clients_file(&given.replace("[\"bob\"]", "[\"bob\", \"blog\"]")));
    until("the name is nobody's", &server.registry, || server.registry.by_name(&name("blog")).is_none()).await;
    let _bob = TestAgent::connect(&server, "bob", &[("blog", apps::fixed("bob").await)]).await;
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "bob");
    assert_eq!(fetch(server.public, "shop", "/").await.text(), "alice's still");
}

#[tokio::test]
async fn an_agent_is_back_soon_after_its_server() {
    let server = TestServer::start(&[]);
    let (tunnel, public, dir) = (server.tunnel, server.public, server.dir());
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    server.crash();
    agent.reaches("a lost connection", |state| !matches!(state, adit::agent::State::Connected { .. })).await;
    let server = TestServer::start_again(dir, tunnel, public).await;
    agent.connected().await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "here");
}

#[tokio::test]
async fn a_tunnel_that_is_gone_frees_its_place() {
    let server = TestServer::start(&[("tunnel.max_tunnels", "1")]);
    let agent = TestAgent::connect(&server, "alice", &[("alice", apps::nothing().await)]).await;
    let refused = log_in(&server, &hello("bob", &["bob"])).await.expect_err("there is room for one");
    assert_eq!(refused.code, Refusal::TooMany);
    agent.crash().await;
    until("an empty registry", &server.registry, || server.registry.is_empty()).await;
    assert!(log_in(&server, &hello("bob", &["bob"])).await.is_ok());
}

#[tokio::test]
async fn a_full_server_takes_a_client_back_but_not_twice() {
    let server = TestServer::start(&[("tunnel.max_tunnels", "1")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("older").await)]).await;
    let refused = log_in(&server, &hello("alice", &["blog"])).await.expect_err("there is room for one");
    assert_eq!(refused.code, Refusal::TooMany);
    let _newer = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("newer").await)]).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "newer");
}

#[tokio::test]
async fn the_servers_of_a_list_are_tried_in_order() {
    let gone = apps::nothing().await;
    let first = TestServer::start(&[]);
    let (address, dir) = (first.tunnel, first.dir());
    let second = TestServer::start_in(dir.clone(), &[]);
    let local = apps::fixed("here").await;
    let mut agent =
        TestAgent::start_at(&[gone, address, second.tunnel], first.fingerprint, "alice", &[("alice", local)]);
    agent.connected().await;
    assert_eq!(fetch(first.public, "alice", "/").await.text(), "here", "the first that can be reached");
    assert!(second.registry.is_empty());
    first.crash();
    until("a tunnel at the next one", &second.registry, || second.registry.serves_any()).await;
    agent.connected().await;
    assert_eq!(fetch(second.public, "alice", "/").await.text(), "here");
}
