//! Answers that come before the request was sent to its end, and what the visitor still sends then.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::apps::Script;
use crate::harness::visitor::{raw, read_to_end, read_until};
use crate::harness::{PATIENCE, TestAgent, TestServer, soon, until_idle};

/// More than the kernel takes from a visitor whom nobody reads.
const MUCH: usize = 32 * 1024 * 1024;

/// Goes on sending what nobody wants. No write may fail, and the connection must end in order: after a reset, an answer
/// that the visitor has not read yet is lost on many systems.
async fn ends_in_order(mut visitor: TcpStream) {
    let piece = vec![b'x'; 64 * 1024];
    let send = async {
        for _ in 0..MUCH / piece.len() {
            visitor.write_all(&piece).await.expect("the connection was reset");
        }
        visitor.shutdown().await.unwrap();
    };
    soon("the rest of the request", send).await;
    assert_eq!(read_to_end(&mut visitor).await.expect("the connection was reset"), b"");
}

#[tokio::test]
async fn an_application_that_refuses_an_upload_is_heard() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let asked = format!("POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: {}\r\n\r\n", MUCH + 4);
    let mut visitor = raw(server.public, &asked).await;
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nless").await.unwrap();
    drop(local);
    // The agent tries to send it, and learns that nobody reads.
    visitor.write_all(b"some").await.unwrap();
    assert!(read_until(&mut visitor, "less").await.starts_with("HTTP/1.1 413"));
    ends_in_order(visitor).await;
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_request_that_the_server_refuses_itself_is_answered_all_the_same() {
    let server = TestServer::start(&[]);
    let asked = format!("POST / HTTP/1.1\r\nHost: nobody.localhost\r\nContent-Length: {}\r\n\r\n", MUCH);
    let long = format!("GET / HTTP/1.1\r\nHost: nobody.localhost\r\nX: {}\r\n", "x".repeat(100_000));
    for (asked, status) in [(asked, "HTTP/1.1 404"), (long, "HTTP/1.1 431")] {
        let mut visitor = raw(server.public, &asked).await;
        let answer = read_until(&mut visitor, "\r\n\r\n").await;
        assert!(answer.starts_with(status), "{answer}");
        let length =
            answer.to_ascii_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse();
        tokio::io::AsyncReadExt::read_exact(&mut visitor, &mut vec![0; length.unwrap()]).await.unwrap();
        ends_in_order(visitor).await;
    }
}

#[tokio::test]
async fn a_visitor_that_pauses_learns_that_nobody_wants_the_rest() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let asked = "POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 1000000\r\n\r\nsome";
    let mut visitor = raw(server.public, asked).await;
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nless").await.unwrap();
    drop(local);
    assert!(read_until(&mut visitor, "less").await.starts_with("HTTP/1.1 413"));
    assert_eq!(read_to_end(&mut visitor).await.unwrap(), b"");
    until_idle(&server.open, PATIENCE).await;
}
