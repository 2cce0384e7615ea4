//! An incomplete message never looks complete (RFC 9112, section 8; RFC 9113, section 8.1), neither to the application nor
//! to the visitor: for every way to end it, after any number of bytes, with and without a length.

use std::io;

use http::Method;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::apps::Script;
use crate::harness::frames::{self, Break, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM};
use crate::harness::visitor::{self, Http2Visitor, http2_request};
use crate::harness::{PATIENCE, TestAgent, TestServer, service, soon, until_idle};

/// How many bytes of a body come before it breaks off.
const SIZES: [usize; 3] = [0, 5, 100_000];

/// The length that is announced, if one is.
const LENGTH: usize = 200_000;

fn body(size: usize) -> Vec<u8> {
    vec![b'x'; size]
}

/// Each combination of a size, and whether a length is announced.
fn cases() -> impl Iterator<Item = (usize, bool)> {
    SIZES.into_iter().flat_map(|size| [(size, false), (size, true)])
}

async fn read_all(socket: &mut TcpStream) -> (Vec<u8>, io::Result<usize>) {
    let mut got = Vec::new();
    let ended = soon("the end of the connection", socket.read_to_end(&mut got)).await;
    (got, ended)
}

/// What an application, or a visitor, makes of a body over HTTP/1.1 up to the end of the connection.
fn assert_incomplete(got: &[u8], has_length: bool, case: &str) {
    match has_length {
        true => assert!(got.len() < LENGTH, "{case}: all of it is there"),
        false => assert!(!got.ends_with(b"0\r\n\r\n"), "{case}: {} bytes", got.len()),
    }
}

/// The head of an upload over HTTP/2.
fn upload(path: &str, has_length: bool) -> Vec<u8> {
    let length = LENGTH.to_string();
    let more = [("content-length", length.as_str())];
    frames::request("POST", path, if has_length { &more } else { &[] })
}

#[tokio::test]
async fn an_upload_over_http_2_that_breaks_off_is_never_complete() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for (how, (size, has_length)) in Break::all().flat_map(|how| cases().map(move |case| (how, case))) {
        let case = format!("{how:?} after {size} bytes, with a length: {has_length}");
        let mut visitor = Frames::visitor(server.public).await;
        visitor.send(HEADERS, END_HEADERS, 1, &upload("/", has_length)).await;
        visitor.send_data(1, &body(size)).await;
        let (mut local, _) = app.request().await;
        let left = how.carry_out(visitor, 1).await;
        let (got, _) = read_all(&mut local).await;
        assert_incomplete(&got, has_length, &case);
        drop(left);
    }
    until_idle(&server.open, PATIENCE).await;
}

/// The application answers while it still reads, as soon as it has the head; the visitor takes the answer and leaves the
/// rest of its upload out, as Go's client does.
#[tokio::test]
async fn an_upload_that_breaks_off_after_its_answer_is_never_complete() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for (how, (size, has_length)) in Break::all().flat_map(|how| cases().map(move |case| (how, case))) {
        let case = format!("{how:?} after {size} bytes, with a length: {has_length}");
        let mut visitor = Frames::visitor(server.public).await;
        visitor.send(HEADERS, END_HEADERS, 1, &upload("/", has_length)).await;
        visitor.send_data(1, &body(size)).await;
        let (mut local, _) = app.request().await;
        local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let (answer, ended) = visitor.rest(1).await;
        assert_eq!((answer.as_slice(), ended.unwrap().kind), (&b"ok"[..], DATA), "{case}");
        let left = how.carry_out(visitor, 1).await;
        let (got, _) = read_all(&mut local).await;
        assert_incomplete(&got, has_length, &case);
        drop(left);
    }
    until_idle(&server.open, PATIENCE).await;
}

/// All of it in one packet, so that the reset is there before anybody has looked at the request.
#[tokio::test]
async fn an_upload_that_is_reset_at_once_is_never_complete() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for (code, size) in [0, 2, 8].into_iter().flat_map(|code: u32| [(code, 0), (code, 5)]) {
        let mut visitor = Frames::visitor(server.public).await;
        let all = [
            frames::bytes_of(HEADERS, END_HEADERS, 1, &upload("/broken", false)),
            if size > 0 { frames::bytes_of(DATA, 0, 1, &body(size)) } else { Vec::new() },
            frames::bytes_of(RST_STREAM, 0, 1, &code.to_be_bytes()),
            frames::bytes_of(HEADERS, END_HEADERS | END_STREAM, 3, &frames::request("GET", "/whole", &[])),
        ];
        visitor.socket.write_all(&all.concat()).await.unwrap();
        // The one that is whole comes; the other one may come before it, or some of it.
        loop {
            let mut local = app.connection().await;
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\n") || !got.starts_with(b"GET /whole ") {
                match soon("a request", local.read_buf(&mut got)).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
            if got.starts_with(b"GET /whole ") {
                local.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                break;
            }
            assert_incomplete(&got, false, &format!("code {code} after {size} bytes"));
        }
        visitor.head().await;
    }
}

/// What is complete stays complete, though a reset follows its end at once (RFC 9113, section 8.1).
#[tokio::test]
async fn an_upload_that_is_reset_after_its_end_is_complete() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = Frames::visitor(server.public).await;
    visitor.send(HEADERS, END_HEADERS, 1, &upload("/", false)).await;
    visitor.send(DATA, END_STREAM, 1, b"whole").await;
    let (mut local, _) = app.request().await;
    visitor::read_until(&mut local, "5\r\nwhole\r\n0\r\n\r\n").await;
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(visitor.rest(1).await.0, b"ok");
    // The same for trailers.
    visitor.send(HEADERS, END_HEADERS, 3, &upload("/", false)).await;
    visitor.send(DATA, 0, 3, b"whole").await;
    visitor.send(HEADERS, END_HEADERS | END_STREAM, 3, &frames::field("x-sum", "1")).await;
    visitor::read_until(&mut local, "5\r\nwhole\r\n0\r\nx-sum: 1\r\n\r\n").await;
}

#[tokio::test]
async fn an_upload_over_http_1_1_that_breaks_off_is_never_complete() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    // The last ones are in the middle of a chunk's length, of a chunk, of the last chunk, and of the trailers.
    let chunked = ["", "5\r\nhello\r\n", "5", "5\r\nhel", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n"];
    let chunked = chunked.map(|body| ("Transfer-Encoding: chunked", body.to_owned(), false));
    let length = SIZES.map(|size| ("Content-Length: 200000", "x".repeat(size), true));
    for (field, body, has_length) in chunked.into_iter().chain(length) {
        for (with_reset, answered) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = format!("{field}, {} bytes, reset: {with_reset}, answered: {answered}", body.len());
            let asked = format!("POST / HTTP/1.1\r\nHost: alice.localhost\r\n{field}\r\n\r\n{body}");
            let mut visitor = visitor::raw(server.public, &asked).await;
            let (mut local, _) = app.request().await;
            if answered {
                local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                visitor::read_until(&mut visitor, "\r\n\r\nok").await;
            }
            if with_reset {
                frames::reset(&visitor).await;
            }
            drop(visitor);
            let (got, _) = read_all(&mut local).await;
            assert_incomplete(&got, has_length, &case);
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

/// An application that speaks HTTP/2 by prior knowledge.
async fn h2c(server: &TestServer) -> (TestAgent, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = format!("h2c://{}", listener.local_addr().unwrap());
    let agent = TestAgent::connect_with(server, "alice", vec![service("alice", &local, &[])]).await;
    (agent, listener)
}

/// Takes a request and breaks its answer off.
async fn answer_and_break(app: &mut Option<Frames>, listener: &TcpListener, how: Break, size: usize, has_length: bool) {
    // A connection that lives on is used again.
    let mut frames = match app.take() {
        Some(frames) => frames,
        None => Frames::application(soon("a connection", listener.accept()).await.unwrap().0).await,
    };
    let stream = frames.head().await.stream;
    let length = LENGTH.to_string();
    let more = [("content-length", length.as_str())];
    let head = frames::response("200", if has_length { &more } else { &[] });
    frames.send(HEADERS, END_HEADERS, stream, &head).await;
    frames.send_data(stream, &body(size)).await;
    *app = how.carry_out(frames, stream).await;
}

#[tokio::test]
async fn an_answer_of_an_h2c_application_that_breaks_off_is_never_complete() {
    let server = TestServer::start(&[]);
    let (_agent, listener) = h2c(&server).await;
    let mut app = None;
    for (how, (size, has_length)) in Break::all().flat_map(|how| cases().map(move |case| (how, case))) {
        let case = format!("{how:?} after {size} bytes, with a length: {has_length}");
        let request = "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";
        let mut visitor = visitor::raw(server.public, request).await;
        let ((got, _), ()) =
            tokio::join!(read_all(&mut visitor), answer_and_break(&mut app, &listener, how, size, has_length));
        let end = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("{case}: no head"));
        assert!(got.starts_with(b"HTTP/1.1 200 "), "{case}");
        assert_incomplete(&got[end + 4..], has_length, &case);
        let arrived = got[end + 4..].iter().filter(|byte| **byte == b'x').count();
        // A reset of the connection may take away what was not read yet.
        assert!(arrived == size || how == Break::Rst, "{case}: {arrived} bytes");
        let visitor = Http2Visitor::connect(server.public).await;
        let asked = visitor.begin(http2_request(Method::GET, "alice", "/", ""));
        let (answer, ()) = tokio::join!(asked, answer_and_break(&mut app, &listener, how, size, has_length));
        let mut coming = answer.unwrap_or_else(|error| panic!("{case}: {error:?}")).into_body();
        let mut arrived = 0;
        loop {
            match soon("more of the answer", coming.frame()).await {
                Some(Ok(frame)) => arrived += frame.into_data().unwrap().len(),
                Some(Err(_)) => break,
                None => panic!("{case}: it looks whole"),
            }
        }
        assert!(arrived == size || how == Break::Rst, "{case}: {arrived} bytes");
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn an_upload_to_an_h2c_application_that_breaks_off_is_never_complete() {
    let server = TestServer::start(&[]);
    let (_agent, listener) = h2c(&server).await;
    let mut app = None;
    for (how, (size, has_length)) in Break::all().flat_map(|how| cases().map(move |case| (how, case))) {
        let case = format!("{how:?} after {size} bytes, with a length: {has_length}");
        let mut visitor = Frames::visitor(server.public).await;
        visitor.send(HEADERS, END_HEADERS, 1, &upload("/", has_length)).await;
        visitor.send_data(1, &body(size)).await;
        let mut frames = match app.take() {
            Some(frames) => frames,
            None => Frames::application(soon("a connection", listener.accept()).await.unwrap().0).await,
        };
        let stream = frames.head().await.stream;
        let left = how.carry_out(visitor, 1).await;
        let (_, ended) = frames.rest(stream).await;
        assert_eq!(ended.map(|frame| frame.kind), Some(RST_STREAM), "{case}");
        drop(left);
        app = Some(frames);
    }
    until_idle(&server.open, PATIENCE).await;
}

/// A WebSocket over HTTP/2 on both sides (RFC 8441), open: the visitor's end on stream 1, and the application's with its
/// stream.
async fn connected(server: &TestServer, listener: &TcpListener) -> (Frames, Frames, u32) {
    let mut visitor = Frames::visitor(server.public).await;
    let request = frames::request("CONNECT", "/", &[(":protocol", "websocket"), ("sec-websocket-version", "13")]);
    visitor.send(HEADERS, END_HEADERS, 1, &request).await;
    let mut app = Frames::application(soon("a connection", listener.accept()).await.unwrap().0).await;
    let stream = app.head().await.stream;
    app.send(HEADERS, END_HEADERS, stream, &frames::response("200", &[])).await;
    visitor.head().await;
    (visitor, app, stream)
}

#[tokio::test]
async fn a_connection_over_http_2_that_breaks_off_is_reset_on_the_other_side() {
    let server = TestServer::start(&[]);
    let (_agent, listener) = h2c(&server).await;
    for (how, size) in Break::all().flat_map(|how| SIZES.map(|size| (how, size))) {
        for from_visitor in [true, false] {
            let case = format!("{how:?} after {size} bytes, from the visitor: {from_visitor}");
            let (visitor, app, stream) = connected(&server, &listener).await;
            let (mut from, mut to, said_on, heard_on) =
                if from_visitor { (visitor, app, 1, stream) } else { (app, visitor, stream, 1) };
            from.send_data(said_on, &body(size)).await;
            let left = how.carry_out(from, said_on).await;
            let (got, ended) = to.rest(heard_on).await;
            assert_eq!(ended.map(|frame| frame.kind), Some(RST_STREAM), "{case}");
            // A reset of the visitor's may take away what was not read yet.
            assert!(got.len() == size || from_visitor || how == Break::Rst, "{case}: {} bytes", got.len());
            drop(left);
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_connection_over_http_2_ends_in_order_when_both_sides_say_so() {
    let server = TestServer::start(&[]);
    let (_agent, listener) = h2c(&server).await;
    for visitor_first in [true, false] {
        let (visitor, app, stream) = connected(&server, &listener).await;
        let (mut one, mut two, ones, twos) =
            if visitor_first { (visitor, app, 1, stream) } else { (app, visitor, stream, 1) };
        one.send(DATA, END_STREAM, ones, b"question").await;
        let (got, ended) = two.rest(twos).await;
        assert_eq!((got.as_slice(), ended.unwrap().kind), (&b"question"[..], DATA));
        two.send_data(twos, &body(100_000)).await;
        two.send(DATA, END_STREAM, twos, b"").await;
        let (got, ended) = one.rest(ones).await;
        assert_eq!((got.len(), ended.unwrap().kind), (100_000, DATA));
    }
    until_idle(&server.open, PATIENCE).await;
}

/// The visitor has ended its direction, and listens: what breaks off then is no end either.
#[tokio::test]
async fn a_connection_over_http_2_that_is_half_closed_may_still_break_off() {
    let server = TestServer::start(&[]);
    let (_agent, listener) = h2c(&server).await;
    for code in [0, 2, 8] {
        for visitor_first in [true, false] {
            let (visitor, app, stream) = connected(&server, &listener).await;
            let (mut one, mut two, ones, twos) =
                if visitor_first { (visitor, app, 1, stream) } else { (app, visitor, stream, 1) };
            one.send(DATA, END_STREAM, ones, b"question").await;
            two.rest(twos).await;
            two.send_data(twos, b"half").await;
            let left = Break::Stream(code).carry_out(two, twos).await;
            let (_, ended) = one.rest(ones).await;
            assert_eq!(ended.map(|frame| frame.kind), Some(RST_STREAM), "{code}, visitor first: {visitor_first}");
            drop(left);
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_connection_over_http_2_whose_tunnel_is_lost_is_reset() {
    let server = TestServer::start(&[]);
    let (agent, listener) = h2c(&server).await;
    let (mut visitor, mut app, stream) = connected(&server, &listener).await;
    app.send_data(stream, b"half").await;
    assert_eq!(visitor.next().await.unwrap().payload, b"half");
    agent.crash().await;
    let (_, ended) = visitor.rest(1).await;
    assert_eq!(ended.map(|frame| frame.kind), Some(RST_STREAM));
}
