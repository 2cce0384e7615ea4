//! Visitors who want more than their share: they are told so, and others find what they need.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Answer, Visitor, fetch, first_refusal, get, http2_request};
use crate::harness::{PATIENCE, TestAgent, TestServer, soon, until_idle};

const ASK: &str = "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";

/// HTTP/2 by hand: a visitor whose answers have no window, and its request for `alice`.
const NO_WINDOW: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0\
    \0\0\x14\x01\x05\0\0\0\x01\x82\x84\x86\x01\x0falice.localhost";

/// A connection from another address of this machine.
async fn from_elsewhere(public: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    soon("a public port", socket.connect(public)).await.unwrap()
}

/// Whether the server still has this connection: one that it has closed ends at once.
async fn is_served(socket: &mut TcpStream) -> bool {
    let _ = socket.write_all(ASK.as_bytes()).await;
    let mut byte = [0];
    matches!(soon("an answer, or the end", tokio::io::AsyncReadExt::read(socket, &mut byte)).await, Ok(1))
}

fn limit_fields(answer: &Answer) -> [&str; 6] {
    ["retry-after", "ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]
        .map(|name| answer.header(name))
}

#[tokio::test]
async fn whoever_asks_too_often_hears_how_far_the_limit_goes() {
    let server = TestServer::start(&[("limits.per_ip.requests_per_second", "2"), ("limits.per_ip.burst", "6")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    let first = visitor.ask(get("alice", "/")).await;
    assert_eq!((first.status, limit_fields(&first)), (StatusCode::OK, [""; 6]), "what the application says, alone");
    let refused = first_refusal(server.public, StatusCode::OK, || http2_request(Method::GET, "alice", "/", "")).await;
    assert_eq!((refused.status, refused.header("x-adit-error")), (StatusCode::TOO_MANY_REQUESTS, "rate_limited"));
    assert_eq!(limit_fields(&refused), ["1", "\"address\";q=6;w=3", "\"address\";r=0;t=1", "6", "0", "1"]);
}

#[tokio::test]
async fn all_visitors_of_a_site_together_hear_it_too() {
    let limits = [("limits.per_client.requests_per_second", "1"), ("limits.per_client.burst", "2")];
    let server = TestServer::start(&limits);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let refused = first_refusal(server.public, StatusCode::OK, || http2_request(Method::GET, "alice", "/", "")).await;
    assert_eq!((refused.status, refused.header("x-adit-error")), (StatusCode::TOO_MANY_REQUESTS, "site_rate_limited"));
    assert_eq!(limit_fields(&refused), ["1", "\"site\";q=2;w=2", "\"site\";r=0;t=1", "2", "0", "1"]);
}

#[tokio::test]
async fn a_server_without_agents_says_when_to_look_again() {
    let server = TestServer::start(&[]);
    let mut visitor = Visitor::connect(server.public).await;
    let mut request = get("alice", "/health");
    request.headers_mut().insert("host", "localhost".parse().unwrap());
    let answer = visitor.ask(request).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "5"));
}

#[tokio::test]
async fn an_address_has_only_so_many_requests_open() {
    let server = TestServer::start(&[("limits.per_ip.streams", "2")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let visitor = visitor::raw(server.public, ASK).await;
        open.push((visitor, app.request().await.0));
    }
    let refused = fetch(server.public, "alice", "/").await;
    assert_eq!((refused.status, refused.header("x-adit-error")), (StatusCode::TOO_MANY_REQUESTS, "address_busy"));
    assert_eq!(refused.header("retry-after"), "1");
    // Somebody else is served.
    let mut other = from_elsewhere(server.public).await;
    other.write_all(ASK.as_bytes()).await.unwrap();
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nother").await.unwrap();
    visitor::read_until(&mut other, "other").await;
    // And so is the address, when one of its requests has ended.
    drop(open.pop());
    let again = async {
        loop {
            let mut visitor = visitor::raw(server.public, ASK).await;
            let refused = visitor::read_until(&mut visitor, "\r\n");
            tokio::select! {
                request = app.request() => return request,
                _ = refused => {}
            }
        }
    };
    soon("room for another request", again).await;
}

#[tokio::test]
async fn requests_that_a_trusted_proxy_brings_are_not_counted_as_one_address() {
    let server = TestServer::start(&[("limits.per_ip.streams", "1"), ("public.trusted_proxies", "127.0.0.1")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let visitor = visitor::raw(server.public, ASK).await;
        open.push((visitor, app.request().await));
    }
}

#[tokio::test]
async fn an_address_with_many_connections_leaves_some_for_others() {
    let server = TestServer::start(&[("limits.connections", "64")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut socket = from_elsewhere(server.public).await;
        if is_served(&mut socket).await {
            held.push(socket);
        }
    }
    assert!((8..=32).contains(&held.len()), "about half of them, not {}", held.len());
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "fine");
}

#[tokio::test]
async fn an_http2_visitor_that_opens_no_window_is_given_up() {
    let server =
        TestServer::start(&[("timeouts.idle", "400ms"), ("timeouts.keep_alive", "1h"), ("timeouts.head", "1m")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut socket = soon("a public port", TcpStream::connect(server.public)).await.unwrap();
    socket.write_all(NO_WINDOW).await.unwrap();
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1234567890").await.unwrap();
    // The head of the answer still comes, and nothing else before the end.
    let rest = visitor::read_to_end(&mut socket).await.unwrap_or_default();
    assert!(!rest.windows(4).any(|bytes| bytes == b"1234"), "there was no window for it");
    until_idle(&server.open, PATIENCE).await;
}
