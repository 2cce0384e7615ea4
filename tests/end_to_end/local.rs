//! How local applications are spoken to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use adit::schema::ValueKind;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::harness::apps::{self, Script};
use crate::harness::frames::{self, Frames};
use crate::harness::visitor::{self, Http2Visitor, Visitor, fetch, get, http2_request, read_until, request};
use crate::harness::{PATIENCE, ServiceEntry, TestAgent, TestServer, service, soon, spawn, until_idle};

async fn agent(server: &TestServer, entry: ServiceEntry) -> TestAgent {
    TestAgent::connect_with(server, "alice", vec![entry]).await
}

/// A TLS application for `localhost`: where it listens, and the certificate to trust.
async fn tls_app(alpn: &[&[u8]]) -> (SocketAddr, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    // As `openssl req -x509` and many appliances make them.
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let asked_for = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                let said = move |request: Request<Incoming>| {
                    let asked_for = asked_for.clone();
                    async move {
                        let text = format!("{:?} {}", request.version(), request.uri().path());
                        let answer = Response::builder().header("x-asked-for", asked_for);
                        Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(text))).unwrap())
                    }
                };
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let (io, service) = (TokioIo::new(stream), service_fn(said));
                if http2 {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await;
                } else {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    (address, cert.pem())
}

#[tokio::test]
async fn an_https_application_shows_who_it_is() {
    let server = TestServer::start(&[]);
    let (address, pem) = tls_app(&[]).await;
    let (_, other_pem) = tls_app(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = (dir.path().join("right.pem"), dir.path().join("wrong.pem"));
    std::fs::write(&right, pem).unwrap();
    std::fs::write(&wrong, other_pem).unwrap();
    let local = format!("https://localhost:{}", address.port());
    let ca = |path: &std::path::Path| ("ca", ValueKind::from(path.to_str().unwrap()));
    for (key, expected) in [
        (ca(&right), Ok("HTTP/1.1 /x")),
        (("insecure_skip_verify", true.into()), Ok("HTTP/1.1 /x")),
        (ca(&wrong), Err("local_unreachable")),
    ] {
        let agent = agent(&server, service("alice", &local, &[key])).await;
        let answer = fetch(server.public, "alice", "/x").await;
        match expected {
            Ok(text) => assert_eq!(answer.text(), text),
            Err(code) => assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::BAD_GATEWAY, code)),
        }
        agent.stop().await.unwrap();
    }
}

/// A proxy at home that serves several names chooses by the one in the handshake.
#[tokio::test]
async fn an_https_application_is_asked_for_the_name_that_it_serves() {
    let server = TestServer::start(&[]);
    let (address, pem) = tls_app(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, pem).unwrap();
    let local = format!("https://localhost:{}", address.port());
    let (name, other) = (("server_name", "Home.example"), ("host_header", "app.example:8443"));
    for (keys, expected) in [
        (&[][..], "localhost"),
        (&[name], "home.example"),
        (&[other], "app.example"),
        (&[("host_header", "192.0.2.1:8443")], "localhost"),
        (&[other, name], "home.example"),
    ] {
        let keys: Vec<(&str, ValueKind)> = keys.iter().map(|(key, value)| (*key, ValueKind::from(*value))).collect();
        let keys = [&[("ca", ca.to_str().unwrap().into())], &keys[..]].concat();
        let agent = agent(&server, service("alice", &local, &keys)).await;
        let answer = fetch(server.public, "alice", "/").await;
        assert_eq!((answer.status, answer.header("x-asked-for")), (StatusCode::OK, expected));
        agent.stop().await.unwrap();
    }
}

#[tokio::test]
async fn an_https_application_is_spoken_to_in_the_visitors_version_if_it_can() {
    let server = TestServer::start(&[]);
    for (alpn, for_http2) in [(&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0 /"), (&[], "HTTP/1.1 /")] {
        let (address, _) = tls_app(alpn).await;
        let local = format!("https://localhost:{}", address.port());
        let agent = agent(&server, service("alice", &local, &[("insecure_skip_verify", true.into())])).await;
        let visitor = Http2Visitor::connect(server.public).await;
        for _ in 0..2 {
            let (answer, _) = visitor.ask(http2_request(Method::POST, "alice", "/", "body")).await;
            assert_eq!(answer.text(), for_http2);
        }
        assert_eq!(fetch(server.public, "alice", "/").await.text(), "HTTP/1.1 /");
        agent.stop().await.unwrap();
    }
}

/// A body with trailers.
struct Trailed(Option<Bytes>, Option<HeaderMap>);

impl Body for Trailed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.0.take().map(Frame::data);
        std::task::Poll::Ready(data.or_else(|| self.1.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none() && self.1.is_none()
    }
}

/// An application that speaks HTTP/2 only: it sends what it got back, and in trailers what it was asked for. An extended
/// CONNECT becomes an echo.
async fn h2c_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |mut request: Request<Incoming>| async move {
        if request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket") {
            let upgrade = hyper::upgrade::on(&mut request);
            spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
            return Ok::<_, Infallible>(Response::new(Trailed(None, None)));
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap();
        let mut trailers = body.trailers().cloned().unwrap_or_default();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("x-authority", head.uri.authority().unwrap().as_str().parse().unwrap());
        trailers.insert("x-te", head.headers.get("te").cloned().unwrap_or("none".parse().unwrap()));
        assert!(!head.headers.contains_key("host") && !head.headers.contains_key("transfer-encoding"));
        trailers.insert("x-length", head.headers.get("content-length").cloned().unwrap_or("none".parse().unwrap()));
        let mut answer = Response::new(());
        for (asked, fields) in [("x-large-head", answer.headers_mut()), ("x-large-trailers", &mut trailers)] {
            let size: usize = head.headers.get(asked).map_or(0, |size| size.to_str().unwrap().parse().unwrap());
            for _ in 0..size / 1000 {
                fields.append("x-large", "x".repeat(1000).parse().unwrap());
            }
        }
        Ok(answer.map(|()| Trailed(Some(body.to_bytes()), Some(trailers))))
    };
    spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.enable_connect_protocol().max_concurrent_streams(10);
            spawn(builder.serve_connection(TokioIo::new(socket), service_fn(answer)));
        }
    });
    address
}

#[tokio::test]
async fn an_h2c_application_gets_trailers_and_gives_them() {
    let server = TestServer::start(&[]);
    let _agent = agent(&server, service("alice", &format!("h2c://{}", h2c_app().await), &[])).await;
    let visitor = Http2Visitor::connect(server.public).await;
    // More at once than one of its connections takes.
    let ask = |number: usize| {
        let mut request = http2_request(Method::POST, "alice", "/x", "");
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), number.to_string().parse().unwrap())]);
        *request.body_mut() = Trailed(Some(Bytes::from(number.to_string())), Some(trailers)).boxed();
        visitor.ask(request)
    };
    for (number, (answer, trailers)) in futures_util::future::join_all((0..30).map(ask)).await.into_iter().enumerate() {
        assert_eq!(answer.text(), number.to_string());
        for (name, value) in
            [("grpc-status", "0"), ("x-sum", answer.text()), ("x-authority", "alice.localhost"), ("x-te", "trailers")]
        {
            assert_eq!(trailers[name], value);
        }
    }
    assert_eq!(
        Visitor::connect(server.public).await.ask(request(Method::PUT, "alice", "/", "old")).await.text(),
        "old"
    );
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn an_h2c_application_may_send_as_large_heads_and_trailers_as_another() {
    let server = TestServer::start(&[]);
    let _agent = agent(&server, service("alice", &format!("h2c://{}", h2c_app().await), &[])).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let ask = |field: &'static str, size: usize| {
        let mut request = http2_request(Method::GET, "alice", "/", "");
        request.headers_mut().insert(field, size.into());
        visitor.ask(request)
    };
    for size in [20_000, 100_000] {
        let (answer, _) = ask("x-large-head", size).await;
        assert_eq!((answer.status, answer.headers.get_all("x-large").iter().count()), (StatusCode::OK, size / 1000));
        let (answer, trailers) = ask("x-large-trailers", size).await;
        assert_eq!((answer.status, trailers.get_all("x-large").iter().count()), (StatusCode::OK, size / 1000));
        assert_eq!(trailers["grpc-status"], "0");
    }
    let (answer, _) = ask("x-large-head", 140_000).await;
    assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "local_broken"));
}

#[tokio::test]
async fn a_request_without_a_body_gains_no_length_on_its_way_to_an_h2c_application() {
    let server = TestServer::start(&[]);
    let _agent = agent(&server, service("alice", &format!("h2c://{}", h2c_app().await), &[])).await;
    let visitor = Http2Visitor::connect(server.public).await;
    for (length, expected) in [(None, "none"), (Some("0"), "0")] {
        let mut request = http2_request(Method::POST, "alice", "/", "");
        request.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.parse().unwrap())));
        // Of no known length: the visitor's library adds none.
        *request.body_mut() = Trailed(None, None).boxed();
        let (_, trailers) = visitor.ask(request).await;
        assert_eq!(trailers["x-length"], expected);
    }
}

#[tokio::test]
async fn an_application_that_does_not_speak_http2_is_a_bad_gateway() {
    let server = TestServer::start(&[]);
    let _agent = agent(&server, service("alice", &format!("h2c://{}", apps::echo().await), &[])).await;
    let answer = fetch(server.public, "alice", "/").await;
    assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "local_broken"));
}

#[tokio::test]
async fn an_application_may_listen_on_a_unix_socket() {
    let server = TestServer::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let said = |request: Request<Incoming>| async move {
                let host = request.headers()["host"].to_str().unwrap().to_owned();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(host))))
            };
            spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(said)));
        }
    });
    let local = format!("unix:{}", path.display());
    let first = agent(&server, service("alice", &local, &[])).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "alice.localhost");
    first.stop().await.unwrap();
    let _second = agent(&server, service("alice", &local, &[("host_header", "local".into())])).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "localhost");
}

#[tokio::test]
async fn an_answer_is_not_lost_because_the_upload_was_not_wanted() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for _ in 0..20 {
        let head = "POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 50000000\r\n\r\n";
        let visitor = visitor::raw(server.public, head).await;
        let (mut from_server, mut to_server) = visitor.into_split();
        let upload = spawn(async move { while to_server.write_all(&[b'x'; 65_536]).await.is_ok() {} });
        let (mut local, _) = app.request().await;
        local.write_all(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        // With unread bytes in it, closing is a reset.
        drop(local);
        let mut answer = [0; 12];
        soon("an answer", from_server.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
        upload.abort();
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn fields_are_changed_as_the_service_says() {
    let server = TestServer::start(&[]);
    let local = apps::echo().await.to_string();
    let rules = |pairs: &[(&str, ValueKind)]| {
        ValueKind::from(
            pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<std::collections::HashMap<_, _>>(),
        )
    };
    let one = |name: &str, value: &str| rules(&[(name, value.into())]);
    let keys = [
        (
            "request_headers",
            rules(&[("remove", vec!["cookie"].into()), ("set", one("x-key", "k")), ("add", one("x-a", "2"))]),
        ),
        ("response_headers", rules(&[("remove", vec!["date"].into()), ("set", one("x-frame-options", "DENY"))])),
    ];
    let _agent = agent(&server, service("alice", &local, &keys)).await;
    let mut asked = get("alice", "/");
    for (name, value) in [("cookie", "secret"), ("x-key", "visitor's"), ("x-a", "1")] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = Visitor::connect(server.public).await.ask(asked).await;
    let text = answer.text();
    assert!(text.contains("x-key: k\n") && text.contains("x-a: 1\nx-a: 2\n"), "{text}");
    assert!(!text.contains("secret") && !text.contains("visitor's"), "{text}");
    assert_eq!((answer.header("x-frame-options"), answer.header("date")), ("DENY", ""));
}

#[tokio::test]
async fn a_connection_that_names_its_visitor_is_for_that_visitor_alone() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = agent(&server, service("alice", &app.address.to_string(), &[("proxy_protocol", "v1".into())])).await;
    let mut visitor = visitor::raw(server.public, "").await;
    let from = visitor.local_addr().unwrap();
    for path in ["/one", "/two"] {
        visitor.write_all(format!("GET {path} HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").as_bytes()).await.unwrap();
        let (mut local, head) = app.request().await;
        let expected = format!(
            "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nGET {path} HTTP/1.1\r\n",
            from.port(),
            server.public.port()
        );
        assert!(head.starts_with(&expected), "{head}");
        local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        read_until(&mut visitor, "\r\n\r\nok").await;
    }
}

/// A WebSocket as HTTP/2 asks for it.
fn extended_connect() -> Request<visitor::StreamBody> {
    let mut request = http2_request(Method::CONNECT, "alice", "/chat?x", "");
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    *request.body_mut() = http_body_util::Empty::new().boxed();
    request
}

#[tokio::test]
async fn a_websocket_over_http2_is_an_upgrade_to_the_application() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    for honest in [true, false] {
        let (answer, local) = tokio::join!(visitor.begin(extended_connect()), async {
            let (mut local, head) = app.request().await;
            let lower = head.to_ascii_lowercase();
            assert!(head.starts_with("GET /chat?x HTTP/1.1\r\n"), "{head}");
            assert!(
                lower.contains("upgrade: websocket\r\n") && lower.contains("sec-websocket-version: 13\r\n"),
                "{head}"
            );
            let key = head.lines().find(|line| line.to_ascii_lowercase().starts_with("sec-websocket-key: ")).unwrap();
            let key = if honest { key.split_once(": ").unwrap().1 } else { "another" };
            let accept = accept_of(key);
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello"
            );
            local.write_all(answer.as_bytes()).await.unwrap();
            local
        });
        let (mut answer, mut local) = (answer.unwrap(), local);
        if !honest {
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            continue;
        }
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        for gone in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!answer.headers().contains_key(gone), "{gone}");
        }
        let mut socket = TokioIo::new(soon("a socket", hyper::upgrade::on(&mut answer)).await.unwrap());
        let mut hello = [0; 5];
        soon("hello", socket.read_exact(&mut hello)).await.unwrap();
        assert_eq!(&hello, b"hello");
        socket.write_all(b"frames").await.unwrap();
        read_until(&mut local, "frames").await;
        local.shutdown().await.unwrap();
        let mut rest = Vec::new();
        soon("the end", socket.read_to_end(&mut rest)).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(visitor::read_to_end(&mut local).await.unwrap(), b"");
    }
    until_idle(&server.open, PATIENCE).await;
}

/// RFC 6455, section 4.2.2, by another road than the program's.
fn accept_of(key: &str) -> String {
    use base64::Engine as _;
    use sha1::Digest as _;
    let digest = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    base64::engine::general_purpose::STANDARD.encode(digest)
}

#[tokio::test]
async fn an_application_may_decline_a_websocket_over_http2() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    for (said, status) in [("403 Forbidden", StatusCode::FORBIDDEN), ("200 OK", StatusCode::BAD_GATEWAY)] {
        let (answer, _local) = tokio::join!(visitor.begin(extended_connect()), async {
            let (mut local, _) = app.request().await;
            local.write_all(format!("HTTP/1.1 {said}\r\nContent-Length: 2\r\n\r\nno").as_bytes()).await.unwrap();
            local
        });
        assert_eq!(answer.unwrap().status(), status);
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn an_upgrade_to_a_websocket_is_an_extended_connect_to_an_h2c_application() {
    let server = TestServer::start(&[]);
    let _agent = agent(&server, service("alice", &format!("h2c://{}", h2c_app().await), &[])).await;
    let ask = "GET /chat HTTP/1.1\r\nHost: alice.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut visitor = visitor::raw(server.public, ask).await;
    let head = read_until(&mut visitor, "\r\n\r\n").await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains(&"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_ascii_lowercase()), "{head}");
    visitor.write_all(b"echo").await.unwrap();
    read_until(&mut visitor, "echo").await;
    visitor.shutdown().await.unwrap();
    assert_eq!(visitor::read_to_end(&mut visitor).await.unwrap(), b"");
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn websockets_keep_their_places_on_a_connection_to_an_h2c_application() {
    let server = TestServer::start(&[]);
    let _agent = agent(&server, service("alice", &format!("h2c://{}", h2c_app().await), &[])).await;
    let visitor = Http2Visitor::connect(server.public).await;
    // One of the application's connections takes ten: what comes then goes over another one, and does not wait.
    let mut open = Vec::new();
    for number in 0..11 {
        let answer = soon("a socket", visitor.begin(extended_connect())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{number}");
        open.push(answer);
    }
    let (answer, _) = soon("an answer", visitor.ask(http2_request(Method::POST, "alice", "/", "body"))).await;
    assert_eq!(answer.text(), "body");
    drop((open, visitor));
    until_idle(&server.open, PATIENCE).await;
}

const WAITS: &str = "POST / HTTP/1.1\r\nHost: alice.localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

#[tokio::test]
async fn a_body_that_waits_is_asked_for_by_the_application() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, WAITS).await;
    let (mut local, head) = app.request().await;
    assert!(head.to_ascii_lowercase().contains("expect: 100-continue\r\n"), "{head}");
    local.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    assert_eq!(read_until(&mut visitor, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    visitor.write_all(b"body").await.unwrap();
    read_until(&mut local, "body").await;
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    read_until(&mut visitor, "\r\n\r\nok").await;
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_body_that_waits_is_never_sent_if_the_application_answers_without_it() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, WAITS).await;
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    let answer = visitor::read_to_end(&mut visitor).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 417") && answer.ends_with(b"no"), "{:?}", String::from_utf8_lossy(&answer));
    apps::left(&mut local, PATIENCE).await;
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_body_that_waits_comes_anyway_if_the_application_does_not_know_of_that() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, WAITS).await;
    let (mut local, _) = app.request().await;
    assert_eq!(read_until(&mut visitor, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    visitor.write_all(b"body").await.unwrap();
    read_until(&mut local, "body").await;
    local.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    read_until(&mut visitor, "204 No Content\r\n\r\n").await;
}

/// A visitor over HTTP/2 with a request that waits to be asked for its body, on stream 1.
async fn waits_over_http2(server: &TestServer, host: &str) -> Frames {
    let mut visitor = Frames::visitor(server.public).await;
    let mut fields = frames::request("PUT", "/up", &[("content-length", "4"), ("expect", "100-continue")]);
    let at = fields.windows(5).position(|window| window == b"alice").unwrap();
    fields[at..at + 5].copy_from_slice(host.as_bytes());
    visitor.send(frames::HEADERS, frames::END_HEADERS, 1, &fields).await;
    visitor
}

/// Sends another request on the connection. What comes next is its answer.
async fn assert_serves_another(visitor: &mut Frames, app: &mut Script) {
    let request = frames::request("GET", "/", &[]);
    visitor.send(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, 3, &request).await;
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
    let next = visitor.head().await;
    assert_eq!((status_of(&next), next.stream), ("204", 3));
}

/// The status of a head, whose field is not in the static table, or of one that is.
fn status_of(head: &frames::Frame) -> &str {
    match head.payload.iter().find(|byte| **byte & 0xe0 != 0x20) {
        Some(0x88) => "200",
        Some(0x89) => "204",
        Some(0x8d) => "404",
        _ if head.payload == b"\x08\x03100" => "100",
        _ => "another",
    }
}

#[tokio::test]
async fn a_body_that_waits_is_asked_for_over_http_2_too() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    // The application asks, or does not know of that.
    for asks in [true, false] {
        let mut visitor = waits_over_http2(&server, "alice").await;
        let (mut local, head) = app.request().await;
        assert!(head.to_ascii_lowercase().contains("expect: 100-continue\r\n") && !head.contains("x-adit"), "{head}");
        if asks {
            local.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        }
        let interim = visitor.head().await;
        assert_eq!((status_of(&interim), interim.stream, interim.flags), ("100", 1, frames::END_HEADERS));
        visitor.send(frames::DATA, frames::END_STREAM, 1, b"body").await;
        read_until(&mut local, "body").await;
        local.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(status_of(&visitor.head().await), "200");
        assert_eq!(visitor.rest(1).await.0, b"ok");
        // The connection lives on.
        assert_serves_another(&mut visitor, &mut app).await;
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_body_that_waits_over_http_2_is_not_asked_for_after_an_answer() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    // The server itself refuses it.
    let mut visitor = waits_over_http2(&server, "clair").await;
    assert_eq!(status_of(&visitor.head().await), "404");
    assert!(String::from_utf8(visitor.rest(1).await.0).unwrap().contains("unknown_name"));
    // The application does, and one that answers while it reads has no need to ask any more.
    for (status, expected) in [("417 Expectation Failed", "another"), ("200 OK", "200")] {
        let mut visitor = waits_over_http2(&server, "alice").await;
        let (mut local, _) = app.request().await;
        let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        local.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(status_of(&visitor.head().await), expected);
        visitor.send(frames::DATA, frames::END_STREAM, 1, b"body").await;
        assert_eq!(visitor.rest(1).await.0, b"ok");
        // Nothing comes behind it.
        assert_serves_another(&mut visitor, &mut app).await;
    }
}

#[tokio::test]
async fn a_body_that_waits_may_be_wanted_after_the_answer_has_begun() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, WAITS).await;
    let (mut local, _) = app.request().await;
    local.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    visitor.write_all(b"body").await.unwrap();
    read_until(&mut local, "body").await;
    local.write_all(b"4\r\necho\r\n0\r\n\r\n").await.unwrap();
    read_until(&mut visitor, "4\r\necho\r\n0\r\n\r\n").await;
    until_idle(&server.open, PATIENCE).await;
}
