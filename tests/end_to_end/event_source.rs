//! `EventSource` in a browser reconnects after a broken connection, and never again after a status.

use std::net::SocketAddr;

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Http2Visitor, StreamBody, http2_request, read_until};
use crate::harness::{TestAgent, TestServer, soon, until_idle};

const ASK: &str = "GET /events HTTP/1.1\r\nHost: alice.localhost\r\nAccept: text/event-stream\r\n\r\n";

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                      9\r\ndata: a\n\n\r\n";

fn ask() -> Request<StreamBody> {
    let mut request = http2_request(Method::GET, "alice", "/events", "");
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    request
}

/// Answers the next request at `address`, where nothing has listened until now, with events.
async fn application_returns(address: SocketAddr) -> TcpStream {
    let listener = TcpListener::bind(address).await.unwrap();
    let (mut local, _) = soon("a request", listener.accept()).await.unwrap();
    assert!(read_until(&mut local, "\r\n\r\n").await.starts_with("GET /events "));
    local.write_all(EVENTS.as_bytes()).await.unwrap();
    local
}

/// Waits until the server forwards a request.
async fn until_forwarded(server: &TestServer) {
    soon("a request", async {
        while server.open.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn events_wait_for_an_application_that_restarts() {
    let server = TestServer::start(&[]);
    let address = apps::nothing().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", address)]).await;
    let mut visitor = visitor::raw(server.public, ASK).await;
    until_forwarded(&server).await;
    let local = application_returns(address).await;
    assert!(read_until(&mut visitor, "data: a\n\n").await.starts_with("HTTP/1.1 200 "));
    // It restarts: the connection breaks off, and the browser asks again.
    drop(local);
    let rest = visitor::read_to_end(&mut visitor).await.unwrap_or_default();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    until_idle(&server.open, crate::harness::PATIENCE).await;
    let http2 = Http2Visitor::connect(server.public).await;
    let (answer, _local) = tokio::join!(http2.begin(ask()), async {
        until_forwarded(&server).await;
        application_returns(address).await
    });
    let mut answer = answer.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(soon("an event", answer.frame()).await.unwrap().unwrap().into_data().unwrap(), "data: a\n\n");
}

#[tokio::test]
async fn events_wait_for_an_agent_that_restarts() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, ASK).await;
    let (mut local, _) = app.request().await;
    local.write_all(EVENTS.as_bytes()).await.unwrap();
    read_until(&mut visitor, "data: a\n\n").await;
    agent.crash().await;
    let rest = visitor::read_to_end(&mut visitor).await.unwrap_or_default();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    // The browser asks again before there is an agent.
    let mut visitor = visitor::raw(server.public, ASK).await;
    let http2 = Http2Visitor::connect(server.public).await;
    let mut again = std::pin::pin!(http2.begin(ask()));
    let head = "GET / HTTP/1.1\r\nHost: alice.localhost\r\nConnection: close\r\n\r\n";
    tokio::select! {
        _ = again.as_mut() => panic!("the request was answered without an agent"),
        other = async { visitor::read_to_end(&mut visitor::raw(server.public, head).await).await } => {
            assert!(other.unwrap().starts_with(b"HTTP/1.1 503 "), "other requests do not wait");
        }
    }
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let answered = async {
        let mut locals = Vec::new();
        for _ in 0..2 {
            let (mut local, _) = app.request().await;
            local.write_all(EVENTS.as_bytes()).await.unwrap();
            locals.push(local);
        }
        locals
    };
    let (answer, text, _locals) = tokio::join!(again, read_until(&mut visitor, "data: a\n\n"), answered);
    assert!(answer.unwrap().status() == StatusCode::OK && text.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn events_end_without_a_status_if_nothing_returns() {
    let server = TestServer::start(&[]);
    let agent = TestAgent::connect(&server, "alice", &[("alice", apps::nothing().await)]).await;
    for agent in [Some(agent), None] {
        let mut visitor = visitor::raw(server.public, ASK).await;
        let http2 = Http2Visitor::connect(server.public).await;
        let ended = async {
            let mut text = Vec::new();
            // A reset is as good as an end.
            soon("the end of the connection", visitor.read_to_end(&mut text)).await.ok();
            assert_eq!(String::from_utf8_lossy(&text), "", "a status ends an event source");
        };
        let (answer, ()) = tokio::join!(http2.begin(ask()), ended);
        assert!(answer.is_err(), "a status ends an event source: {answer:?}");
        // The connection lives on, and other requests have their status.
        let (answer, _) = http2.ask(http2_request(Method::GET, "alice", "/", "")).await;
        let expected = if agent.is_some() { StatusCode::BAD_GATEWAY } else { StatusCode::SERVICE_UNAVAILABLE };
        assert_eq!(answer.status, expected);
        if let Some(agent) = agent {
            agent.crash().await;
        }
    }
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn events_that_no_wait_can_bring_back_get_their_status_at_once() {
    let server = TestServer::start(&[]);
    let http2 = Http2Visitor::connect(server.public).await;
    let mut request = http2_request(Method::GET, "nobody", "/events", "");
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    assert_eq!(http2.ask(request).await.0.status, StatusCode::NOT_FOUND);
    let mut request = http2_request(Method::POST, "alice", "/events", "");
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    assert_eq!(http2.ask(request).await.0.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn events_beyond_a_limit_end_without_a_status_so_that_the_browser_asks_again() {
    let server = TestServer::start(&[("limits.per_ip.streams", "1")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let _first = visitor::raw(server.public, ASK).await;
    let (_local, _) = app.request().await;
    let mut visitor = visitor::raw(server.public, ASK).await;
    let mut text = Vec::new();
    soon("the end of the connection", visitor.read_to_end(&mut text)).await.ok();
    assert_eq!(String::from_utf8_lossy(&text), "");
    let http2 = Http2Visitor::connect(server.public).await;
    assert!(http2.begin(ask()).await.is_err());
    assert_eq!(http2.ask(http2_request(Method::GET, "alice", "/", "")).await.0.status, StatusCode::TOO_MANY_REQUESTS);
}
