//! A configuration that is read again while everything goes on.

mod whole;

use std::time::Duration;

use adit::agent::State;
use adit::protocol::login::{Hello, Refusal, ServiceKind, ServiceOffer};
use adit::schema::ValueKind;
use adit::values::Domain;
use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::apps::{self, Script};
use crate::harness::dns;
use crate::harness::puppet::{self, hello, log_in};
use crate::harness::visitor::{self, Answer, Http2Visitor, Visitor, fetch, get, http2_request};
use crate::harness::{TestAgent, TestServer, clients, clients_file, name, replace_file, service, until_idle};

const ASK: &str = "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";

fn code(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.header("x-adit-error"))
}

async fn answer(local: &mut TcpStream, body: &str) {
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    local.write_all(text.as_bytes()).await.unwrap();
}

/// How many of `count` requests on a connection are answered by the application.
async fn answered(visitor: &mut Visitor, count: usize) -> usize {
    let mut answered = 0;
    for _ in 0..count {
        answered += usize::from(visitor.ask(get("alice", "/")).await.status == StatusCode::OK);
    }
    answered
}

#[tokio::test]
async fn a_timeout_counts_from_the_next_request_on_also_on_an_open_connection() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut kept = Visitor::connect(server.public).await;
    let (fine, _local) = tokio::join!(kept.ask(get("alice", "/")), async {
        let (mut local, _) = app.request().await;
        answer(&mut local, "fine").await;
        // The agent must not keep it: the next request is to come on another one.
        drop(local);
    });
    assert_eq!(fine.text(), "fine");
    let mut early = visitor::raw(server.public, ASK).await;
    let (mut slow, _) = app.request().await;

    let reloaded = server.reload(&[("timeouts.response_head", "3s")]).await.unwrap();
    assert_eq!(reloaded.changed, ["timeouts.response_head"]);
    assert!(reloaded.waiting.is_empty());
    let (late, _held) = tokio::join!(kept.ask(get("alice", "/")), app.request());
    assert_eq!(code(&late), (504, "response_timeout"));
    // What was asked before has the time that counted then.
    answer(&mut slow, "late").await;
    assert!(visitor::read_until(&mut early, "late").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_rate_counts_from_the_next_request_on_also_on_an_open_connection() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let kept = Http2Visitor::connect(server.public).await;
    let answered = async || {
        let requests = (0..20).map(|_| http2_request(Method::GET, "alice", "/", ""));
        let answers = kept.ask_at_once(requests).await;
        answers.iter().filter(|answer| answer.status == StatusCode::OK).count()
    };
    assert_eq!(answered().await, 20);
    let few = [("limits.per_ip.requests_per_second", "1"), ("limits.per_ip.burst", "3")];
    server.reload(&few).await.unwrap();
    let begun = std::time::Instant::now();
    let allowed = answered().await;
    // One more waits for a second, and one more for each second that this took.
    assert!((4..=4 + begun.elapsed().as_secs() as usize).contains(&allowed), "{allowed}");
    server.reload(&[]).await.unwrap();
    assert_eq!(answered().await, 20);
    // And of the clients.
    server.reload(&[("limits.per_client.requests_per_second", "1")]).await.unwrap();
    assert!(answered().await < 20);
    server.reload(&[]).await.unwrap();
    assert_eq!(answered().await, 20);
}

#[tokio::test]
async fn fewer_requests_at_once_let_those_that_are_open_end() {
    let limits = [("limits.streams", 503), ("limits.per_ip.streams", 429), ("limits.per_client.streams", 503)];
    for (limit, status) in limits {
        let server = TestServer::start(&[]);
        let mut slow = Script::start().await;
        let fast = apps::fixed("fast").await;
        let _agent = TestAgent::connect(&server, "alice", &[("alice", slow.address), ("blog", fast)]).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            let visitor = visitor::raw(server.public, ASK).await;
            open.push((visitor, slow.request().await.0));
        }
        server.reload(&[(limit, "1")]).await.unwrap();
        assert_eq!(fetch(server.public, "blog", "/").await.status, status, "{limit}");
        for (visitor, local) in &mut open {
            answer(local, "slow").await;
            visitor::read_until(visitor, "slow").await;
        }
        until_idle(&server.open, crate::harness::PATIENCE).await;
        assert_eq!(fetch(server.public, "blog", "/").await.text(), "fast", "{limit}");
    }
}

#[tokio::test]
async fn fewer_connections_let_those_that_are_open_go_on() {
    for limit in ["limits.connections", "limits.per_ip.connections"] {
        let server = TestServer::start(&[]);
        let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
        let mut kept = [Visitor::connect(server.public).await, Visitor::connect(server.public).await];
        for visitor in &mut kept {
            assert_eq!(answered(visitor, 1).await, 1);
        }
        server.reload(&[(limit, "1")]).await.unwrap();
        let mut third = visitor::raw(server.public, ASK).await;
        assert!(visitor::read_to_end(&mut third).await.unwrap_or_default().is_empty(), "{limit}");
        for visitor in &mut kept {
            assert_eq!(answered(visitor, 2).await, 2, "{limit}");
        }
        server.reload(&[(limit, "3")]).await.unwrap();
        assert_eq!(fetch(server.public, "alice", "/").await.text(), "fine", "{limit}");
    }
}

#[tokio::test]
async fn another_number_of_tunnels_counts_from_the_next_login_on() {
    let server = TestServer::start(&[("tunnel.max_tunnels", "1")]);
    let _alice = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("alice").await)]).await;
    let refused = log_in(&server, &hello("bob", &["bob"])).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code, Refusal::TooMany);
    server.reload(&[("tunnel.max_tunnels", "2")]).await.unwrap();
    let _bob = TestAgent::connect(&server, "bob", &[("bob", apps::fixed("bob").await)]).await;
    server.reload(&[]).await.unwrap();
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "alice");
    assert_eq!(fetch(server.public, "bob", "/").await.text(), "bob", "nobody is sent away");
    assert!(log_in(&server, &hello("carol", &["carol"])).await.is_err());
}

#[tokio::test]
async fn whose_word_counts_changes_on_an_open_connection() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let mut kept = Visitor::connect(server.public).await;
    let mut seen = async || {
        let mut request = visitor::request(Method::GET, "alice", "/", "");
        request.headers_mut().insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
        kept.ask(request).await.text().contains("x-real-ip: 192.0.2.1\n")
    };
    assert!(!seen().await);
    server.reload(&[("public.trusted_proxies", "127.0.0.0/8")]).await.unwrap();
    assert!(seen().await);
    server.reload(&[]).await.unwrap();
    assert!(!seen().await);
    // A PROXY protocol header is expected of connections that come from now on.
    server.reload(&[("public.proxy_protocol_from", "127.0.0.1")]).await.unwrap();
    assert!(!seen().await, "the connection that was there goes on");
    let mut named = visitor::raw(server.public, &format!("PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n{ASK}")).await;
    visitor::read_until(&mut named, "x-real-ip: 192.0.2.7\n").await;
}

#[tokio::test]
async fn routing_redirects_and_fields_change() {
    let server = TestServer::start(&[("public.https", "127.0.0.1:0")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let mut kept = Visitor::connect(server.public).await;
    let plain = kept.ask(get("alice", "/")).await;
    assert!(plain.status == StatusCode::OK && !plain.text().contains("\nforwarded: "), "{}", plain.text());
    server.reload(&[("public.forwarded", "true")]).await.unwrap();
    assert!(kept.ask(get("alice", "/")).await.text().contains("\nforwarded: "));
    server.reload(&[("public.redirect_to_https", "*")]).await.unwrap();
    assert_eq!(kept.ask(get("alice", "/")).await.status, StatusCode::PERMANENT_REDIRECT);
    server.reload(&[("public.routing", "path")]).await.unwrap();
    assert_eq!(kept.ask(get("alice", "/")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn agents_learn_where_visitors_reach_them_from_now_on_and_new_lanes_what_counts() {
    let server = TestServer::start(&[]);
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let changes =
        [("public.url", "https://{name}.tunnel.example"), ("tunnel.heartbeat", "1234ms"), ("timeouts.connect", "77s")];
    let reloaded = server.reload(&changes).await.unwrap();
    assert_eq!(reloaded.changed, ["tunnel.heartbeat", "public.url", "timeouts.connect"]);
    let url = "https://alice.tunnel.example";
    let is_told = |state: &State| matches!(state, State::Connected { services, .. } if services[0].public_urls.first().is_some_and(|told| told == url));
    agent.reaches("another address", is_told).await;
    let (welcome, _pipe) = log_in(&server, &hello("bob", &["bob"])).await.unwrap();
    assert_eq!((welcome.terms.heartbeat_s, welcome.terms.connect_timeout_s), (1.234, 77.0));
}

#[tokio::test]
async fn agents_are_told_no_names_that_lead_nowhere() {
    let server = TestServer::start(&[("public.https", "127.0.0.1:0")]);
    let listed = clients().replace("\"shop\"]", "\"shop\", \"*.blog\"]");
    replace_file(&server.dir().path().join("clients.toml"), &listed);
    server.clients.replace(clients_file(&listed));
    let offers = [
        service("alice", "443", &[("kind", ValueKind::from("tls"))]),
        service("blog", "80", &[("wildcard", ValueKind::from(true))]),
    ];
    let mut agent = TestAgent::connect_with(&server, "alice", offers.to_vec()).await;
    let told = |state: &State| match state {
        State::Connected { services, .. } => services.iter().map(|service| service.public_urls.len()).collect(),
        _ => Vec::new(),
    };
    // Over HTTPS and HTTP each; and whatever is below that name.
    agent.reaches("all of them", |state| told(state) == [1, 5]).await;
    server.reload(&[("public.redirect_to_https", "*")]).await.unwrap();
    agent.reaches("those that do not only redirect", |state| told(state) == [1, 3]).await;
    server.reload(&[("public.routing", "path")]).await.unwrap();
    agent.reaches("paths alone", |state| told(state) == [0, 2]).await;
}

#[tokio::test]
async fn domains_are_proved_from_the_next_login_on() {
    let server = TestServer::start(&[]);
    let domains = vec![Domain::new("blog.alice.example").unwrap()];
    let offer = ServiceOffer { domains, ..ServiceOffer::new(name("alice"), ServiceKind::Http) };
    let hello = Hello { services: vec![offer], ..hello("alice", &["alice"]) };
    assert!(log_in(&server, &hello).await.is_err());
    let resolver = dns::serve(&[("_adit.blog.alice.example", "alice@localhost")]).await.to_string();
    let proofs = [("public.domain_proof", "dns"), ("public.resolvers", &resolver)];
    server.reload(&proofs).await.unwrap();
    assert!(log_in(&server, &hello).await.is_ok());
    server.reload(&[proofs[0], proofs[1], ("timeouts.idle", "99s")]).await.unwrap();
    assert!(log_in(&server, &hello).await.is_ok());
    server.reload(&[]).await.unwrap();
    assert!(log_in(&server, &hello).await.is_err());
}

#[tokio::test]
async fn a_login_and_a_drain_have_the_time_that_counts_when_they_begin() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let _visitor = visitor::raw(server.public, ASK).await;
    let (_local, _) = app.request().await;
    server.reload(&[("tunnel.login_timeout", "2s"), ("tunnel.drain_timeout", "100ms")]).await.unwrap();
    let mut silent = puppet::dial(server.tunnel, server.fingerprint).await;
    let ended = tokio::io::AsyncReadExt::read_u8(&mut silent);
    // Unless told otherwise it would be ten seconds.
    assert!(tokio::time::timeout(Duration::from_secs(8), ended).await.expect("it may be silent for longer").is_err());
    let drained = tokio::time::timeout(Duration::from_secs(15), server.stop()).await.expect("it drains for longer");
    assert_eq!(drained.requests_cut, 1);
}

#[tokio::test]
async fn what_waits_for_a_restart_is_named_as_long_as_it_differs_and_the_rest_counts() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let waits = [("public.domain", "tunnel.example"), ("public.http", "127.0.0.1:1"), ("timeouts.idle", "99s")];
    let first = server.reload(&waits).await.unwrap();
    assert_eq!(first.changed, ["timeouts.idle"]);
    assert_eq!(first.waiting, ["public.domain", "public.http"]);
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "fine", "the domain is what it was");
    let again = server.reload(&waits).await.unwrap();
    assert_eq!(again.to_string(), "nothing has changed; waiting for a restart: public.domain, public.http");
    let back = server.reload(&[]).await.unwrap();
    assert_eq!(back.to_string(), "changed: timeouts.idle");
    assert_eq!(server.reload(&[]).await.unwrap().to_string(), "nothing has changed");
}
