//! Limits that hold, and do not spread.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use adit::schema::ValueKind;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Http2Visitor, Visitor, fetch, first_refusal, get, http2_request};
use crate::harness::{TestAgent, TestServer, service, soon, until_idle};

const OPEN_BODY: &str = "POST /slow HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 10\r\n\r\n12345";

/// The trap: the multiplexer allows 256 streams that the peer has not acknowledged, and half-closed ones do not count.
#[tokio::test]
async fn six_hundred_waiting_visitors_do_not_delay_the_next_one() {
    let server = TestServer::start(&[]);
    let mut slow = Script::start().await;
    let fast = apps::fixed("fast").await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", slow.address), ("blog", fast)]).await;
    let mut waiting = Vec::new();
    for _ in 0..600 {
        waiting.push(visitor::raw(server.public, OPEN_BODY).await);
    }
    let mut asked = Vec::new();
    for _ in 0..600 {
        asked.push(slow.request().await);
    }
    // Same client, same tunnel, same lane.
    assert_eq!(server.tunnel_of("alice").id(), server.tunnel_of("blog").id());
    assert_eq!(server.tunnel_of("alice").streams(), 600);
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "fast");
    drop(waiting);
    until_idle(&server.open, crate::harness::PATIENCE).await;
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "fast");
}

#[tokio::test]
async fn a_session_at_its_limit_refuses_and_lives_on() {
    for limit in ["limits.per_tunnel.streams", "limits.streams"] {
        let server = TestServer::start(&[(limit, "3")]);
        let mut slow = Script::start().await;
        let fast = apps::fixed("fast").await;
        let _agent = TestAgent::connect(&server, "alice", &[("alice", slow.address), ("blog", fast)]).await;
        let lane = server.tunnel_of("alice").lanes()[0].id();
        let mut waiting: Vec<(TcpStream, TcpStream)> = Vec::new();
        for _ in 0..3 {
            let visitor = visitor::raw(server.public, OPEN_BODY).await;
            waiting.push((visitor, slow.request().await.0));
        }
        for _ in 0..50 {
            let busy = fetch(server.public, "blog", "/").await;
            assert_eq!((busy.status, busy.header("x-adit-error")), (StatusCode::SERVICE_UNAVAILABLE, "tunnel_busy"));
            assert_eq!(busy.header("retry-after"), "1");
        }
        // One that ends makes room for one, and the waiting ones were not harmed.
        let (mut visitor, mut local) = waiting.pop().unwrap();
        visitor.write_all(b"67890").await.unwrap();
        visitor::read_until(&mut local, "1234567890").await;
        local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await.unwrap();
        visitor::read_until(&mut visitor, "slow").await;
        let fits = async { while fetch(server.public, "blog", "/").await.status != StatusCode::OK {} };
        soon("room for one more", fits).await;
        assert_eq!(server.tunnel_of("alice").lanes()[0].id(), lane, "{limit}: it is still the same session");
        drop(waiting);
        until_idle(&server.open, crate::harness::PATIENCE).await;
    }
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_to_wait() {
    let server = TestServer::start(&[("limits.per_ip.requests_per_second", "1"), ("limits.per_ip.burst", "5")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    for _ in 0..5 {
        assert_eq!(visitor.ask(get("alice", "/")).await.status, StatusCode::OK);
    }
    let refused = first_refusal(server.public, StatusCode::OK, || http2_request(Method::GET, "alice", "/", "")).await;
    assert_eq!((refused.status, refused.header("x-adit-error")), (StatusCode::TOO_MANY_REQUESTS, "rate_limited"));
    assert_eq!(refused.header("retry-after"), "1");
}

#[tokio::test]
async fn a_short_excess_waits_and_what_goes_beyond_it_is_refused() {
    let server = TestServer::start(&[("limits.per_ip.requests_per_second", "10"), ("limits.per_ip.burst", "5")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let begun = Instant::now();
    let answers = visitor.ask_at_once((0..60).map(|_| http2_request(Method::GET, "alice", "/", ""))).await;
    let (fine, took) = (answers.iter().filter(|answer| answer.status == StatusCode::OK).count(), begun.elapsed());
    // The burst, and ten that wait for up to a second; what has come back meanwhile may be more.
    assert!((15..=15 + took.as_millis() as usize / 100).contains(&fine), "{fine} in {took:?}");
    assert!(took >= Duration::from_secs(1), "the last one waits for a second: {took:?}");
    let refused = answers.iter().filter(|answer| answer.header("x-adit-error") == "rate_limited").count();
    assert_eq!(fine + refused, 60);
}

#[tokio::test]
async fn a_page_with_hundreds_of_pictures_comes_whole_with_the_usual_limits() {
    let server = TestServer::start(&[("limits.per_ip.requests_per_second", "500"), ("limits.per_ip.burst", "5000")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let answers = visitor.ask_at_once((0..600).map(|_| http2_request(Method::GET, "alice", "/", ""))).await;
    assert!(answers.iter().all(|answer| answer.text() == "fine"));
}

fn table<const KEYS: usize>(limits: [(&str, i64); KEYS]) -> ValueKind {
    let limits = limits.map(|(key, value)| (key.to_owned(), ValueKind::from(value)));
    ValueKind::from(limits.into_iter().collect::<HashMap<_, _>>())
}

#[tokio::test]
async fn a_service_has_a_limit_of_its_own_for_what_is_open_at_once() {
    let server = TestServer::start(&[]);
    let mut slow = Script::start().await;
    let fast = apps::fixed("fast").await.to_string();
    let limited = service("alice", &slow.address.to_string(), &[("limits", table([("streams", 2)]))]);
    let services = vec![limited, service("blog", &fast, &[])];
    let _agent = TestAgent::connect_with(&server, "alice", services).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let visitor = visitor::raw(server.public, OPEN_BODY).await;
        waiting.push((visitor, slow.request().await.0));
    }
    let busy = fetch(server.public, "alice", "/").await;
    assert_eq!((busy.status, busy.header("x-adit-error")), (StatusCode::SERVICE_UNAVAILABLE, "tunnel_busy"));
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "fast", "the other service has none");
    // One that leaves makes room for one.
    drop(waiting.pop());
    let answer = async {
        let (mut local, _) = slow.request().await;
        local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nroom").await.unwrap();
    };
    let ask = async {
        loop {
            let answer = fetch(server.public, "alice", "/").await;
            if answer.status == StatusCode::OK {
                return answer;
            }
        }
    };
    let (answer, ()) = soon("room for one more", async { tokio::join!(ask, answer) }).await;
    assert_eq!(answer.text(), "room");
    drop(waiting);
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn a_service_has_lower_limits_of_its_own() {
    let server = TestServer::start(&[]);
    let app = apps::fixed("fine").await.to_string();
    let limits = table([("requests_per_second", 1), ("burst", 2)]);
    let services = vec![service("alice", &app, &[("limits", limits)]), service("blog", &app, &[])];
    let _agent = TestAgent::connect_with(&server, "alice", services).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let ask = async |name: &str| {
        let requests = (0..20).map(|_| http2_request(Method::GET, name, "/", ""));
        let answers = visitor.ask_at_once(requests).await;
        let refused = answers.iter().filter(|answer| answer.header("x-adit-error") == "rate_limited");
        refused.map(|answer| answer.header("ratelimit-policy").to_owned()).collect::<Vec<_>>()
    };
    let refused = ask("alice").await;
    assert!(refused.len() >= 10 && refused.iter().all(|policy| policy == "\"address\";q=2;w=2"), "{refused:?}");
    assert!(ask("blog").await.is_empty());
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_visitor_has_its_own_rate() {
    let server = TestServer::start(&[
        ("limits.per_ip.requests_per_second", "1"),
        ("limits.per_ip.burst", "1"),
        ("public.trusted_proxies", "127.0.0.1"),
    ]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    let mut from = async |address: &str| {
        let mut request = visitor::request(Method::GET, "alice", "/", "");
        request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
        visitor.ask(request).await
    };
    for address in ["192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:2::1"] {
        let answer = from(address).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.text().contains(&format!("x-real-ip: {address}\n")), "{}", answer.text());
    }
    let asked = |address: &str| {
        let mut request = http2_request(Method::GET, "alice", "/", "");
        request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
        request
    };
    let refused = first_refusal(server.public, StatusCode::OK, || asked("192.0.2.1")).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    // Whoever owns a /64 is one visitor: an address of it that was never seen has to wait for another one's sake.
    let mut fresh = 0;
    let refused = first_refusal(server.public, StatusCode::OK, || {
        fresh += 1;
        asked(&format!("2001:db8:1::ffff:{fresh:x}"))
    })
    .await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn an_address_has_only_so_many_connections() {
    let server = TestServer::start(&[("limits.per_ip.connections", "2")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let mut held = Visitor::connect(server.public).await;
    let mut second = Visitor::connect(server.public).await;
    assert_eq!(held.ask(get("alice", "/")).await.status, StatusCode::OK);
    assert_eq!(second.ask(get("alice", "/")).await.status, StatusCode::OK);
    let mut third = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    let rest = visitor::read_to_end(&mut third).await.unwrap_or_default();
    assert!(rest.is_empty(), "the third connection should have been closed");
    drop(second);
    let again = async {
        loop {
            let mut socket = visitor::raw(server.public, "GET / HTTP/1.0\r\nHost: alice.localhost\r\n\r\n").await;
            if visitor::read_to_end(&mut socket).await.is_ok_and(|answer| answer.ends_with(b"fine")) {
                return;
            }
        }
    };
    soon("room for another connection", again).await;
}

#[tokio::test]
async fn a_head_that_does_not_come_or_does_not_end_is_cut() {
    let server = TestServer::start(&[("timeouts.head", "2s")]);
    let cut = async |start| {
        let mut socket = visitor::raw(server.public, start).await;
        visitor::read_to_end(&mut socket).await.unwrap();
    };
    tokio::join!(cut(""), cut("GET / HTTP/1.1\r\nHost: alice"));
    let server = TestServer::start(&[("limits.head_size", "8192")]);
    let mut large = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n").await;
    let field = format!("X: {}\r\n", "x".repeat(9000));
    large.write_all(field.as_bytes()).await.unwrap();
    let answer = visitor::read_until(&mut large, "\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn a_connection_may_rest_between_requests_for_longer_than_a_head_may_take() {
    let server = TestServer::start(&[("timeouts.head", "1s"), ("timeouts.keep_alive", "1h")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    const ASK: &str = "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";
    let mut socket = visitor::raw(server.public, ASK).await;
    visitor::read_until(&mut socket, "fine").await;
    let rest = tokio::time::timeout(std::time::Duration::from_millis(1500), socket.read_u8()).await;
    assert!(rest.is_err(), "it was closed while it rested");
    socket.write_all(ASK.as_bytes()).await.unwrap();
    visitor::read_until(&mut socket, "fine").await;
    // Once a head has begun it has to come, on a kept connection too.
    socket.write_all(b"GET / HT").await.unwrap();
    assert!(visitor::read_to_end(&mut socket).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rest_does_not_last_for_ever() {
    let server = TestServer::start(&[("timeouts.keep_alive", "300ms")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let mut idle = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    visitor::read_until(&mut idle, "fine").await;
    assert!(visitor::read_to_end(&mut idle).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rest_ends_after_a_request_that_took_long_too() {
    let server = TestServer::start(&[("timeouts.head", "200ms"), ("timeouts.keep_alive", "300ms")]);
    let slow = apps::with(|_| async {
        tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
        Response::new(Full::from("fine"))
    });
    let _agent = TestAgent::connect(&server, "alice", &[("alice", slow.await)]).await;
    let mut socket = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    visitor::read_until(&mut socket, "fine").await;
    assert!(visitor::read_to_end(&mut socket).await.unwrap().is_empty());
}

#[tokio::test]
async fn there_are_only_so_many_connections_in_all() {
    let server = TestServer::start(&[("limits.connections", "1")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let mut held = Visitor::connect(server.public).await;
    assert_eq!(held.ask(get("alice", "/")).await.status, StatusCode::OK);
    let mut second = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    assert!(visitor::read_to_end(&mut second).await.unwrap_or_default().is_empty());
    assert_eq!(held.ask(get("alice", "/")).await.status, StatusCode::OK);
}
