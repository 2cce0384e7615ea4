//! Visitors who speak HTTP/2, on the plain port by prior knowledge (RFC 9113, section 3.3).

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Http2Visitor, StreamBody, http2_request};
use crate::harness::{PATIENCE, TestAgent, TestServer, soon, until_idle};

fn get(path: &str) -> Request<StreamBody> {
    http2_request(Method::GET, "alice", path, "")
}

fn grpc(name: &str) -> Request<StreamBody> {
    let mut request = http2_request(Method::POST, name, "/package.Service/Method", "\0\0\0\0\0");
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request
}

#[tokio::test]
async fn a_request_arrives_as_if_it_had_come_over_http_1_1() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let mut request = http2_request(Method::PUT, "alice", "/a//b%2Fc?d", "the body");
    for cookie in ["a=1", "b=2"] {
        request.headers_mut().append("cookie", cookie.parse().unwrap());
    }
    let (answer, _) = visitor.ask(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    let text = answer.text();
    assert!(text.starts_with("PUT /a//b%2Fc?d\n") && text.ends_with("\n\nthe body"), "{text}");
    for line in ["cookie: a=1; b=2\n", "host: alice.localhost\n", "x-forwarded-proto: http\n"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    until_idle(&server.open, PATIENCE).await;
}

/// A request whose body is sent by and by.
fn upload() -> (Request<StreamBody>, mpsc::Sender<Bytes>) {
    let (sender, pieces) = mpsc::channel::<Bytes>(1);
    let body = futures_util::stream::unfold(pieces, async |mut pieces| {
        pieces.recv().await.map(|piece| (Ok(Frame::data(piece)), pieces))
    });
    let mut request = http2_request(Method::PUT, "alice", "/", "");
    *request.body_mut() = http_body_util::StreamBody::new(body).boxed();
    (request, sender)
}

/// Sends much more than any window.
async fn send_much(body: mpsc::Sender<Bytes>) {
    for _ in 0..64 {
        let piece = Bytes::from_static(&[b'x'; 65_536]);
        soon("room for more", body.send(piece)).await.expect("the request was reset");
    }
}

// Some visitors lose an answer when their request is reset before all of it is sent, be that without an error.
#[tokio::test]
async fn the_rest_of_a_request_that_is_refused_is_taken() {
    let server = TestServer::start(&[]);
    let visitor = Http2Visitor::connect(server.public).await;
    let (request, body) = upload();
    let (answer, _) = visitor.ask(request).await;
    assert_eq!(answer.header("x-adit-error"), "tunnel_offline");
    send_much(body).await;
    assert_eq!(visitor.ask(get("/")).await.0.header("x-adit-error"), "tunnel_offline");
}

#[tokio::test]
async fn the_rest_of_a_request_that_the_application_does_not_read_is_taken() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let (request, body) = upload();
    let (answer, ()) = tokio::join!(visitor.ask(request), async {
        let (mut local, _) = app.request().await;
        let refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig\n";
        local.write_all(refusal).await.unwrap();
    });
    assert_eq!(answer.0.status, StatusCode::PAYLOAD_TOO_LARGE);
    // Which the agent has heard by then, and lets the stream go.
    until_idle(&server.open, PATIENCE).await;
    send_much(body).await;
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let paths: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
    let asked = futures_util::future::join_all(paths.iter().map(|path| visitor.ask(get(path))));
    let answered = async {
        let mut open = Vec::new();
        for _ in &paths {
            open.push(app.request().await);
        }
        // All of them are open at once; the last one is answered first.
        for (socket, head) in open.iter_mut().rev() {
            let path = head.split(' ').nth(1).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let (answers, ()) = tokio::join!(asked, answered);
    let texts: Vec<&str> = answers.iter().map(|(answer, _)| answer.text()).collect();
    assert_eq!(texts, paths);
}

#[tokio::test]
async fn trailers_reach_the_visitor() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let answer = async {
        let (mut local, _) = app.request().await;
        let text =
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n";
        local.write_all(text.as_bytes()).await.unwrap();
        local
    };
    let ((answer, trailers), _local) = tokio::join!(visitor.ask(get("/")), answer);
    assert_eq!((answer.text(), trailers["x-sum"].to_str().unwrap()), ("ok", "1"));
}

#[tokio::test]
async fn a_grpc_client_gets_a_grpc_status_from_the_server_itself() {
    let server = TestServer::start(&[]);
    let visitor = Http2Visitor::connect(server.public).await;
    for (name, status, code) in [("nobody", "12", "unknown_name"), ("alice", "14", "tunnel_offline")] {
        let (answer, _) = visitor.ask(grpc(name)).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!((answer.header("grpc-status"), answer.header("x-adit-error")), (status, code));
        assert_eq!(answer.header("content-type"), "application/grpc");
        assert!(!answer.header("grpc-message").is_empty() && answer.body.is_empty());
    }
}

/// A piece of a body makes such an answer one that breaks off (RFC 9113, section 8.1.1).
#[tokio::test]
async fn the_servers_own_page_has_no_body_for_head() {
    let server = TestServer::start(&[]);
    let visitor = Http2Visitor::connect(server.public).await;
    let (page, _) = visitor.ask(http2_request(Method::GET, "nobody", "/", "")).await;
    let (head, _) = visitor.ask(http2_request(Method::HEAD, "nobody", "/", "")).await;
    assert_eq!((head.status, head.header("x-adit-error")), (page.status, "unknown_name"));
    assert_eq!((head.header("content-length"), head.text()), (page.body.len().to_string().as_str(), ""));
}

#[tokio::test]
async fn a_grpc_answer_that_is_cut_ends_with_a_status() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let cut = async {
        let (mut local, _) = app.request().await;
        let text = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n";
        local.write_all(text.as_bytes()).await.unwrap();
        local
    };
    let (answer, _local) = tokio::join!(visitor.begin(grpc("alice")), cut);
    let mut body = answer.unwrap().into_body();
    let first = soon("a message", body.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "\0\0\0\0\0");
    agent.crash().await;
    let trailers = soon("trailers", body.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
}

#[tokio::test]
async fn any_other_answer_that_is_cut_is_reset() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let cut = async {
        let (mut local, _) = app.request().await;
        local.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await.unwrap();
        local
    };
    let (answer, _local) = tokio::join!(visitor.begin(get("/")), cut);
    let mut body = answer.unwrap().into_body();
    assert_eq!(soon("some data", body.frame()).await.unwrap().unwrap().into_data().unwrap(), "half");
    agent.crash().await;
    assert!(soon("an error", body.frame()).await.unwrap().is_err(), "a cut looked like an end");
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_visitor_that_resets_a_request_is_not_served_on() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let (mut local, _) = tokio::select! {
        _ = visitor.begin(get("/")) => panic!("nobody has answered"),
        request = app.request() => request,
    };
    apps::left(&mut local, PATIENCE).await;
    until_idle(&server.open, PATIENCE).await;
    let (answer, _) = tokio::join!(visitor.begin(get("/again")), async {
        let (mut local, _) = app.request().await;
        local.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        local
    });
    assert_eq!(answer.unwrap().status(), StatusCode::NO_CONTENT, "the connection lives on");
}

#[tokio::test]
async fn a_connection_without_requests_is_ended_politely() {
    let server = TestServer::start(&[("timeouts.keep_alive", "200ms"), ("timeouts.head", "5s")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let (answer, _) = visitor.ask(get("/")).await;
    assert_eq!((answer.text(), answer.status), ("here", StatusCode::OK));
    soon("the end of the connection", visitor.connection).await.unwrap().expect("it was cut, not ended");
}

#[tokio::test]
async fn a_connection_that_never_asks_is_closed() {
    let server = TestServer::start(&[("timeouts.head", "2s")]);
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let closed = async |said| {
        let mut socket = visitor::raw(server.public, said).await;
        visitor::read_to_end(&mut socket).await.unwrap();
    };
    tokio::join!(closed(&preface[..10]), closed(preface));
}

#[tokio::test]
async fn a_server_that_stops_lets_open_requests_finish() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let (answer, ()) = tokio::join!(visitor.ask(get("/")), async {
        let (mut local, _) = app.request().await;
        server.begin_stop();
        let public = server.public;
        soon("a closed public port", async { while TcpStream::connect(public).await.is_ok() {} }).await;
        local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole").await.unwrap();
    });
    assert_eq!(answer.0.text(), "whole");
    assert_eq!(server.stop().await.requests_cut, 0);
}

#[tokio::test]
async fn a_connect_without_a_protocol_is_refused() {
    let server = TestServer::start(&[]);
    let visitor = Http2Visitor::connect(server.public).await;
    let mut request = http2_request(Method::CONNECT, "alice", "", "");
    *request.uri_mut() = "alice.localhost:80".parse().unwrap();
    *request.version_mut() = Version::HTTP_2;
    *request.body_mut() = http_body_util::Empty::new().boxed();
    assert_eq!(visitor.begin(request).await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_caller_of_a_grpc_stream_may_be_silent() {
    let server = TestServer::start(&[("timeouts.idle", "200ms")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let silent = |kind: &str| {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        let mut request = http2_request(Method::POST, "alice", "/", "");
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        *request.body_mut() = Silent(receiver).boxed();
        (request, sender)
    };
    let (request, _sender) = silent("application/grpc");
    let mut asking = std::pin::pin!(visitor.begin(request));
    let (mut local, _) = tokio::select! {
        _ = asking.as_mut() => panic!("nobody has answered"),
        request = app.request() => request,
    };
    let early = tokio::time::timeout(std::time::Duration::from_millis(600), asking.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(asking.await.unwrap().status(), StatusCode::OK);
    // Anybody else may not.
    let (request, _sender) = silent("text/plain");
    assert_eq!(visitor.begin(request).await.unwrap().status(), StatusCode::REQUEST_TIMEOUT);
}

/// A body that says nothing and does not end.
struct Silent(tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for Silent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(hyper::body::Frame::data(data))))
    }
}
