//! Agents that answer with what is no answer. The visitor of that exchange gets an error, or what is right of it; the
//! session goes on, and so does everybody else.

use adit::link::session::Stream;
use adit::protocol::exchange::{ResponseHead, put_trailers};
use adit::protocol::frame::{self, Kind, Status};
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use tokio::io::AsyncReadExt as _;

use super::Bystander;
use super::raw::heartbeat;
use crate::harness::puppet::{Puppet, hello};
use crate::harness::visitor::{self, fetch};
use crate::harness::{TestServer, soon};

/// A head with these fields, as an honest agent writes it.
fn head(status: u16, fields: &[(&'static str, &'static str)]) -> BytesMut {
    let mut out = BytesMut::new();
    let pairs = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let status = StatusCode::from_u16(status).unwrap();
    ResponseHead { status, version: Version::HTTP_11, headers: pairs.collect(), local: None, reason: None }
        .put(&mut out)
        .unwrap();
    out
}

/// The same with `from` replaced by `to` somewhere, which no honest agent could write.
fn spoilt(status: u16, fields: &[(&'static str, &'static str)], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = head(status, fields).to_vec();
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

fn data(bytes: &[u8]) -> Vec<u8> {
    [&frame::data_header(bytes.len())[..], bytes].concat()
}

fn end() -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put_end(&mut out);
    out.to_vec()
}

fn trailers(fields: &[(&'static str, &'static str)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let pairs = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    put_trailers(&mut out, &pairs.collect::<HeaderMap>()).unwrap();
    out.to_vec()
}

/// The header of a frame without the frame.
fn announced(kind: Kind, length: u32) -> Vec<u8> {
    let [_, a, b, c] = length.to_be_bytes();
    vec![kind as u8, a, b, c]
}

/// A hostile agent in place of bob's, with its control stream.
async fn hostile(server: &TestServer) -> (Puppet, Stream) {
    let puppet = Puppet::connect(server, &hello("bob", &["bob"])).await;
    let control = puppet.control(&heartbeat()).await;
    (puppet, control)
}

/// What a visitor sees, byte by byte, of requests for bob's service that are answered with `bytes` after the status byte.
async fn seen(server: &TestServer, puppet: &mut Puppet, request: &str, status: u8, bytes: &[u8]) -> String {
    let mut socket = visitor::raw(server.public, request).await;
    let (mut got, mut streams) = (Vec::new(), Vec::new());
    let mut end = Box::pin(soon("the end of an answer", socket.read_to_end(&mut got)));
    loop {
        let stream = tokio::select! {
            stream = puppet.streams.recv() => stream.expect("the session has ended"),
            // A connection that breaks off is an end, too.
            _ = &mut end => break,
        };
        say(&stream, &[&[status][..], bytes].concat()).await;
        streams.push(stream);
    }
    drop(end);
    String::from_utf8_lossy(&got).into_owned()
}

/// Writes until a server that has read enough cuts the stream.
async fn say(stream: &Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let Ok(n) = std::future::poll_fn(|cx| stream.poll_write(cx, bytes)).await else { return };
        bytes = &bytes[n..];
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: bob.localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_head_that_is_none_is_an_error_for_its_visitor_alone() {
    let server = TestServer::start(&[("timeouts.response_head", "5s")]);
    let alice = Bystander::connect(&server).await;
    let (mut bob, _control) = hostile(&server).await;
    let fields = [("x-name", "aaaa")];
    let many = vec![b'a'; 600_000];
    let accepted = Status::Accepted as u8;
    let cases: Vec<(&str, u8, Vec<u8>)> = vec![
        ("no status byte that there is", 0xff, Vec::new()),
        ("a status below 100", accepted, spoilt(200, &[], &200_u16.to_be_bytes(), &99_u16.to_be_bytes())),
        ("a status of four digits", accepted, spoilt(200, &[], &200_u16.to_be_bytes(), &1000_u16.to_be_bytes())),
        (
            "an interim status as the final one",
            accepted,
            spoilt(200, &[], &200_u16.to_be_bytes(), &103_u16.to_be_bytes()),
        ),
        ("a name with a space", accepted, spoilt(200, &fields, b"x-name", b"x name")),
        ("a name with a colon", accepted, spoilt(200, &fields, b"x-name", b"x:name")),
        ("a name with a line end", accepted, spoilt(200, &fields, b"x-name", b"x\r\nyyy")),
        ("a value with a line end", accepted, spoilt(200, &fields, b"aaaa", b"\r\na:")),
        ("a value with a bare LF", accepted, spoilt(200, &fields, b"aaaa", b"a\na:")),
        ("a value with NUL", accepted, spoilt(200, &fields, b"aaaa", b"a\0aa")),
        ("more fields than there are", accepted, spoilt(200, &fields, &[0, 1, 0, 6], &[255, 255, 0, 6])),
        ("a giant head", accepted, announced(Kind::Head, 0xff_ffff)),
        ("a large head that comes", accepted, [announced(Kind::Head, 600_000), many].concat()),
        ("data before the head", accepted, data(b"early")),
        ("trailers before the head", accepted, trailers(&[("x-late", "1")])),
        ("the end before the head", accepted, end()),
        ("a preface", accepted, announced(Kind::Preface, 10)),
        ("no such frame", accepted, vec![99, 0, 0, 0]),
        ("nothing more", accepted, Vec::new()),
    ];
    for (what, status, bytes) in cases {
        let answer = seen(&server, &mut bob, GET, status, &bytes).await;
        assert!(answer.starts_with("HTTP/1.1 502") || answer.starts_with("HTTP/1.1 504"), "{what}: {answer}");
        assert!(!answer.to_lowercase().contains("x-name"), "{what}: {answer}");
        alice.is_served(&server, what).await;
    }
    // All of it on one lane, which is still there.
    let fine = [head(200, &[("content-length", "2")]).to_vec(), data(b"ok"), end()].concat();
    assert!(seen(&server, &mut bob, GET, accepted, &fine).await.ends_with("\r\n\r\nok"));
}

#[tokio::test]
async fn what_follows_a_head_and_may_not_breaks_the_answer_off() {
    let server = TestServer::start(&[("timeouts.quiet_stream", "2s")]);
    let alice = Bystander::connect(&server).await;
    let (mut bob, _control) = hostile(&server).await;
    let sized = head(200, &[("content-length", "10")]).to_vec();
    let open = head(200, &[]).to_vec();
    let second = head(200, &[("x-second", "1")]).to_vec();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a second head", [open.clone(), data(b"first"), second.clone()].concat()),
        ("a second head at once", [open.clone(), second].concat()),
        ("an interim head after the final one", [open.clone(), head(103, &[]).to_vec()].concat()),
        ("less than was said", [sized.clone(), data(b"12345"), end()].concat()),
        ("trailers that are none", [open.clone(), announced(Kind::Trailers, 3), vec![0, 9, 9]].concat()),
        ("a frame that is none", [open.clone(), vec![99, 0, 0, 0]].concat()),
    ];
    for (what, bytes) in cases {
        let answer = seen(&server, &mut bob, GET, Status::Accepted as u8, &bytes).await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let whole = body.ends_with("0\r\n\r\n") || answer.contains("content-length: 10") && body.len() >= 10;
        assert!(!whole, "{what}: it looks whole: {answer}");
        assert!(!answer.contains("x-second") && !answer.contains("late"), "{what}: {answer}");
        alice.is_served(&server, what).await;
    }
}

#[tokio::test]
async fn an_answer_is_as_long_as_it_said_and_has_no_fields_of_the_connection() {
    let server = TestServer::start(&[]);
    let _alice = Bystander::connect(&server).await;
    let (mut bob, _control) = hostile(&server).await;
    let accepted = Status::Accepted as u8;
    // More than was said must not be taken for the next answer.
    let smuggled = b"okHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let longer = [head(200, &[("content-length", "2")]).to_vec(), data(smuggled), end()].concat();
    let kept = "GET / HTTP/1.1\r\nHost: bob.localhost\r\n\r\n";
    for request in [GET.to_owned(), format!("{kept}{GET}")] {
        let answer = seen(&server, &mut bob, &request, accepted, &longer).await;
        assert!(!answer.contains("forged"), "{answer}");
    }
    // Nor data after the trailers.
    let late = [head(200, &[]).to_vec(), trailers(&[("x-end", "1")]), data(b"late"), end()].concat();
    let answer = seen(&server, &mut bob, GET, accepted, &late).await;
    assert!(!answer.contains("late"), "{answer}");
    // Fields that belong to one connection, and two lengths.
    for fields in [
        &[("transfer-encoding", "chunked"), ("content-length", "5")][..],
        &[("transfer-encoding", "gzip, chunked")],
        &[("connection", "x-private"), ("x-private", "1")],
        &[("content-length", "5"), ("content-length", "6")],
        &[("content-length", "-1")],
        &[("content-length", "5, 6")],
        &[("upgrade", "h2c"), ("keep-alive", "timeout=1")],
    ] {
        let bytes = [head(200, fields).to_vec(), data(b"hello"), end()].concat();
        let answer = seen(&server, &mut bob, GET, accepted, &bytes).await.to_lowercase();
        let lengths = answer.matches("content-length:").count() + answer.matches("transfer-encoding:").count();
        assert!(lengths <= 1, "{fields:?}: {answer}");
        // An answer with two lengths is none at all.
        if answer.is_empty() {
            continue;
        }
        let (answer_head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{fields:?}: {answer:?}"));
        for field in ["gzip", "x-private", "h2c", "keep-alive", "-1", "5, 6"] {
            assert!(!answer_head.contains(field), "{fields:?}: {answer}");
        }
        let is_error = answer.starts_with("http/1.1 502");
        assert!(is_error || body == "hello" || body == "5\r\nhello\r\n0\r\n\r\n", "{fields:?}: {answer}");
    }
    // Trailers cannot say again what a head has said (RFC 9110, section 6.5.1).
    let late = trailers(&[("content-length", "99"), ("transfer-encoding", "x"), ("host", "evil"), ("x-fine", "1")]);
    let bytes = [head(200, &[("trailer", "x-fine, content-length, host")]).to_vec(), data(b"hi"), late, end()].concat();
    let ask = GET.replace("Connection: close", "Connection: close, te\r\nTE: trailers");
    let answer = seen(&server, &mut bob, &ask, accepted, &bytes).await.to_lowercase();
    let (_, trailing) = answer.split_once("hi\r\n0\r\n").unwrap_or_default();
    for field in ["content-length", "transfer-encoding", "host"] {
        assert!(!trailing.contains(field), "{answer}");
    }
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_none() {
    let server = TestServer::start(&[]);
    let alice = Bystander::connect(&server).await;
    let (mut bob, _control) = hostile(&server).await;
    let upgrade = head(101, &[("upgrade", "websocket"), ("connection", "upgrade")]).to_vec();
    let bytes = [upgrade, data(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"), end()].concat();
    let answer = seen(&server, &mut bob, GET, Status::Accepted as u8, &bytes).await;
    assert!(answer.starts_with("HTTP/1.1 502") && !answer.contains("forged"), "{answer}");
    // A refusal in the status byte, and an answer after all: the refusal counts.
    for status in [Status::Draining, Status::UnknownService, Status::TooManyStreams, Status::Malformed] {
        let fine = [head(200, &[("content-length", "2")]).to_vec(), data(b"ok"), end()].concat();
        let answer = seen(&server, &mut bob, GET, status as u8, &fine).await;
        assert!(answer.starts_with("HTTP/1.1 50") && !answer.ends_with("ok"), "{status:?}: {answer}");
    }
    alice.is_served(&server, "after that").await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "fine");
}
