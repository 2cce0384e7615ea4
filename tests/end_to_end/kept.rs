//! Connections to an application that are kept for the next request, and applications that close them.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::apps::{Script, left};
use crate::harness::visitor::{Visitor, get, read_until, request};
use crate::harness::{PATIENCE, TestAgent, TestServer, service, soon, spawn};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers the first request of a connection, and gives the connection back.
async fn answer_one(app: &mut Script) -> (TcpStream, String) {
    let (mut local, head) = app.request().await;
    if head.contains("content-length: 4\r\n") {
        read_until(&mut local, "body").await;
    }
    local.write_all(OK).await.unwrap();
    (local, head)
}

#[tokio::test]
async fn a_connection_that_was_closed_in_the_meantime_costs_no_request() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    for number in 0..100 {
        // Nothing was sent of it: then it does not matter what the method is.
        let asked = match number % 2 {
            0 => get("alice", &format!("/{number}")),
            _ => request(Method::POST, "alice", &format!("/{number}"), "body"),
        };
        let (answer, (local, head)) = tokio::join!(visitor.ask(asked), answer_one(&mut app));
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"), "request {number}");
        // Each once, and in order.
        assert!(head.contains(&format!(" /{number} HTTP/1.1\r\n")), "{head}");
        // Without a word of it in the answer.
        drop(local);
    }
}

#[tokio::test]
async fn a_request_that_the_application_may_have_seen_is_sent_again_only_if_it_is_idempotent() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    let (_, (mut local, _)) = tokio::join!(visitor.ask(get("alice", "/first")), answer_one(&mut app));
    let seen = async {
        let head = read_until(&mut local, "\r\n\r\n").await;
        assert!(head.starts_with("POST /second "), "the connection was not kept: {head}");
        drop(local);
    };
    let (answer, ()) = tokio::join!(visitor.ask(request(Method::POST, "alice", "/second", "")), seen);
    assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "local_broken"));
    // What comes next is the next request.
    let (_, (mut local, head)) = tokio::join!(visitor.ask(get("alice", "/third")), answer_one(&mut app));
    assert!(head.starts_with("GET /third "), "{head}");
    let lost_once = async {
        let head = read_until(&mut local, "\r\n\r\n").await;
        assert!(head.starts_with("GET /fourth "), "the connection was not kept: {head}");
        drop(local);
        answer_one(&mut app).await
    };
    let (answer, (mut local, head)) = tokio::join!(visitor.ask(get("alice", "/fourth")), lost_once);
    assert_eq!((answer.status, answer.text(), head.starts_with("GET /fourth ")), (StatusCode::OK, "ok", true));
    drop(visitor);
    // The idle connection is given up in its time, and nothing more is said on it.
    soon("the end of an idle connection", left(&mut local, PATIENCE)).await;
}

/// One visitor must never get what was meant for another, whatever an application sends.
#[tokio::test]
async fn what_comes_behind_an_answer_is_nobodys_answer() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    let stale = [OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale"].concat();
    for late in [false, true] {
        let answer_too_much = async {
            let (mut local, _) = app.request().await;
            if late {
                local.write_all(OK).await.unwrap();
            } else {
                local.write_all(&stale).await.unwrap();
            }
            local
        };
        let (answer, mut local) = tokio::join!(visitor.ask(get("alice", "/first")), answer_too_much);
        assert_eq!(answer.text(), "ok");
        if late {
            local.write_all(&stale[OK.len()..]).await.unwrap();
        }
        let (answer, (_, head)) = tokio::join!(visitor.ask(get("alice", "/second")), answer_one(&mut app));
        assert_eq!((answer.text(), head.starts_with("GET /second ")), ("ok", true), "late: {late}");
        // Nobody was asked on the first connection again.
        soon("the end of the connection", left(&mut local, PATIENCE)).await;
    }
}

/// Microcontrollers and hand-written servers do that: they announce nothing, and close a little later.
#[tokio::test]
async fn an_application_that_closes_after_each_response_costs_no_request() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let application = spawn(async move {
        let mut served = JoinSet::new();
        for delay in (0..60).map(|number| Duration::from_millis(number % 20)) {
            let (mut local, _) = app.request().await;
            served.spawn(async move {
                local.write_all(OK).await.unwrap();
                tokio::time::sleep(delay).await;
            });
        }
        served.join_all().await
    });
    let mut visitor = Visitor::connect(server.public).await;
    for number in 0..60_u64 {
        let answer = visitor.ask(get("alice", &format!("/{number}"))).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"), "request {number}");
        tokio::time::sleep(Duration::from_millis(number % 13)).await;
    }
    soon("the application's last connection", application).await.unwrap();
}

#[tokio::test]
async fn a_service_without_keep_alive_has_a_connection_for_each_request() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let local = format!("http://{}", app.address);
    let services = vec![service("alice", &local, &[("keep_alive", false.into())])];
    let _agent = TestAgent::connect_with(&server, "alice", services).await;
    let mut visitor = Visitor::connect(server.public).await;
    for path in ["/one", "/two"] {
        let (answer, (_, head)) = tokio::join!(visitor.ask(get("alice", path)), answer_one(&mut app));
        assert_eq!(answer.text(), "ok");
        assert!(head.starts_with(&format!("GET {path} ")) && head.contains("\r\nconnection: close\r\n"), "{head}");
    }
}
