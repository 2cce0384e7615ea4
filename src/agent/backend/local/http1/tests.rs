//! Tests that bytes which an application sends after a response never reach another visitor. Time is paused: it advances
//! only where a test advances it, or where all tasks wait.

use std::io::ErrorKind;
use std::net::SocketAddr;

use http_body_util::BodyExt as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::{Instant, advance};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::pool::{IDLE_TIME, QUIET};
use super::*;
use crate::agent::options::LocalUrl;
use crate::transport::tls::LocalTrust;
use crate::transport::tls::{self, HTTP1};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const STALE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale";
const NO_BODY: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

fn visitor(port: u16) -> OnBehalfOf {
    (([192, 0, 2, 1], port).into(), ([192, 0, 2, 2], 443).into())
}

fn agent_at(url: &str, tls: Option<Arc<ClientConfig>>) -> Http1 {
    let url: LocalUrl = url.parse().unwrap();
    let dialler = Dialler::new(&url, None, Duration::from_secs(5)).unwrap();
    Http1::new(dialler, tls, true, TaskTracker::new())
}

/// An agent, and the application that it asks.
async fn pair() -> (Http1, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    (agent_at(&format!("http://{address}"), None), listener)
}

/// The agent asks on behalf of a visitor, and reads the answer: its status and its body.
async fn ask(agent: &Http1, port: u16, method: Method, path: &str) -> Result<(u16, String), BackendError> {
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    let (response, _) = agent.send(&mut request, visitor(port), None).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

async fn get(agent: &Http1, port: u16, path: &str) -> (u16, String) {
    ask(agent, port, Method::GET, path).await.unwrap()
}

/// The application reads the head of a request, and says for which path it is.
async fn asked(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a request"));
    }
    String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned()
}

/// The application answers the next request on a connection.
async fn answer(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, answer: &[u8]) {
    assert_eq!(asked(socket).await, path);
    socket.write_all(answer).await.unwrap();
    socket.flush().await.unwrap();
}

/// The application takes a new connection. What it writes there leaves at once: paused time would not acknowledge it.
async fn accept(listener: &TcpListener) -> TcpStream {
    let accepted = timeout(Duration::from_secs(60), listener.accept()).await;
    let (socket, _) = accepted.expect("the agent uses another connection").unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// The application takes a new connection and answers the request on it.
async fn answer_anew(listener: &TcpListener, path: &str, bytes: &[u8]) -> TcpStream {
    let mut socket = accept(listener).await;
    answer(&mut socket, path, bytes).await;
    socket
}

/// Waits until the agent has left a connection, without a further request on it, and says how long that took.
async fn left(socket: &mut (impl AsyncRead + Unpin)) -> Duration {
    let began = Instant::now();
    match socket.read(&mut [0]).await {
        Ok(read) => assert_eq!(read, 0, "the agent asks for something"),
        // What it had not read makes a reset of its end.
        Err(error) => assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{error}"),
    }
    began.elapsed()
}

/// Answers that have no body, with the method that they answer.
fn without_body() -> [(Method, &'static [u8]); 6] {
    [
        (Method::HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (Method::HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (Method::GET, NO_BODY),
        (Method::DELETE, b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        (Method::GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        (Method::PUT, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_body_after_a_bodyless_answer_is_nobodys_answer() {
    for (method, first) in without_body() {
        let (agent, listener) = pair().await;
        let (_, mut one) = tokio::join!(ask(&agent, 1, method, "/first"), answer_anew(&listener, "/first", first));
        // Neither another visitor nor the same one is sent after it, however long the application is silent.
        assert!(left(&mut one).await <= Duration::from_millis(1));
        for (port, wait) in [(2, Duration::ZERO), (1, Duration::ZERO), (2, 2 * QUIET)] {
            advance(wait).await;
            let late = async {
                let mut other = accept(&listener).await;
                // It arrives when the request has been written.
                assert_eq!(asked(&mut other).await, "/second");
                one.write_all(STALE).await.ok();
                other.write_all(NO_BODY).await.unwrap();
            };
            let (answered, ()) = tokio::join!(get(&agent, port, "/second"), late);
            assert_eq!(answered, (204, String::new()));
        }
    }
}

/// An application with a single thread serves a connection until that is closed.
#[tokio::test(start_paused = true)]
async fn an_application_that_serves_one_connection_at_a_time_is_not_kept_waiting_by_an_idle_one() {
    let (agent, listener) = pair().await;
    let application = async {
        for path in ["/one", "/two", "/three", "/four"] {
            let mut socket = answer_anew(&listener, path, OK).await;
            if path != "/four" {
                left(&mut socket).await;
            }
        }
    };
    let visitors = async {
        for (port, path) in [(1, "/one"), (2, "/two"), (3, "/three"), (4, "/four")] {
            let began = Instant::now();
            assert_eq!(get(&agent, port, path).await, (200, "ok".to_owned()));
            // That is known from the second time on.
            let most = if path == "/two" { 2 * FIRST_WAIT } else { FIRST_WAIT / 10 };
            assert!(began.elapsed() < most, "{path} took {:?}", began.elapsed());
        }
    };
    tokio::join!(application, visitors);
}

#[tokio::test(start_paused = true)]
async fn bytes_after_a_whole_body_are_not_another_visitors_answer() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    for first in [OK, &chunked[..]] {
        let (agent, listener) = pair().await;
        let (_, mut one) = tokio::join!(get(&agent, 1, "/first"), answer_anew(&listener, "/first", first));
        // The same visitor goes on at once.
        let (_, ()) = tokio::join!(get(&agent, 1, "/again"), answer(&mut one, "/again", first));
        let late = async {
            let mut other = accept(&listener).await;
            assert_eq!(asked(&mut other).await, "/second");
            one.write_all(STALE).await.unwrap();
            other.write_all(OK).await.unwrap();
        };
        let (answered, ()) = tokio::join!(get(&agent, 2, "/second"), late);
        assert_eq!(answered, (200, "ok".to_owned()));
        let took = left(&mut one).await;
        assert!(took <= QUIET, "{took:?} after {}", first.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_is_used_again() {
    let (agent, listener) = pair().await;
    let (_, mut one) = tokio::join!(get(&agent, 1, "/first"), answer_anew(&listener, "/first", OK));
    for (port, path) in [(2, "/second"), (3, "/third")] {
        advance(QUIET).await;
        let (answered, ()) = tokio::join!(get(&agent, port, path), answer(&mut one, path, OK));
        assert_eq!(answered.1, "ok");
    }
}

/// Each connection resolves the name of its host.
#[tokio::test(start_paused = true)]
async fn requests_that_go_on_resolve_a_name_again() {
    for (host, connections) in [("localhost", 3), ("127.0.0.1", 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let agent = agent_at(&format!("http://{host}:{}", listener.local_addr().unwrap().port()), None);
        let (mut one, mut count, began) = (None, 0, Instant::now());
        // Never idle for long.
        while began.elapsed() < Duration::from_secs(130) {
            let answered = async {
                let mut socket = match one.take() {
                    Some(socket) => socket,
                    None => {
                        count += 1;
                        accept(&listener).await
                    }
                };
                let mut first = [0];
                // An old connection ends without a request.
                if socket.read(&mut first).await.unwrap() == 0 {
                    count += 1;
                    socket = accept(&listener).await;
                    socket.read_exact(&mut first).await.unwrap();
                }
                answer(&mut socket, "/", OK).await;
                one = Some(socket);
            };
            let (response, ()) = tokio::join!(get(&agent, 1, "/"), answered);
            assert_eq!(response.1, "ok");
            advance(IDLE_TIME / 2).await;
        }
        assert_eq!(count, connections, "{host}");
    }
}

#[tokio::test(start_paused = true)]
async fn any_byte_on_a_quiet_connection_discards_it_at_once() {
    let continued = b"HTTP/1.1 100 Continue\r\n\r\n";
    for late in [&b"x"[..], STALE, continued, b"\r\n", b""] {
        for wait in [QUIET / 2, 2 * QUIET, 3 * QUIET] {
            let (agent, listener) = pair().await;
            let (_, mut one) = tokio::join!(get(&agent, 1, "/first"), answer_anew(&listener, "/first", OK));
            tokio::time::sleep(wait).await;
            match late {
                b"" => one.shutdown().await.unwrap(),
                late => one.write_all(late).await.unwrap(),
            }
            // Nobody asks for anything.
            assert!(left(&mut one).await <= QUIET, "{} after {wait:?}", late.escape_ascii());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_given_up_in_time() {
    let (agent, listener) = pair().await;
    let (_, mut one) = tokio::join!(get(&agent, 1, "/first"), answer_anew(&listener, "/first", OK));
    let took = left(&mut one).await;
    assert!((IDLE_TIME..IDLE_TIME + QUIET).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_with_its_connection_keeps_none() {
    for close in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let (agent, listener) = pair().await;
        let (answered, mut one) = tokio::join!(get(&agent, 1, "/"), answer_anew(&listener, "/", close));
        assert_eq!(answered.1, "ok");
        assert_eq!(left(&mut one).await, Duration::ZERO, "{}", close.escape_ascii());
    }
}

/// An application that does not read leaves the head of a large request half written: what it says then was said before.
#[tokio::test(start_paused = true)]
async fn an_answer_ahead_of_its_request_is_none() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let agent = agent_at(&format!("unix:{}", path.display()), None);
    let first = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        answer(&mut socket, "/first", OK).await;
        socket
    };
    let (_, mut one) = tokio::join!(get(&agent, 1, "/first"), first);
    // More than a Unix socket holds.
    let long = format!("/{}", "x".repeat(60_000));
    let mut request = Request::new(RequestBody::Empty);
    *request.uri_mut() = long.parse().unwrap();
    for name in 0..20_u32 {
        let name = http::HeaderName::try_from(format!("x-{name}")).unwrap();
        request.headers_mut().insert(name, "y".repeat(20_000).parse().unwrap());
    }
    let application = async {
        // Some of it has come: the rest has no room.
        assert_eq!(one.read_u8().await.unwrap(), b'G');
        one.write_all(STALE).await.unwrap();
        let other = timeout(Duration::from_secs(60), listener.accept()).await;
        let (mut other, _) = other.expect("the agent takes it for the answer").unwrap();
        answer(&mut other, &long, OK).await;
    };
    let (answered, ()) = tokio::join!(agent.send(&mut request, visitor(1), None), application);
    let body = answered.unwrap().0.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "ok");
}

/// An application with TLS, and an agent that does not check its certificate.
async fn tls_pair() -> (Http1, TcpListener, TlsAcceptor) {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![CertificateDer::from(cert.der().to_vec())], key);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = tls::local_client(&LocalTrust::Anybody, &[HTTP1]).unwrap();
    let agent = agent_at(&format!("https://{}", listener.local_addr().unwrap()), Some(client));
    (agent, listener, TlsAcceptor::from(Arc::new(config.unwrap())))
}

async fn answer_over_tls((listener, tls): (&TcpListener, &TlsAcceptor), path: &str) -> TlsStream<TcpStream> {
    let mut socket = tls.accept(accept(listener).await).await.unwrap();
    answer(&mut socket, path, OK).await;
    socket
}

#[tokio::test(start_paused = true)]
async fn what_tls_says_for_itself_discards_no_connection() {
    for wait in [Duration::ZERO, 2 * QUIET] {
        let (agent, listener, tls) = tls_pair().await;
        let (_, mut one) = tokio::join!(get(&agent, 1, "/first"), answer_over_tls((&listener, &tls), "/first"));
        tokio::time::sleep(wait).await;
        // Another key is a record that looks like any other.
        one.get_mut().1.refresh_traffic_keys().unwrap();
        one.flush().await.unwrap();
        tokio::time::sleep(QUIET).await;
        let (answered, ()) = tokio::join!(get(&agent, 2, "/second"), answer(&mut one, "/second", OK));
        assert_eq!(answered.1, "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_application_says_over_tls_discards_its_connection() {
    for wait in [Duration::ZERO, 2 * QUIET] {
        for ends in [false, true] {
            let (agent, listener, tls) = tls_pair().await;
            let (_, mut one) = tokio::join!(get(&agent, 1, "/first"), answer_over_tls((&listener, &tls), "/first"));
            tokio::time::sleep(wait).await;
            if ends {
                // The end of TLS, not of the connection below.
                one.get_mut().1.send_close_notify();
            } else {
                one.write_all(STALE).await.unwrap();
            }
            one.flush().await.unwrap();
            if wait.is_zero() {
                // Seen before it is used again, by whoever may use it at once.
                let second = answer_over_tls((&listener, &tls), "/second");
                assert_eq!(tokio::join!(get(&agent, 1, "/second"), second).0.1, "ok");
            }
            assert!(left(&mut one).await <= QUIET, "ends: {ends}, after {wait:?}");
        }
    }
}

/// Sends a request with a body that has arrived.
async fn put(agent: &Http1, method: Method, body: Vec<u8>) -> Result<(u16, String), BackendError> {
    let mut request = Request::new(RequestBody::Replayed([Bytes::from(body)].into(), Box::new(RequestBody::Empty)));
    *request.method_mut() = method;
    let (response, unsent) = agent.send(&mut request, visitor(1), None).await?;
    if let Some(mut unsent) = unsent {
        unsent.go_on().await;
    }
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

/// The application reads a request with a body in one chunk, and returns that chunk.
async fn asked_with_body(socket: &mut TcpStream) -> Vec<u8> {
    asked(socket).await;
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n0\r\n\r\n") {
        all.push(socket.read_u8().await.expect("a body"));
    }
    let start = all.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2;
    all[start..all.len() - 7].to_vec()
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_request_is_sent_once_more_if_a_kept_connection_ends_without_a_byte() {
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE, Method::from_bytes(b"PROPFIND").unwrap()]
    {
        let (agent, listener) = pair().await;
        let (_, mut kept) = tokio::join!(get(&agent, 1, "/first"), answer_anew(&listener, "/first", OK));
        let application = async {
            assert_eq!(asked(&mut kept).await, "/second");
            drop(kept);
            answer_anew(&listener, "/second", NO_BODY).await
        };
        let (answered, _) = tokio::join!(ask(&agent, 1, method.clone(), "/second"), application);
        assert_eq!(answered.unwrap(), (204, String::new()), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_had_an_effect_is_not_sent_again() {
    // POST and PATCH are not idempotent; the first byte of a response says that the application has begun.
    for (method, first) in [(Method::POST, ""), (Method::PATCH, ""), (Method::GET, "H"), (Method::PUT, INTERIM)] {
        let (agent, listener) = pair().await;
        let (_, mut kept) = tokio::join!(get(&agent, 1, "/first"), answer_anew(&listener, "/first", OK));
        let application = async {
            assert_eq!(asked(&mut kept).await, "/second");
            kept.write_all(first.as_bytes()).await.unwrap();
            drop(kept);
        };
        let (answered, ()) = tokio::join!(ask(&agent, 1, method.clone(), "/second"), application);
        assert!(answered.is_err(), "{method}");
        let other = timeout(Duration::from_secs(1), listener.accept()).await;
        assert!(other.is_err(), "{method} came again");
    }
}

const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_new_connection_that_ends_without_an_answer_is_not_tried_again() {
    let (agent, listener) = pair().await;
    let (_, mut kept) = tokio::join!(get(&agent, 1, "/first"), answer_anew(&listener, "/first", OK));
    let application = async {
        assert_eq!(asked(&mut kept).await, "/second");
        drop(kept);
        let mut other = accept(&listener).await;
        assert_eq!(asked(&mut other).await, "/second");
    };
    let (answered, ()) = tokio::join!(ask(&agent, 1, Method::GET, "/second"), application);
    assert!(answered.unwrap_err().text.contains("without an answer"));
    assert!(timeout(Duration::from_secs(1), listener.accept()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_body_is_sent_again_as_long_as_all_of_it_is_in_memory() {
    for (length, comes_again) in [(1, true), (15_000, true), (100_000, false)] {
        let (agent, listener) = pair().await;
        let (_, mut kept) = tokio::join!(get(&agent, 1, "/first"), answer_anew(&listener, "/first", OK));
        let body: Vec<u8> = (0..length).map(|at| b'a' + (at % 23) as u8).collect();
        let application = async {
            assert_eq!(asked_with_body(&mut kept).await, body);
            drop(kept);
            if comes_again {
                let mut other = accept(&listener).await;
                assert_eq!(asked_with_body(&mut other).await, body);
                other.write_all(OK).await.unwrap();
            }
        };
        let (answered, ()) = tokio::join!(put(&agent, Method::PUT, body.clone()), application);
        assert_eq!(answered.ok(), comes_again.then(|| (200, "ok".to_owned())), "{length}");
    }
}

/// Asks once for each path; the application closes each connection right after its response, without announcing it.
async fn closed_after_response(agent: &Http1, listener: &TcpListener, path: &str) -> bool {
    let application = async {
        let mut socket = answer_anew(listener, path, OK).await;
        // Without a request behind the response, the agent has not kept it.
        let was_kept = timeout(Duration::from_millis(5), socket.read_u8()).await.is_err();
        drop(socket);
        was_kept
    };
    let (answered, was_kept) = tokio::join!(get(agent, 1, path), application);
    assert_eq!(answered, (200, "ok".to_owned()));
    advance(QUIET).await;
    was_kept
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_closed_after_each_response_are_not_kept_for_a_while() {
    let (agent, listener) = pair().await;
    for path in ["/1", "/2", "/3"] {
        assert!(closed_after_response(&agent, &listener, path).await, "{path}");
    }
    // The next request finds the third one closed.
    assert!(!closed_after_response(&agent, &listener, "/4").await);
    assert!(!closed_after_response(&agent, &listener, "/5").await);
    advance(Duration::from_secs(60)).await;
    assert!(closed_after_response(&agent, &listener, "/6").await, "it is tried again");
    assert!(!closed_after_response(&agent, &listener, "/7").await, "once");
    advance(Duration::from_secs(60)).await;
    // Now the application keeps its connections.
    let (_, mut kept) = tokio::join!(get(&agent, 1, "/8"), answer_anew(&listener, "/8", OK));
    for path in ["/9", "/10"] {
        tokio::join!(get(&agent, 1, path), answer(&mut kept, path, OK));
    }
}
