//! HTTP/2 applications that end a connection, or refuse a request unseen (RFC 9113, section 8.7), frame by frame.

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::apps::Script;
use crate::harness::visitor::{Visitor, request};
use crate::harness::{TestAgent, TestServer, service, soon};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const REFUSED_STREAM: u32 = 7;
const INTERNAL_ERROR: u32 = 2;

async fn say(local: &mut TcpStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    local.write_all(&frame).await.unwrap();
}

/// A fresh connection, greeted.
async fn connection(app: &mut Script) -> TcpStream {
    let (mut local, preface) = app.request().await;
    assert!(preface.starts_with("PRI * HTTP/2.0"), "{preface}");
    local.read_exact(&mut [0; 6]).await.unwrap();
    say(&mut local, SETTINGS, 0, 0, &[]).await;
    local
}

/// Reads a request to its end: its stream, and its body.
async fn next(local: &mut TcpStream) -> (u32, Vec<u8>) {
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        soon("a frame", local.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        local.read_exact(&mut payload).await.unwrap();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if head[3] == DATA {
            body.extend(payload);
        }
        if matches!(head[3], DATA | HEADERS) && head[4] & 1 == 1 {
            return (stream, body);
        }
    }
}

/// Answers 204: the one field is in the static table.
async fn answer(local: &mut TcpStream, stream: u32) {
    say(local, HEADERS, 5, stream, &[0x89]).await;
}

async fn go_away(local: &mut TcpStream, last: u32) {
    say(local, GOAWAY, 0, 0, &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat()).await;
}

struct Stage {
    _server: TestServer,
    _agent: TestAgent,
    app: Script,
    visitor: Visitor,
}

async fn stage() -> Stage {
    let server = TestServer::start(&[]);
    let app = Script::start().await;
    let services = vec![service("alice", &format!("h2c://{}", app.address), &[])];
    let agent = TestAgent::connect_with(&server, "alice", services).await;
    let visitor = Visitor::connect(server.public).await;
    Stage { _server: server, _agent: agent, app, visitor }
}

#[tokio::test]
async fn a_request_that_was_refused_unseen_is_sent_again_with_its_body() {
    let Stage { app, visitor, .. } = &mut stage().await;
    let asked = visitor.ask(request(Method::POST, "alice", "/", "the body"));
    let refused = async {
        let mut one = connection(app).await;
        assert_eq!(next(&mut one).await, (1, b"the body".to_vec()));
        go_away(&mut one, 0).await;
        let mut two = connection(app).await;
        let (stream, body) = next(&mut two).await;
        assert_eq!(body, b"the body");
        say(&mut two, RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes()).await;
        let mut three = connection(app).await;
        let (stream, body) = next(&mut three).await;
        assert_eq!(body, b"the body");
        answer(&mut three, stream).await;
        (one, two, three)
    };
    let (answer, _connections) = tokio::join!(asked, refused);
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_request_that_was_taken_is_sent_once() {
    let Stage { app, visitor, .. } = &mut stage().await;
    for how in ["a reset", "an end that names it", "no word"] {
        let asked = visitor.ask(request(Method::POST, "alice", "/", "once"));
        let broken = async {
            let mut local = connection(app).await;
            let (stream, _) = next(&mut local).await;
            match how {
                "a reset" => say(&mut local, RST_STREAM, 0, stream, &INTERNAL_ERROR.to_be_bytes()).await,
                "an end that names it" => go_away(&mut local, stream).await,
                _ => {}
            }
            local.shutdown().await.unwrap();
            local
        };
        let (answer, _local) = tokio::join!(asked, broken);
        assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "local_broken"), "{how}");
    }
    // Whatever was sent again would be the first to come.
    let asked = visitor.ask(request(Method::POST, "alice", "/", "the last"));
    let answered = async {
        let mut local = connection(app).await;
        let (stream, body) = next(&mut local).await;
        assert_eq!(body, b"the last");
        answer(&mut local, stream).await;
        local
    };
    let (answer, _local) = tokio::join!(asked, answered);
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_idempotent_request_is_sent_once_more_if_a_connection_that_has_answered_ends() {
    let Stage { app, visitor, .. } = &mut stage().await;
    for (method, how) in [(Method::GET, "no word"), (Method::PUT, "no word"), (Method::GET, "an end that names it")] {
        let (first, mut local) = tokio::join!(visitor.ask(request(Method::GET, "alice", "/", "")), async {
            let mut local = connection(app).await;
            let (stream, _) = next(&mut local).await;
            answer(&mut local, stream).await;
            local
        });
        assert_eq!(first.status, StatusCode::NO_CONTENT);
        let asked = visitor.ask(request(method.clone(), "alice", "/", if method == Method::PUT { "once" } else { "" }));
        let lost = async {
            let (stream, body) = next(&mut local).await;
            if how != "no word" {
                go_away(&mut local, stream).await;
            }
            drop(local);
            let mut other = connection(app).await;
            let (stream, again) = next(&mut other).await;
            assert_eq!(body, again);
            answer(&mut other, stream).await;
            other
        };
        let (answer, other) = tokio::join!(asked, lost);
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{method}, {how}");
        drop(other);
    }
}
