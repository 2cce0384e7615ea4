//! Limits on the memory for large heads of waiting requests.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::task::JoinHandle;

use crate::harness::visitor::{self, Http2Visitor, StreamBody, fetch, http2_request};
use crate::harness::{TestAgent, TestServer, apps, soon, spawn};

/// An application that never answers below `/wait`.
async fn patient() -> SocketAddr {
    apps::with(|request: Request<_>| async move {
        if request.uri().path() == "/wait" {
            std::future::pending::<()>().await;
        }
        Response::new(Full::new(Bytes::from_static(b"ok")))
    })
    .await
}

/// A request of `name` whose head takes about `size` bytes, on behalf of the address `from`.
fn large(name: &str, path: &str, size: usize, from: &str) -> Request<StreamBody> {
    let mut request = http2_request(Method::GET, name, path, "");
    request.headers_mut().insert("x-forwarded-for", from.parse().unwrap());
    // Fields that would be one byte each on the wire, if the visitor's library compressed as well as an attacker.
    for _ in 0..size.div_ceil(4096) {
        request.headers_mut().append("x-large", "x".repeat(4000).parse().unwrap());
    }
    request
}

/// Sends a request that is not answered, and waits until its head is held.
async fn hold(server: &TestServer, visitor: &Http2Visitor, request: Request<StreamBody>) -> JoinHandle<()> {
    let before = server.held_heads.in_use();
    let mut sender = visitor.sender();
    let waits = spawn(async move { drop(sender.send_request(request).await) });
    soon("a head that is held", async {
        while server.held_heads.in_use() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    waits
}

#[tokio::test]
async fn large_heads_that_wait_are_bounded_for_address_and_client() {
    // An address may hold 64 KiB of it, and a client 256 KiB.
    let server = TestServer::start(&[("limits.held_heads", "1048576"), ("public.trusted_proxies", "127.0.0.1/32")]);
    let app = patient().await;
    let _alice = TestAgent::connect(&server, "alice", &[("alice", app)]).await;
    let _bob = TestAgent::connect(&server, "bob", &[("bob", app)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let mut waiting = vec![hold(&server, &visitor, large("alice", "/wait", 60_000, "192.0.2.1")).await];
    // The address has its part, whomever it asks.
    for name in ["alice", "bob"] {
        let (answer, _) = visitor.ask(large(name, "/", 60_000, "192.0.2.1")).await;
        assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::SERVICE_UNAVAILABLE, "heads_busy"));
        assert_eq!(answer.header("retry-after"), "1");
    }
    // A small head is free, and others have their own.
    let (answer, _) = visitor.ask(large("alice", "/", 4_000, "192.0.2.1")).await;
    assert_eq!(answer.text(), "ok");
    for last in 2..=4 {
        waiting.push(hold(&server, &visitor, large("alice", "/wait", 60_000, &format!("192.0.2.{last}"))).await);
    }
    // Now alice has hers; bob has his.
    let mut refused = 0;
    for last in 5..=9 {
        let (answer, _) = visitor.ask(large("alice", "/", 60_000, &format!("192.0.2.{last}"))).await;
        refused += usize::from(answer.header("x-adit-error") == "heads_busy");
        let (answer, _) = visitor.ask(large("bob", "/", 60_000, &format!("192.0.2.{last}"))).await;
        assert_eq!(answer.text(), "ok");
    }
    assert_eq!(refused, 5);
    // Everything is given back with the requests.
    waiting.iter().for_each(JoinHandle::abort);
    soon("the end of all that is held", async {
        while server.held_heads.in_use() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Nothing is charged any more once the answer has begun, however long its body takes.
#[tokio::test]
async fn a_head_is_charged_until_its_answer_begins() {
    let server = TestServer::start(&[]);
    let app = patient().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let answer = visitor.begin(large("alice", "/", 60_000, "192.0.2.1")).await.unwrap();
    assert_eq!((answer.status(), server.held_heads.in_use()), (StatusCode::OK, 0));
}

/// An agent holds 16 MiB of them for one service, and refuses the rest before its application hears of it.
#[tokio::test]
async fn an_agent_refuses_what_it_has_no_room_for() {
    let settings = [("limits.held_heads", "4000000000"), ("limits.head_size", "262144")];
    let server = TestServer::start(&settings);
    let app = patient().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app), ("blog", app)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let (sender, mut ended) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..120 {
        let (mut requests, sender) = (visitor.sender(), sender.clone());
        spawn(async move { sender.send(requests.send_request(large("alice", "/wait", 200_000, "192.0.2.1")).await) });
    }
    // 16 MiB are 87 of them.
    for _ in 0..30 {
        let answer = soon("a refusal", ended.recv()).await.unwrap().unwrap();
        let code = answer.headers()["x-adit-error"].to_str().unwrap();
        assert_eq!((answer.status(), code), (StatusCode::SERVICE_UNAVAILABLE, "tunnel_busy"));
    }
    // Another service of the same agent has room, and so have small heads.
    let (answer, _) = visitor.ask(large("blog", "/", 200_000, "192.0.2.1")).await;
    assert_eq!(answer.text(), "ok");
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "ok");
}

/// What a head takes is counted in bytes; the number of its fields matters only far above what anybody sends.
#[tokio::test]
async fn many_small_fields_are_no_large_head() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    for (count, status) in [(99, "200"), (150, "200"), (600, "431")] {
        let fields: String = (0..count).map(|at| format!("X-{at}: {at}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: alice.localhost\r\nConnection: close\r\n{fields}\r\n");
        let mut visitor = visitor::raw(server.public, &head).await;
        let answer = String::from_utf8(visitor::read_to_end(&mut visitor).await.unwrap()).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{count}: {answer}");
        assert!(status != "200" || answer.contains(&format!("x-{}: {}\n", count - 1, count - 1)), "{count}: {answer}");
    }
}
