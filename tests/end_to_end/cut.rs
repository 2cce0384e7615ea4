//! What breaks off in the middle is never shown as whole, and leaves nothing behind.

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Http2Visitor, Visitor, get, http2_request};
use crate::harness::{TestAgent, TestServer, service, soon, until, until_idle};

/// Long enough for a busy machine, and far below every deadline that would end something by itself (10 s and more).
const AT_ONCE: Duration = Duration::from_secs(5);

const WITH_LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n";
const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome";

/// How an answer is broken off.
#[derive(Debug, Clone, Copy)]
enum Break {
    AgentKilled,
    LaneLost,
    LocalDied,
}

/// A server, an agent, an answer that has begun, and the application's side of it.
async fn begun(version: &str, answer: &str) -> (TestServer, TestAgent, TcpStream, TcpStream) {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, &format!("GET / {version}\r\nHost: alice.localhost\r\n\r\n")).await;
    let (mut local, _) = app.request().await;
    local.write_all(answer.as_bytes()).await.unwrap();
    visitor::read_until(&mut visitor, "some").await;
    (server, agent, visitor, local)
}

async fn broken_off(how: Break, version: &str, answer: &str) -> std::io::Result<Vec<u8>> {
    let (server, agent, mut visitor, local) = begun(version, answer).await;
    match how {
        Break::AgentKilled => agent.crash().await,
        Break::LaneLost => server.tunnel_of("alice").lanes()[0].session().close(),
        Break::LocalDied => {
            // As when a process is killed with something unread: the connection is reset.
            socket2::SockRef::from(&local).set_linger(Some(Duration::ZERO)).unwrap();
            drop(local);
        }
    }
    let rest = visitor::read_to_end(&mut visitor).await;
    until_idle(&server.open, crate::harness::PATIENCE).await;
    rest
}

#[tokio::test]
async fn a_cut_answer_is_never_shown_as_complete() {
    for how in [Break::AgentKilled, Break::LaneLost, Break::LocalDied] {
        // With a length, what is missing shows by itself.
        let rest = broken_off(how, "HTTP/1.1", WITH_LENGTH).await.unwrap_or_default();
        assert!(rest.len() < 999_996, "{how:?}");
        // A chunked answer is complete with its last chunk: it must not come.
        for answer in [CHUNKED, UNTIL_CLOSE] {
            let rest = broken_off(how, "HTTP/1.1", answer).await.unwrap_or_default();
            assert!(!rest.ends_with(b"0\r\n\r\n"), "{how:?} {answer:?}: {:?}", String::from_utf8_lossy(&rest));
        }
        // An answer of HTTP/1.0 is complete with the end of the connection: that must be a reset.
        let ended = broken_off(how, "HTTP/1.0", UNTIL_CLOSE).await;
        assert!(ended.is_err(), "{how:?}: a cut answer ended like a whole one");
    }
}

#[tokio::test]
async fn a_whole_answer_that_ends_with_its_connection_ends_properly() {
    let (_server, _agent, mut visitor, local) = begun("HTTP/1.0", UNTIL_CLOSE).await;
    drop(local);
    assert_eq!(visitor::read_to_end(&mut visitor).await.unwrap(), b"");
    let (_server, _agent, mut visitor, local) = begun("HTTP/1.1", UNTIL_CLOSE).await;
    drop(local);
    visitor::read_until(&mut visitor, "0\r\n\r\n").await;
}

#[tokio::test]
async fn an_application_that_dies_before_its_answer_is_a_bad_gateway() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let (answer, ()) = tokio::join!(visitor::fetch(server.public, "alice", "/"), async {
        drop(app.request().await);
    });
    assert_eq!((answer.status.as_u16(), answer.header("x-adit-error")), (502, "local_broken"));
}

#[tokio::test]
async fn an_agent_that_dies_before_its_answer_is_a_bad_gateway() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let (answer, _local) = tokio::join!(visitor::fetch(server.public, "alice", "/"), async {
        let request = app.request().await;
        agent.crash().await;
        request
    });
    assert_eq!((answer.status.as_u16(), answer.header("x-adit-error")), (502, "tunnel_lost"));
    until("an empty registry", &server.registry, || server.registry.is_empty()).await;
}

#[tokio::test]
async fn a_visitor_who_leaves_an_endless_answer_leaves_nothing_behind() {
    for silent in [false, true] {
        let (server, _agent, visitor, mut local) = begun("HTTP/1.1", CHUNKED).await;
        let (mut read, mut write) = local.split();
        let endless = async {
            // It goes on until nobody takes it any more, or says nothing at all.
            while !silent && write.write_all(b"4\r\nmore\r\n").await.is_ok() {
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        drop(visitor);
        let mut buffer = [0; 64];
        let gone = tokio::time::timeout(AT_ONCE, async {
            tokio::select! {
                _ = read.read(&mut buffer) => {}
                () = endless => {}
            }
        });
        gone.await.expect("the application was still asked long after the visitor had left");
        until_idle(&server.open, AT_ONCE).await;
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_before_the_answer_leaves_nothing_behind() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 4\r\n\r\nbody",
        "POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 400\r\n\r\nhalf",
    ] {
        let visitor = visitor::raw(server.public, request).await;
        let (mut local, _) = app.request().await;
        drop(visitor);
        apps::left(&mut local, AT_ONCE).await;
        until_idle(&server.open, AT_ONCE).await;
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_is_never_shown_as_complete() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let head = "POST / HTTP/1.1\r\nHost: alice.localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let visitor = visitor::raw(server.public, head).await;
    let (mut local, _) = app.request().await;
    visitor::read_until(&mut local, "half\r\n").await;
    drop(visitor);
    let rest = visitor::read_to_end(&mut local).await.unwrap_or_default();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    until_idle(&server.open, AT_ONCE).await;
}

/// Settings under which only an answer with a length may not be silent.
const SHORT_IDLE: [(&str, &str); 2] = [("timeouts.idle", "300ms"), ("timeouts.quiet_stream", "1h")];
/// Settings under which only a stream may not be silent.
const SHORT_QUIET: [(&str, &str); 2] = [("timeouts.idle", "1h"), ("timeouts.quiet_stream", "300ms")];

/// The beginning of an answer with a length.
const SIZED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome";

/// Beginnings of answers that may be silent: of no announced length, or of a type for that.
const STREAMS: [&str; 5] = [
    "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=a\r\n\r\n--a\r\nsome",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
    "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream\r\nContent-Length: 1000\r\n\r\nsome",
    "HTTP/1.0 200 OK\r\n\r\n",
];

/// Answers a request with the beginning of an answer, and waits until its head is with the visitor.
async fn streaming(server: &TestServer, app: &mut Script, beginning: &str) -> (TcpStream, TcpStream) {
    let mut visitor = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    let (mut local, _) = app.request().await;
    local.write_all(beginning.as_bytes()).await.unwrap();
    visitor::read_until(&mut visitor, "\r\n\r\n").await;
    (visitor, local)
}

#[tokio::test]
async fn an_answer_that_falls_silent_is_cut_after_the_idle_limit() {
    let server = TestServer::start(&SHORT_IDLE);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    let (answer, mut local) = tokio::join!(visitor.begin(get("alice", "/")), async {
        let (mut local, _) = app.request().await;
        local.write_all(SIZED.as_bytes()).await.unwrap();
        local
    });
    let body = soon("the end of the answer", answer.unwrap().into_body().collect()).await;
    assert!(body.is_err(), "a silent answer ended like a whole one");
    apps::left(&mut local, crate::harness::PATIENCE).await;
    until_idle(&server.open, AT_ONCE).await;
}

#[tokio::test]
async fn an_answer_of_no_length_may_be_silent_for_longer() {
    let server = TestServer::start(&SHORT_IDLE);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut open = Vec::new();
    for beginning in STREAMS {
        open.push(streaming(&server, &mut app, beginning).await);
    }
    let http2 = Http2Visitor::connect(server.public).await;
    let (answer, mut local) = tokio::join!(http2.begin(http2_request(Method::GET, "alice", "/", "")), async {
        let (mut local, _) = app.request().await;
        local.write_all(STREAMS[0].as_bytes()).await.unwrap();
        local
    });
    let mut body = answer.unwrap().into_body();
    // An answer with a length that began after them is cut, twice over.
    for _ in 0..2 {
        let (mut sized, _local) = streaming(&server, &mut app, SIZED).await;
        soon("the end of the answer", visitor::read_to_end(&mut sized)).await.ok();
    }
    for (visitor, local) in &mut open {
        local.write_all(b"6\r\nlater\n\r\n").await.unwrap();
        visitor::read_until(visitor, "later").await;
    }
    local.write_all(b"6\r\nlater\n\r\n").await.unwrap();
    assert_eq!(soon("a piece", body.frame()).await.unwrap().unwrap().into_data().unwrap(), "later\n");
}

#[tokio::test]
async fn an_answer_of_no_length_is_cut_after_the_limit_of_streams() {
    let server = TestServer::start(&SHORT_QUIET);
    let mut app = Script::start().await;
    // The server's limit is the upper bound.
    let services = vec![service("alice", &app.address.to_string(), &[("quiet_timeout", "1h".into())])];
    let _agent = TestAgent::connect_with(&server, "alice", services).await;
    let (_sized, _local) = streaming(&server, &mut app, SIZED).await;
    for beginning in STREAMS {
        let (mut visitor, mut local) = streaming(&server, &mut app, beginning).await;
        let rest = visitor::read_to_end(&mut visitor).await.unwrap_or_default();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{beginning}");
        apps::left(&mut local, crate::harness::PATIENCE).await;
    }
}

#[tokio::test]
async fn a_service_may_have_a_shorter_limit_for_its_streams() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let address = app.address.to_string();
    let services =
        vec![service("alice", &address, &[("quiet_timeout", "300ms".into())]), service("blog", &address, &[])];
    let _agent = TestAgent::connect_with(&server, "alice", services).await;
    let mut others = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n").await;
    let (mut others_local, _) = app.request().await;
    others_local.write_all(STREAMS[2].as_bytes()).await.unwrap();
    let (mut sized, mut sized_local) = streaming(&server, &mut app, SIZED).await;
    for beginning in STREAMS {
        let (mut visitor, mut local) = streaming(&server, &mut app, beginning).await;
        let rest = visitor::read_to_end(&mut visitor).await.unwrap_or_default();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{beginning}");
        apps::left(&mut local, crate::harness::PATIENCE).await;
    }
    let upgrade = "GET / HTTP/1.1\r\nHost: alice.localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut visitor = visitor::raw(server.public, upgrade).await;
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
    visitor::read_until(&mut visitor, "\r\n\r\n").await;
    let _ = visitor::read_to_end(&mut visitor).await;
    apps::left(&mut local, crate::harness::PATIENCE).await;
    // Neither an answer with a length nor another service is affected.
    sized_local.write_all(b"more").await.unwrap();
    visitor::read_until(&mut sized, "somemore").await;
    others_local.write_all(b"4\r\nmore\r\n").await.unwrap();
    visitor::read_until(&mut others, "more").await;
}

#[tokio::test]
async fn a_cut_answer_without_a_length_is_not_shown_as_complete_when_the_server_stops() {
    let server = TestServer::start(&[("tunnel.drain_timeout", "100ms")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, "GET / HTTP/1.0\r\nHost: alice.localhost\r\n\r\n").await;
    let (mut local, _) = app.request().await;
    local.write_all(UNTIL_CLOSE.as_bytes()).await.unwrap();
    visitor::read_until(&mut visitor, "some").await;
    assert_eq!(server.stop().await.requests_cut, 1);
    let ended = visitor::read_to_end(&mut visitor).await;
    assert!(ended.is_err(), "a cut answer ended like a whole one");
}

#[tokio::test]
async fn a_visitor_who_takes_nothing_is_given_up() {
    let server = TestServer::start(&[("timeouts.idle", "300ms")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    let (mut local, _) = app.request().await;
    local.write_all(CHUNKED.as_bytes()).await.unwrap();
    visitor::read_until(&mut visitor, "some").await;
    // From here on it reads no more, while the application goes on until nobody takes it.
    let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let flood = async { while local.write_all(piece.as_bytes()).await.is_ok() {} };
    soon("the end of an answer that nobody reads", flood).await;
    until_idle(&server.open, AT_ONCE).await;
    drop(visitor);
}

#[tokio::test]
async fn an_early_answer_with_a_length_does_not_cut_the_upload() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let head = "POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 9\r\n\r\none";
    let mut visitor = visitor::raw(server.public, head).await;
    let (mut local, _) = app.request().await;
    visitor::read_until(&mut local, "one").await;
    // So large that its end does not come along with the last of it.
    let early = vec![b'y'; 1_000_000];
    let (sent, mut got) = tokio::join!(
        async {
            local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
            local.write_all(&early).await
        },
        async {
            visitor::read_until(&mut visitor, "\r\n\r\n").await;
            let mut got = vec![0; early.len()];
            soon("the whole answer", visitor.read_exact(&mut got)).await.unwrap();
            got
        }
    );
    sent.unwrap();
    got.dedup();
    assert_eq!(got, b"y");
    visitor.write_all(b"two").await.unwrap();
    visitor::read_until(&mut local, "two").await;
    visitor.write_all(b"end").await.unwrap();
    visitor::read_until(&mut local, "end").await;
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn a_slow_reader_is_not_one_that_takes_nothing() {
    const SIZE: usize = 8 << 20;
    let server = TestServer::start(&[("timeouts.idle", "3s")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // What the visitor's own kernel takes for it does not count.
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let mut visitor = socket.connect(server.public).await.unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await.unwrap();
    let (mut local, _) = app.request().await;
    let flood = async {
        local.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
        local.write_all(&vec![b'x'; SIZE]).await
    };
    let read = async {
        visitor::read_until(&mut visitor, "\r\n\r\n").await;
        let mut pace = tokio::time::interval(Duration::from_millis(300));
        let mut piece = vec![0; 64 * 1024];
        // Some 220 kB a second, for almost three times the limit.
        for _ in 0..28 {
            pace.tick().await;
            visitor.read_exact(&mut piece).await.expect("a slow reader was cut");
        }
        let mut rest = vec![0; SIZE - 28 * piece.len()];
        soon("the rest of the answer", visitor.read_exact(&mut rest)).await.unwrap();
    };
    let (flood, ()) = tokio::join!(flood, read);
    flood.unwrap();
}
