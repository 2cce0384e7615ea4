//! Requests that become connections.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::apps::Script;
use crate::harness::visitor::{self, read_until};
use crate::harness::{TestAgent, TestServer, until_idle};

const ASK: &str =
    "GET /chat HTTP/1.1\r\nHost: alice.localhost\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nX-Key: 1\r\n\r\n";
const AGREE: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nX-Accept: 2\r\n\r\nfirst";

async fn upgraded() -> (TestServer, TestAgent, TcpStream, TcpStream) {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, ASK).await;
    let (mut local, head) = app.request().await;
    let head = head.to_ascii_lowercase();
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: echo/1\r\n"), "{head}");
    assert!(head.contains("x-key: 1\r\n"), "{head}");
    local.write_all(AGREE).await.unwrap();
    let answer = read_until(&mut visitor, "\r\n\r\n").await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("connection: upgrade\r\n") && answer.contains("upgrade: echo/1\r\n"), "{answer}");
    assert!(answer.contains("x-accept: 2\r\n"), "{answer}");
    read_until(&mut visitor, "first").await;
    (server, agent, visitor, local)
}

#[tokio::test]
async fn both_sides_speak_and_each_ends_on_its_own() {
    let (server, _agent, mut visitor, mut local) = upgraded().await;
    visitor.write_all(b"ping").await.unwrap();
    read_until(&mut local, "ping").await;
    local.write_all(b"pong").await.unwrap();
    read_until(&mut visitor, "pong").await;
    // A half-close: the other direction goes on.
    visitor.shutdown().await.unwrap();
    assert_eq!(visitor::read_to_end(&mut local).await.unwrap(), b"");
    local.write_all(b"late reply").await.unwrap();
    local.shutdown().await.unwrap();
    assert_eq!(visitor::read_to_end(&mut visitor).await.unwrap(), b"late reply");
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

/// The bytes of an upgraded connection are nobody's requests or answers, however much they look like them.
#[tokio::test]
async fn nothing_is_changed_on_an_upgraded_connection() {
    let (server, _agent, mut visitor, mut local) = upgraded().await;
    let request = b"GET /a<b>`c?\"d\" HTTP/1.1\r\nHost: x\r\n\r\n#<>\"` <\xff>\n\x00 ";
    let sent: Vec<u8> = request.iter().copied().cycle().take(300_000).collect();
    // What the HTTP library itself answers to a head that it cannot read.
    let back = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let (mut there, mut here) = (vec![0; sent.len()], vec![0; back.len()]);
    let forth = async {
        visitor.write_all(&sent).await.unwrap();
        visitor.read_exact(&mut here).await.unwrap();
    };
    let answered = async {
        local.read_exact(&mut there).await.unwrap();
        local.write_all(back).await.unwrap();
    };
    crate::harness::soon("both directions", async { tokio::join!(forth, answered) }).await;
    assert!(there == sent, "changed on the way to the application");
    assert_eq!(here, back);
    drop((visitor, local));
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

/// An orderly end says that everything was said.
#[tokio::test]
async fn a_connection_that_breaks_off_has_no_orderly_end_on_the_other_side() {
    let (server, _agent, visitor, mut local) = upgraded().await;
    socket2::SockRef::from(&visitor).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(visitor);
    assert!(visitor::read_to_end(&mut local).await.is_err(), "a reset looked like an end to the application");
    until_idle(&server.open, crate::harness::PATIENCE).await;

    let (server, _agent, mut visitor, local) = upgraded().await;
    socket2::SockRef::from(&local).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(local);
    assert!(visitor::read_to_end(&mut visitor).await.is_err(), "a reset looked like an end to the visitor");
    until_idle(&server.open, crate::harness::PATIENCE).await;

    let (server, agent, mut visitor, _local) = upgraded().await;
    agent.crash().await;
    assert!(visitor::read_to_end(&mut visitor).await.is_err(), "a lost agent looked like an end");
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn an_application_may_decline() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, ASK).await;
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    let answer = read_until(&mut visitor, "no").await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn http_2_is_no_upgrade() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let ask = "GET / HTTP/1.1\r\nHost: alice.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let mut visitor = visitor::raw(server.public, ask).await;
    let (mut local, head) = app.request().await;
    let head = head.to_ascii_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert!(read_until(&mut visitor, "ok").await.starts_with("HTTP/1.1 200"));
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn an_upgraded_connection_does_not_outlive_the_drain() {
    let server = TestServer::start(&[("tunnel.drain_timeout", "200ms")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, ASK).await;
    let (mut local, _) = app.request().await;
    local.write_all(AGREE).await.unwrap();
    read_until(&mut visitor, "first").await;
    assert_eq!(server.stop().await.requests_cut, 1);
    assert!(visitor::read_to_end(&mut visitor).await.is_err(), "a cut looked like an end");
}
