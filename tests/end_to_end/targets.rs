//! Ambiguous request targets are refused.

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, read_until};
use crate::harness::{TestAgent, TestServer, soon, until_idle};

/// The statuses and bodies that come for `requests` on one connection, to its end.
async fn asked(server: &TestServer, requests: &str) -> String {
    let mut visitor = visitor::raw(server.public, requests).await;
    String::from_utf8(visitor::read_to_end(&mut visitor).await.unwrap()).unwrap()
}

fn request(method: &str, target: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: alice.localhost\r\n{fields}\r\n")
}

const CLOSE: &str = "Connection: close\r\n";

#[tokio::test]
async fn a_fragment_in_a_target_is_refused() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    for (method, target) in [
        ("DELETE", "/keep/#x"),
        ("DELETE", "/keep/#"),
        ("GET", "/?a=b#c"),
        ("GET", "http://alice.localhost/keep#x"),
        ("GET", "http://alice.localhost#x"),
        ("OPTIONS", "/#"),
        ("MOVE", "/a#b"),
    ] {
        let answer = asked(&server, &request(method, target, "")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("x-adit-error: bad_request\r\n"), "{answer}");
    }
    // Behind others on the same connection, too: bodies are not taken for requests.
    let body = "DELETE /#x HTTP/1.1\r\n\r\n";
    let good = request("POST", "/first", &format!("Content-Length: {}\r\n", body.len())) + body;
    let pieces = format!("{:x}\r\n{body}\r\n0\r\nX-Sum: #\r\n\r\n", body.len());
    let other = request("PUT", "/second?%23", "Transfer-Encoding: chunked\r\nCookie: #\r\n") + &pieces;
    let answer = asked(&server, &[good, other, request("DELETE", "/third#x", "")].concat()).await;
    assert!(answer.contains("POST /first\n") && answer.contains("PUT /second?%23\n"), "{answer}");
    assert!(answer.contains("HTTP/1.1 400 ") && !answer.contains("/third"), "{answer}");
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

/// An application that tells which targets it sees.
async fn recorder() -> (std::net::SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let app = apps::with(move |request| {
        let sent = sender.send(request.uri().to_string());
        async move { http::Response::new(sent.map(|()| Default::default()).unwrap()) }
    });
    (app.await, seen)
}

/// Targets that clients send, and what an application sees then.
const ENCODED: [(&str, &str); 7] = [
    ("/api/v1/query?query=up{job=\"a\"}", "/api/v1/query?query=up{job=%22a%22}"),
    ("/?a=<b>&c=`d`|e^f[0]=\\", "/?a=%3Cb%3E&c=`d`|e^f[0]=\\"),
    ("/`a`/<b>/\"c\"", "/%60a%60/%3Cb%3E/\"c\""),
    ("/%22%3c?%", "/%22%3c?%"),
    ("/\u{e9}?\u{e9}\"", "/\u{e9}?\u{e9}%22"),
    ("//<?//<", "//%3C?//%3C"),
    ("/?\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"", "/?%22%22%22%22%22%22%22%22%22%22%22%22%22%22%22%22%22%22%22%22"),
];

#[tokio::test]
async fn characters_that_the_library_refuses_reach_the_application() {
    let server = TestServer::start(&[]);
    let (app, mut seen) = recorder().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app)]).await;
    // Several requests in one write, then byte by byte.
    let all: String = ENCODED.iter().map(|(target, _)| request("GET", target, "X: <\"`>\r\n")).collect();
    let mut visitor = visitor::raw(server.public, &all).await;
    for (_, expected) in ENCODED {
        assert_eq!(soon("a request", seen.recv()).await.unwrap(), expected);
    }
    for byte in request("GET", "/<`\"?<`\"", "").bytes() {
        visitor.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(soon("a request", seen.recv()).await.unwrap(), "/%3C%60\"?%3C`%22");
    // On a path route, and with a whole URL.
    for target in ["/alice/<?\"", "http://alice.localhost/<?\""] {
        let host = if target.starts_with('/') { "localhost" } else { "alice.localhost" };
        let _visitor = visitor::raw(server.public, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(soon("a request", seen.recv()).await.unwrap(), "/%3C?%22");
    }
    // Bytes that are no UTF-8.
    let mut visitor = visitor::raw(server.public, "").await;
    visitor.write_all(b"GET /caf\xe9?\xff HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await.unwrap();
    assert_eq!(soon("a request", seen.recv()).await.unwrap(), "/caf%E9?%FF");
}

#[tokio::test]
async fn characters_that_the_library_refuses_reach_the_application_over_http_2() {
    let server = TestServer::start(&[]);
    let (app, mut seen) = recorder().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app)]).await;
    let mut visitor = visitor::raw(server.public, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    visitor.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let mut stream = 1;
    for (path, expected) in ENCODED {
        visitor.write_all(&frame(1, 5, stream, &http2_head(path.as_bytes()))).await.unwrap();
        assert_eq!(soon("a request", seen.recv()).await.unwrap(), expected);
        stream += 2;
    }
    // Kept in the table, and taken out of it again.
    let mut kept = http2_head(b"/caf\xe9<");
    let at = kept.iter().position(|byte| *byte == 4).unwrap();
    kept[at] |= 0x40;
    for block in [&kept[..], &[&http2_head(b"")[..at], &[0x80 | 62]].concat()] {
        visitor.write_all(&frame(1, 5, stream, block)).await.unwrap();
        assert_eq!(soon("a request", seen.recv()).await.unwrap(), "/caf%E9%3C");
        stream += 2;
    }
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_answered_with_an_error_page() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let good = request("GET", "/first", "");
    for (bad, status, code) in [
        (request("GET", "/a b", ""), 400, "bad_request"),
        (request("GET", "http://a<b/", ""), 400, "bad_request"),
        (request("G\"T", "/", ""), 400, "bad_request"),
        (request("GET", "/\u{1}", ""), 400, "bad_request"),
        (request("GET", "/", "X\"Y: a\r\n"), 400, "bad_request"),
        (request("GET", "/", "X: \u{1}\r\n"), 400, "bad_request"),
        (request("POST", "/", "Content-Length: a\r\n"), 400, "bad_request"),
        ("GET / HTTP/3.0\r\n\r\n".to_owned(), 400, "bad_request"),
        (request("GET", &"/x".repeat(40_000), ""), 431, "head_too_large"),
    ] {
        for before in ["", &good] {
            let answer = asked(&server, &[before, &bad].concat()).await;
            let last = &answer[answer.rfind("HTTP/1.1 ").unwrap()..];
            assert_eq!(answer.contains("GET /first\n"), !before.is_empty(), "{answer}");
            assert!(last.starts_with(&format!("HTTP/1.1 {status} ")), "{bad:.60}: {last}");
            let (head, body) = last.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("x-adit-error: {code}\r\n")), "{bad:.60}: {last}");
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())) && body.contains(code), "{last}");
        }
    }
}

#[tokio::test]
async fn an_applications_own_refusal_crosses_as_it_is() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    // Also while the body of the request has not come.
    let unsent = [CLOSE, "Content-Length: 5\r\n"].concat();
    let expecting = [&unsent, "Expect: 100-continue\r\n"].concat();
    for fields in [CLOSE, &unsent, &expecting] {
        let mut visitor = visitor::raw(server.public, &request("PUT", "/", fields)).await;
        let (mut local, _) = app.request().await;
        local.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let answer = read_until(&mut visitor, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && !answer.contains("x-adit-error"), "{answer}");
    }
}

#[tokio::test]
async fn what_a_target_looks_like_decides_and_not_what_a_parser_makes_of_it() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    for (method, target) in [
        ("GET", "*"),
        ("DELETE", "alice.localhost"),
        ("GET", "alice.localhost:80"),
        ("GET", "ftp://alice.localhost/a"),
        ("GET", "?a"),
    ] {
        let answer = asked(&server, &request(method, target, CLOSE)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{method} {target}: {answer}");
    }
    for (method, target, seen) in [
        ("OPTIONS", "*", "OPTIONS *\n"),
        ("GET", "http://alice.localhost?a", "GET /?a\n"),
        ("GET", "http://alice.localhost", "GET /\n"),
        ("GET", "/a//b/?", "GET /a//b/?\n"),
        ("GET", "/%23", "GET /%23\n"),
    ] {
        let answer = asked(&server, &request(method, target, CLOSE)).await;
        assert!(answer.contains(seen), "{method} {target}: {answer}");
    }
}

#[tokio::test]
async fn bytes_behind_an_upgrade_are_no_requests() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let early = "GET /#x HTTP/1.1\r\n\r\n#";
    let mut visitor =
        visitor::raw(server.public, &(request("GET", "/", "Connection: Upgrade\r\nUpgrade: echo/1\r\n") + early)).await;
    let (mut local, _) = app.request().await;
    local
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_until(&mut local, early).await, early);
    visitor.write_all(early.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut local, early).await, early);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A request for alice's `path`, all of it as it is written.
fn http2_head(path: &[u8]) -> Vec<u8> {
    http2_head_at(b"alice.localhost", path)
}

fn http2_head_at(authority: &[u8], path: &[u8]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (index, text) in [(1, authority), (4, path)] {
        block.extend([index, u8::try_from(text.len()).unwrap()]);
        block.extend(text);
    }
    block
}

/// The first byte of the header block that comes on `stream`: the status, of those that have a number in HPACK.
async fn status_on(socket: &mut TcpStream, stream: u8) -> u8 {
    let mut header = [0; 9];
    loop {
        soon("a frame", socket.read_exact(&mut header)).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        soon("a payload", socket.read_exact(&mut payload)).await.unwrap();
        assert!(header[3] != 3 && header[3] != 7, "the stream or the connection was reset: {payload:?}");
        if header[3] == 1 && header[8] == stream {
            // The table may change its size first.
            return payload.into_iter().find(|byte| byte & 0xe0 != 0x20).unwrap();
        }
    }
}

#[tokio::test]
async fn a_bad_path_of_http_2_is_refused_with_a_status() {
    const OK: u8 = 0x88;
    const BAD_REQUEST: u8 = 0x8c;
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let mut visitor = visitor::raw(server.public, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    visitor.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let mut stream = 1;
    for (path, expected) in [
        ("/keep/", OK),
        ("/keep/#x", BAD_REQUEST),
        ("/keep/", OK),
        ("#", BAD_REQUEST),
        ("/?a#b", BAD_REQUEST),
        ("?a", BAD_REQUEST),
        ("/a b", BAD_REQUEST),
        ("/a\n", BAD_REQUEST),
        ("a", BAD_REQUEST),
        ("/%23", OK),
    ] {
        let head = http2_head(path.as_bytes());
        visitor.write_all(&frame(1, 5, stream, &head)).await.unwrap();
        assert_eq!(status_on(&mut visitor, stream).await, expected, "{path}");
        stream += 2;
        // In two frames, byte by byte.
        let sent = [frame(1, 1, stream, &head[..7]), frame(9, 4, stream, &head[7..])].concat();
        for byte in sent {
            visitor.write_all(&[byte]).await.unwrap();
            visitor.flush().await.unwrap();
        }
        assert_eq!(status_on(&mut visitor, stream).await, expected, "{path} in pieces");
        stream += 2;
    }
    for authority in [&b"alice<localhost"[..], b"alice.localhost:1:2", b"caf\xe9.localhost"] {
        visitor.write_all(&frame(1, 5, stream, &http2_head_at(authority, b"/"))).await.unwrap();
        assert_eq!(status_on(&mut visitor, stream).await, BAD_REQUEST, "{authority:?}");
        stream += 2;
    }
}

#[tokio::test]
async fn a_copy_goes_where_its_destination_says() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let answer =
        asked(&server, &request("MOVE", "/a", "Destination: http://alice.localhost/b#c\r\nConnection: close\r\n"))
            .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let answer =
        asked(&server, &request("MOVE", "/a", "Destination: http://alice.localhost/b\r\nConnection: close\r\n")).await;
    assert!(answer.contains("destination: http://alice.localhost/b\n"), "{answer}");
    // A path route takes its name off both.
    let by_path = |destination: &str| {
        format!("COPY /alice/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nDestination: {destination}\r\n\r\n")
    };
    let answer = asked(&server, &by_path("http://localhost/alice/b")).await;
    assert!(answer.contains("COPY /a\n") && answer.contains("destination: http://localhost/b\n"), "{answer}");
    for elsewhere in ["http://localhost/bob/b", "/b"] {
        let answer = asked(&server, &by_path(elsewhere)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {}", StatusCode::BAD_REQUEST.as_u16())), "{answer}");
    }
}
