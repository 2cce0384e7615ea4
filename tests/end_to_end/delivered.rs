//! Incomplete messages: the receiver gets the head and every byte that arrived, and then a visible error. The data right
//! before the abort is lost most easily, so each case runs many times.

use std::io;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::apps::Script;
use crate::harness::visitor::{self, Http2Visitor, http2_request};
use crate::harness::{PATIENCE, TestAgent, TestServer, soon, until_idle};

/// How often a case runs, to detect rare losses.
const RUNS: usize = 20;

/// How many bytes of the body come before the break.
const SIZES: [usize; 4] = [0, 5, 1_837, 100_000];

/// Bytes that show when some are missing or out of place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + (at % 23) as u8).collect()
}

/// How the application delimits its response, which is incomplete in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Chunked,
    Length,
    /// By the end of the connection: only a reset shows that this is not it.
    Close,
}

impl Framing {
    /// A response with the first `body` of it.
    fn response(self, body: &[u8]) -> Vec<u8> {
        let (field, body) = match self {
            Self::Chunked if body.is_empty() => ("Transfer-Encoding: chunked".to_owned(), Vec::new()),
            Self::Chunked => {
                let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat();
                ("Transfer-Encoding: chunked".to_owned(), chunk)
            }
            Self::Length => (format!("Content-Length: {}", body.len() + 1), body.to_vec()),
            Self::Close => ("Connection: close".to_owned(), body.to_vec()),
        };
        let head = format!("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n{field}\r\n\r\n");
        [head.as_bytes(), &body].concat()
    }
}

/// Ends a connection: in order, or with a reset once everything on it has reached the other side's kernel.
async fn end(socket: TcpStream, with_reset: bool) {
    if with_reset {
        adit::transport::delivery::all_sent(&socket, PATIENCE).await;
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop(socket);
}

/// Takes one request and breaks its response off.
async fn break_off(app: &mut Script, framing: Framing, body: &[u8]) {
    let (mut local, _) = app.request().await;
    local.write_all(&framing.response(body)).await.unwrap();
    end(local, framing == Framing::Close).await;
}

async fn read_all(socket: &mut TcpStream) -> (Vec<u8>, io::Result<usize>) {
    let mut got = Vec::new();
    let ended = soon("the end of the connection", socket.read_to_end(&mut got)).await;
    (got, ended)
}

/// What the chunks of a body hold, and whether the last one is there.
fn unchunk(mut body: &[u8]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    while let Some(line) = body.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return (data, true);
        }
        data.extend_from_slice(&body[line + 2..(line + 2 + length).min(body.len())]);
        body = body.get(line + 4 + length..).unwrap_or_default();
    }
    (data, false)
}

/// Splits a response into its head and what follows.
fn split(response: &[u8]) -> (String, &[u8]) {
    let end = response.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("there is no head: {:?}", String::from_utf8_lossy(response)));
    (String::from_utf8(response[..end].to_ascii_lowercase()).unwrap(), &response[end + 4..])
}

#[tokio::test]
async fn everything_before_a_break_reaches_an_http_1_1_visitor() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for (framing, size) in [Framing::Chunked, Framing::Length, Framing::Close].map(|f| SIZES.map(|s| (f, s))).concat() {
        let body = pattern(size);
        for run in 0..RUNS {
            let case = format!("{framing:?}, {size} bytes, run {run}");
            let request = "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";
            let mut visitor = visitor::raw(server.public, request).await;
            let ((got, _), ()) = tokio::join!(read_all(&mut visitor), break_off(&mut app, framing, &body));
            let (head, rest) = split(&got);
            assert!(head.starts_with("http/1.1 429 ") && head.contains("\r\nretry-after: 7"), "{case}: {head}");
            if framing == Framing::Length {
                assert!(head.contains(&format!("content-length: {}", size + 1)), "{case}: {head}");
                assert!(rest == body, "{case}: {} bytes", rest.len());
            } else {
                let (data, is_whole) = unchunk(rest);
                assert!(data == body, "{case}: {} bytes", data.len());
                assert!(!is_whole, "{case}: it looks whole");
            }
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn everything_before_a_break_reaches_an_http_1_0_visitor() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for (framing, size) in [Framing::Chunked, Framing::Close].map(|f| SIZES.map(|s| (f, s))).concat() {
        let body = pattern(size);
        for run in 0..RUNS {
            let case = format!("{framing:?}, {size} bytes, run {run}");
            let request = "GET / HTTP/1.0\r\nHost: alice.localhost\r\n\r\n";
            let mut visitor = visitor::raw(server.public, request).await;
            let ((got, ended), ()) = tokio::join!(read_all(&mut visitor), break_off(&mut app, framing, &body));
            let (head, rest) = split(&got);
            assert!(head.starts_with("http/1.") && head.contains(" 429 "), "{case}: {head}");
            assert!(rest == body, "{case}: {} bytes", rest.len());
            assert!(ended.is_err(), "{case}: it looks whole");
        }
    }
}

#[tokio::test]
async fn everything_before_a_break_reaches_an_http_2_visitor() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    for (framing, size) in [Framing::Chunked, Framing::Length, Framing::Close].map(|f| SIZES.map(|s| (f, s))).concat() {
        let body = pattern(size);
        // Each is read at once; its reset comes a while later.
        let mut reads = JoinSet::new();
        for run in 0..RUNS {
            let case = format!("{framing:?}, {size} bytes, run {run}");
            let asked = visitor.begin(http2_request(Method::GET, "alice", "/", ""));
            let asked = async { asked.await.unwrap_or_else(|error| panic!("{case}: {error:?}")) };
            let (answer, ()) = tokio::join!(asked, break_off(&mut app, framing, &body));
            let (head, mut coming) = answer.into_parts();
            assert_eq!(head.status, StatusCode::TOO_MANY_REQUESTS, "{case}");
            assert_eq!(head.headers["retry-after"], "7", "{case}");
            reads.spawn(async move {
                let mut got = Vec::new();
                while let Some(frame) = soon("more of the answer", coming.frame()).await {
                    match frame {
                        Ok(frame) => got.extend_from_slice(&frame.into_data().unwrap()),
                        Err(_) => return (case, got),
                    }
                }
                panic!("{case}: it looks whole");
            });
        }
        while let Some(read) = reads.join_next().await {
            let (case, got) = read.unwrap();
            assert!(got == body, "{case}: {} bytes", got.len());
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

/// Some clients discard what they have not processed when they read a reset.
#[tokio::test]
async fn an_http_2_visitor_has_time_to_read_before_the_reset() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    for framing in [Framing::Chunked, Framing::Length] {
        let asked = visitor.begin(http2_request(Method::GET, "alice", "/", ""));
        let answer = async {
            let (mut local, _) = app.request().await;
            local.write_all(&framing.response(b"hello")).await.unwrap();
            local
        };
        let (answer, local) = tokio::join!(asked, answer);
        let mut coming = answer.unwrap().into_body();
        let data = soon("the data", coming.frame()).await.unwrap().unwrap();
        assert_eq!(data.into_data().unwrap(), "hello", "{framing:?}");
        let broken_off = Instant::now();
        drop(local);
        soon("the reset", coming.frame()).await.unwrap().unwrap_err();
        assert!(broken_off.elapsed() >= Duration::from_millis(200), "{framing:?}: {:?}", broken_off.elapsed());
    }
}

/// A visitor that reads late gets it too: its window is closed when the response breaks off.
#[tokio::test]
async fn a_visitor_that_reads_late_misses_nothing() {
    const SIZE: usize = 400_000;
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let body = pattern(SIZE);
    for version in ["1.0", "1.1"] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut visitor = socket.connect(server.public).await.unwrap();
        let request = format!("GET / HTTP/{version}\r\nHost: alice.localhost\r\n\r\n");
        visitor.write_all(request.as_bytes()).await.unwrap();
        break_off(&mut app, Framing::Length, &body).await;
        let (got, _) = read_all(&mut visitor).await;
        assert!(split(&got).1 == body, "HTTP/{version}: {} bytes", got.len());
    }
    let visitor = Http2Visitor::connect(server.public).await;
    let asked = visitor.begin(http2_request(Method::GET, "alice", "/", ""));
    let (answer, ()) = tokio::join!(asked, break_off(&mut app, Framing::Chunked, &body));
    let mut coming = answer.unwrap().into_body();
    let mut got = Vec::new();
    while let Some(Ok(frame)) = soon("more of the answer", coming.frame()).await {
        got.extend_from_slice(&frame.into_data().unwrap());
    }
    assert!(got == body, "HTTP/2: {} bytes", got.len());
}

#[tokio::test]
async fn what_had_come_when_the_tunnel_was_lost_is_delivered() {
    for run in 0..RUNS {
        let server = TestServer::start(&[]);
        let mut app = Script::start().await;
        let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
        let body = pattern(1_837);
        let mut first = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
        let (mut local, _) = app.request().await;
        local.write_all(&Framing::Chunked.response(&body)).await.unwrap();
        // It is there, though this visitor has read only its head when the tunnel goes.
        let head = visitor::read_until(&mut first, "\r\n\r\n").await;
        agent.crash().await;
        let (rest, _) = read_all(&mut first).await;
        assert!(head.starts_with("HTTP/1.1 429"), "run {run}");
        let (data, is_whole) = unchunk(&rest);
        assert!(body.starts_with(&data) && !is_whole, "run {run}: {} bytes", data.len());
    }
}

/// Sends `body` on one end of a connection and resets it; returns what arrives at the other end.
async fn say_and_reset(mut from: TcpStream, mut to: TcpStream, body: &[u8]) -> (Vec<u8>, io::Result<usize>) {
    let say = async {
        from.write_all(body).await.unwrap();
        end(from, true).await;
    };
    tokio::join!(say, read_all(&mut to)).1
}

/// Asserts that `to` receives all of `body` from `from`, and then an abort instead of an end.
async fn assert_delivered_before_reset(from: TcpStream, to: TcpStream, body: &[u8], case: &str) {
    let (got, ended) = say_and_reset(from, to, body).await;
    assert!(got == body, "{case}: {} bytes", got.len());
    assert!(ended.is_err(), "{case}: it looks whole");
}

#[tokio::test]
async fn a_raw_connection_delivers_what_came_before_a_reset() {
    let server = TestServer::start(&[]);
    let (_agent, app, public) = crate::raw::connected(&server).await;
    for (size, from_visitor) in SIZES.map(|size| [(size, false), (size, true)]).concat() {
        let body = pattern(size);
        for run in 0..RUNS {
            let visitor = soon("a public port", TcpStream::connect(public)).await.unwrap();
            let (local, _) = soon("a connection", app.accept()).await.unwrap();
            let (from, to) = if from_visitor { (visitor, local) } else { (local, visitor) };
            let case = format!("{size} bytes, from the visitor: {from_visitor}, run {run}");
            assert_delivered_before_reset(from, to, &body, &case).await;
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn an_upgraded_connection_delivers_what_came_before_a_reset() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let request = "GET / HTTP/1.1\r\nHost: alice.localhost\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    for (size, from_visitor) in SIZES.map(|size| [(size, false), (size, true)]).concat() {
        let body = pattern(size);
        for run in 0..RUNS {
            let mut visitor = visitor::raw(server.public, request).await;
            let (mut local, _) = app.request().await;
            let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            local.write_all(agreed).await.unwrap();
            visitor::read_until(&mut visitor, "\r\n\r\n").await;
            let (from, to) = if from_visitor { (visitor, local) } else { (local, visitor) };
            let case = format!("{size} bytes, from the visitor: {from_visitor}, run {run}");
            assert_delivered_before_reset(from, to, &body, &case).await;
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

/// Whoever reads late gets it too: most of it waits in kernels and windows when the connection is reset.
#[tokio::test]
async fn a_connection_that_is_read_late_misses_nothing() {
    const SIZE: usize = 400_000;
    let server = TestServer::start(&[]);
    let (_raw, listener, public) = crate::raw::connected(&server).await;
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "bob", &[("bob", app.address)]).await;
    let upgrade = "Host: bob.localhost\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let body = pattern(SIZE);
    for (upgraded, from_visitor) in [false, true].map(|upgraded| [(upgraded, false), (upgraded, true)]).concat() {
        let (visitor, local) = match upgraded {
            true => {
                let mut visitor = visitor::raw(server.public, &format!("GET / HTTP/1.1\r\n{upgrade}")).await;
                let (mut local, _) = app.request().await;
                let agreed = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}");
                local.write_all(agreed.as_bytes()).await.unwrap();
                visitor::read_until(&mut visitor, "\r\n\r\n").await;
                (visitor, local)
            }
            false => {
                let visitor = soon("a public port", TcpStream::connect(public)).await.unwrap();
                (visitor, soon("a connection", listener.accept()).await.unwrap().0)
            }
        };
        let (mut from, mut to) = if from_visitor { (visitor, local) } else { (local, visitor) };
        from.write_all(&body).await.unwrap();
        end(from, true).await;
        let (got, ended) = read_all(&mut to).await;
        let case = format!("upgraded: {upgraded}, from the visitor: {from_visitor}");
        assert!(got == body, "{case}: {} bytes", got.len());
        assert!(ended.is_err(), "{case}: it looks whole");
    }
    until_idle(&server.open, PATIENCE).await;
}

/// The other direction: what an upload had brought before it broke off, where HTTP/1 says that it did.
#[tokio::test]
async fn everything_before_a_break_of_an_upload_reaches_the_application() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for (chunked, size) in [false, true].map(|chunked| SIZES.map(|size| (chunked, size))).concat() {
        let body = pattern(size);
        for run in 0..RUNS {
            let case = format!("chunked: {chunked}, {size} bytes, run {run}");
            let framing = if chunked { Framing::Chunked } else { Framing::Length };
            let sent = String::from_utf8(framing.response(&body)).unwrap();
            let head = "POST / HTTP/1.1\r\nHost: alice.localhost\r\n";
            let request = sent.replacen("HTTP/1.1 429 Too Many Requests\r\n", head, 1);
            let visitor = visitor::raw(server.public, &request).await;
            let (mut local, _) = app.request().await;
            drop(visitor);
            let (got, _) = read_all(&mut local).await;
            let (data, is_whole) = if chunked { unchunk(&got) } else { (got, false) };
            assert!(data == body, "{case}: {} bytes", data.len());
            assert!(!is_whole, "{case}: it looks whole");
        }
    }
}
