//! What visitors have open is shown, and can be ended.

use adit::schema::ValueKind;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Operator, audited};
use crate::harness::apps::{self, Script};
use crate::harness::puppet::{Puppet, hello};
use crate::harness::visitor::{self, read_until};
use crate::harness::{PATIENCE, TestAgent, service, soon, until_idle};

/// The one request that is open, when so many bytes of its body and of its answer have gone on: they are counted a moment
/// after they have.
async fn only(operator: &Operator, received: u64, sent: u64) -> Value {
    let what = format!("{received} bytes of a request and {sent} of its answer");
    soon(&what, async {
        loop {
            let told = operator.get("/api/v1/requests").await;
            let [request] = &told.body["items"].as_array().unwrap()[..] else { panic!("not one request: {told:?}") };
            if (&request["received"], &request["sent"]) == (&received.into(), &sent.into()) {
                return request.clone();
            }
        }
    })
    .await
}

async fn cut(operator: &Operator, request: &Value) {
    let path = format!("/api/v1/requests/{}", request["id"].as_str().unwrap());
    assert_eq!(operator.delete(&path).await.status, 204);
    until_idle(&operator.server.open, PATIENCE).await;
    assert_eq!(operator.delete(&path).await.code(), (404, "not_found"));
    assert_eq!(audited(request["id"].as_str().unwrap()).len(), 2);
}

/// A request whose application has it, and what the visitor has sent after its head.
async fn open(operator: &Operator, head: &str, body: &[u8]) -> (TestAgent, TcpStream, TcpStream) {
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&operator.server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(operator.server.public, head).await;
    visitor.write_all(body).await.unwrap();
    let (local, _) = app.request().await;
    (agent, visitor, local)
}

#[tokio::test]
async fn a_download_is_seen_and_cut() {
    let operator = Operator::start(&[]);
    let head = "GET /film.mp4?token=secret HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";
    let (_agent, mut visitor, mut local) = open(&operator, head, b"").await;
    let request = only(&operator, 0, 0).await;
    assert_eq!(request["status"], Value::Null);
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome").await.unwrap();
    read_until(&mut visitor, "some").await;
    let request = only(&operator, 0, 4).await;
    let words = ["client", "name", "method", "path", "visitor"].map(|key| request[key].as_str().unwrap().to_owned());
    assert_eq!(words, ["alice", "alice", "GET", "/film.mp4", "127.0.0.1"]);
    assert_eq!(request["status"], 200);
    assert!(request["started"].as_str().unwrap().ends_with('Z'));
    assert_eq!(operator.get("/api/v1/requests?client=alice").await.each("id").len(), 1);
    assert!(operator.get("/api/v1/requests?client=bob").await.each("id").is_empty());

    cut(&operator, &request).await;
    // Half an answer is never shown as a whole, and the application is free.
    let rest = visitor::read_to_end(&mut visitor).await.unwrap_or_default();
    assert!(rest.len() < 999_996, "{}", rest.len());
    apps::left(&mut local, PATIENCE).await;
    assert!(operator.get("/api/v1/requests").await.each("id").is_empty());
}

#[tokio::test]
async fn a_request_that_is_cut_before_its_answer_fails_and_is_not_sent_again() {
    let operator = Operator::start(&[]);
    // Two agents of one group: a request that fails is sent to the other one, unless the operator has ended it.
    let mut agents = Vec::new();
    for _ in 0..2 {
        let mut hello = hello("alice", &["alice"]);
        hello.services[0].group = Some("all".parse().unwrap());
        agents.push(Puppet::connect(&operator.server, &hello).await);
    }
    let mut visitor = visitor::raw(operator.server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    let [first, second] = &mut agents[..] else { unreachable!() };
    let (stream, other) = tokio::select! {
        stream = first.streams.recv() => (stream, second),
        stream = second.streams.recv() => (stream, first),
    };
    let _stream = stream.unwrap();
    let request = only(&operator, 0, 0).await;
    cut(&operator, &request).await;
    let answer = read_until(&mut visitor, "}\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-adit-error: cut_by_operator"), "{answer}");
    assert!(other.streams.try_recv().is_err(), "it was sent again");
}

#[tokio::test]
async fn an_upload_is_counted_and_cut() {
    let operator = Operator::start(&[]);
    let head = "POST /up HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 1000\r\n\r\n";
    let (_agent, mut visitor, mut local) = open(&operator, head, b"begin").await;
    read_until(&mut local, "begin").await;
    let request = only(&operator, 5, 0).await;
    assert_eq!(request["method"], "POST");
    cut(&operator, &request).await;
    let answer = read_until(&mut visitor, "}\n").await;
    assert!(answer.contains("cut_by_operator"), "{answer}");
    apps::left(&mut local, PATIENCE).await;
}

#[tokio::test]
async fn a_connection_to_a_tcp_service_is_seen_and_cut() {
    let operator = Operator::start(&[]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap().to_string();
    let tcp = service("alice", &local, &[("kind", ValueKind::from("tcp"))]);
    let _agent = TestAgent::connect_with(&operator.server, "alice", vec![tcp]).await;
    let services = operator.get("/api/v1/services").await;
    let port = u16::try_from(services.body["items"][0]["port"].as_u64().unwrap()).unwrap();
    let mut visitor = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut local, _) = soon("a connection", listener.accept()).await.unwrap();
    visitor.write_all(b"ping").await.unwrap();
    let mut ping = [0; 4];
    local.read_exact(&mut ping).await.unwrap();
    let request = only(&operator, 4, 0).await;
    assert_eq!((request["method"].as_str(), request["path"].as_str()), (Some("tcp"), Some("")));
    cut(&operator, &request).await;
    let end = soon("the end of the connection", visitor.read(&mut ping)).await;
    assert!(end.is_err(), "a connection that was cut ended like a whole one: {end:?}");
    apps::left(&mut local, PATIENCE).await;
}

#[tokio::test]
async fn an_upgraded_connection_is_cut() {
    let operator = Operator::start(&[]);
    let head = "GET /ws HTTP/1.1\r\nHost: alice.localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (_agent, mut visitor, mut local) = open(&operator, head, b"").await;
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi";
    local.write_all(switch).await.unwrap();
    read_until(&mut visitor, "hi").await;
    let request = only(&operator, 0, 2).await;
    assert_eq!(request["status"], 101);
    cut(&operator, &request).await;
    let _ = visitor::read_to_end(&mut visitor).await;
    apps::left(&mut local, PATIENCE).await;
}
