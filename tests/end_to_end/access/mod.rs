//! Who gets in: what the server decides before a stream is opened.

mod passwords;
mod webhooks;

use adit::protocol::access::{AccessPolicy, BasicUser, SharedHeader};
use adit::protocol::login::{Hello, Refusal, ServiceKind};
use adit::values::Fingerprint;
use http::{Method, StatusCode};
use rustls::pki_types::ServerName;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::puppet::{Asked, Puppet, hello, log_in};
use crate::harness::visitor::{self, Answer, Http2Visitor, Visitor, get, http2_request};
use crate::harness::{PATIENCE, TestServer, soon, until_idle};

/// A first word whose only service, `alice`, is for some visitors only.
fn guarded(change: impl FnOnce(&mut AccessPolicy)) -> Hello {
    let mut hello = hello("alice", &["alice"]);
    change(&mut hello.services[0].access);
    hello
}

async fn started(settings: &[(&str, &str)], change: impl FnOnce(&mut AccessPolicy)) -> (TestServer, Puppet) {
    let server = TestServer::start(settings);
    let puppet = Puppet::connect(&server, &guarded(change)).await;
    (server, puppet)
}

fn shared_header(policy: &mut AccessPolicy) {
    let digest = Fingerprint(Sha256::digest("right").into());
    policy.header = Some(SharedHeader { name: "X-Key".to_owned(), digest });
}

/// How many streams the server has opened to `alice`.
fn opened(server: &TestServer) -> u64 {
    server.tunnel_of("alice").lanes().iter().map(|lane| lane.session().opened()).sum()
}

/// Asks, and lets the puppet answer.
async fn let_in(puppet: &mut Puppet, asked: impl Future<Output = Answer>) -> Asked {
    let (answer, asked) = tokio::join!(asked, async {
        let mut asked = puppet.request().await;
        asked.answer("welcome").await;
        asked
    });
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "welcome"));
    asked
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.header("x-adit-error"))
}

#[tokio::test]
async fn an_address_that_may_not_come_costs_the_agent_nothing() {
    let settings = [("public.trusted_proxies", "127.0.0.1")];
    let (server, mut puppet) = started(&settings, |policy| {
        policy.allow = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        policy.deny = vec!["192.0.2.7/32".parse().unwrap()];
    })
    .await;
    let mut visitor = Visitor::connect(server.public).await;
    let from = |address: &str| {
        let mut request = get("alice", "/");
        request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
        request
    };
    for address in ["192.0.2.7", "198.51.100.1", "::1", "127.0.0.1", "::ffff:192.0.2.7"] {
        assert_eq!(refused(&visitor.ask(from(address)).await), (403, "forbidden"), "{address}");
    }
    assert_eq!((opened(&server), server.open.len()), (0, 0));
    for address in ["192.0.2.8", "::ffff:192.0.2.8", "2001:db8::1"] {
        let_in(&mut puppet, visitor.ask(from(address))).await;
    }
    assert_eq!(opened(&server), 3);
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_shared_secret_opens_and_goes_no_further() {
    let (server, mut puppet) = started(&[], shared_header).await;
    let mut visitor = Visitor::connect(server.public).await;
    for wrong in [None, Some("wrong"), Some("")] {
        let mut request = get("alice", "/");
        if let Some(value) = wrong {
            request.headers_mut().insert("x-key", value.parse().unwrap());
        }
        let answer = visitor.ask(request).await;
        assert_eq!(refused(&answer), (403, "forbidden"), "{wrong:?}");
        assert_eq!(answer.header("www-authenticate"), "", "there is nothing to type in");
    }
    assert_eq!(opened(&server), 0);
    let mut request = get("alice", "/in");
    request.headers_mut().insert("x-key", "right".parse().unwrap());
    request.headers_mut().insert("authorization", "Bearer app".parse().unwrap());
    let asked = let_in(&mut puppet, visitor.ask(request)).await;
    assert_eq!(asked.head.target, "/in");
    assert!(!asked.head.headers.contains_key("x-key"));
    assert_eq!(asked.header("authorization"), "Bearer app", "that is the application's own");
}

#[tokio::test]
async fn every_way_to_ask_is_asked_the_same() {
    let (server, mut puppet) = started(&[], shared_header).await;
    let mut visitor = Visitor::connect(server.public).await;
    // By each route, with every method; a preflight has no secret and gets in no more than others.
    for (host, path, name) in [
        ("alice.localhost", "/", ""),
        ("localhost", "/alice/", ""),
        ("localhost", "/", "alice"),
        ("127.0.0.1", "/", "alice"),
    ] {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST] {
            let mut request = visitor::request(method.clone(), "", path, "body");
            request.headers_mut().insert("host", host.parse().unwrap());
            request.headers_mut().insert("origin", "https://elsewhere.example".parse().unwrap());
            if !name.is_empty() {
                request.headers_mut().insert("x-tunnel-id", name.parse().unwrap());
            }
            assert_eq!(refused(&visitor.ask(request).await), (403, "forbidden"), "{method} {host}{path} {name}");
        }
    }
    let http2 = Http2Visitor::connect(server.public).await;
    let (answer, _) = http2.ask(http2_request(Method::GET, "alice", "/", "")).await;
    assert_eq!(refused(&answer), (403, "forbidden"));
    let mut grpc = http2_request(Method::POST, "alice", "/package.Service/Method", "");
    grpc.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let (answer, _) = http2.ask(grpc).await;
    assert_eq!(refused(&answer), (200, "forbidden"));
    assert_eq!(answer.header("grpc-status"), "7");
    assert_eq!(opened(&server), 0);
    for (host, path, name) in [("localhost", "/alice/x", ""), ("localhost", "/x", "alice")] {
        let mut request = get("", path);
        let fields = [("host", host), ("x-key", "right"), ("x-tunnel-id", name)];
        for (field, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            request.headers_mut().insert(field, value.parse().unwrap());
        }
        let asked = let_in(&mut puppet, visitor.ask(request)).await;
        assert_eq!((&asked.head.target[..], asked.header("x-key")), (&b"/x"[..], ""));
    }
    let mut request = http2_request(Method::GET, "alice", "/", "");
    request.headers_mut().insert("x-key", "right".parse().unwrap());
    let asked = let_in(&mut puppet, async { http2.ask(request).await.0 }).await;
    assert!(!asked.head.headers.contains_key("x-key"));
}

#[tokio::test]
async fn a_websocket_needs_the_same() {
    let (server, mut puppet) = started(&[], shared_header).await;
    let ask = |field: &str| {
        format!(
            "GET /chat HTTP/1.1\r\nHost: alice.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{field}\r\n"
        )
    };
    let mut stranger = visitor::raw(server.public, &ask("")).await;
    assert!(visitor::read_until(&mut stranger, "\r\n\r\n").await.starts_with("HTTP/1.1 403"));
    assert_eq!(opened(&server), 0);
    let mut friend = visitor::raw(server.public, &ask("X-Key: right\r\n")).await;
    let mut asked = puppet.request().await;
    assert_eq!((asked.header("upgrade"), asked.header("x-key")), ("websocket", ""));
    asked.head(StatusCode::SWITCHING_PROTOCOLS, &[("upgrade", "websocket".to_owned())]).await;
    assert!(visitor::read_until(&mut friend, "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    tokio::io::AsyncWriteExt::write_all(&mut friend, b"frame").await.unwrap();
    assert_eq!(asked.data().await, "frame");
}

/// The address of the first service's public port.
fn public_port(puppet: &Puppet) -> std::net::SocketAddr {
    let (_, port) = puppet.welcome.services[0].public_urls[0].rsplit_once(':').unwrap();
    ([127, 0, 0, 1], port.parse().unwrap()).into()
}

#[tokio::test]
async fn a_connection_from_elsewhere_is_reset() {
    let server = TestServer::start(&[("public.https", "127.0.0.1:0")]);
    for kind in [ServiceKind::Tcp, ServiceKind::Tls] {
        let mut hello = guarded(|policy| policy.deny = vec!["127.0.0.0/8".parse().unwrap()]);
        hello.services[0].kind = kind;
        let puppet = Puppet::connect(&server, &hello).await;
        if kind == ServiceKind::Tcp {
            // The reset may be quicker than the visitor.
            let visit = async { visitor::read_to_end(&mut TcpStream::connect(public_port(&puppet)).await?).await };
            let ended = soon("the end of a visit", visit).await;
            assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        } else {
            let host = ServerName::try_from("alice.localhost").unwrap();
            let trust = adit::transport::tls::local_client(&adit::transport::tls::LocalTrust::Anybody, &[]).unwrap();
            let socket = TcpStream::connect(server.https.unwrap()).await.unwrap();
            let shaken = soon("a TLS handshake", TlsConnector::from(trust).connect(host, socket)).await;
            assert_eq!(shaken.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert_eq!(opened(&server), 0, "{kind:?}");
        hello.services[0].access.deny = vec!["192.0.2.0/24".parse().unwrap()];
        let mut puppet = Puppet::connect(&server, &hello).await;
        let address = if kind == ServiceKind::Tcp { public_port(&puppet) } else { server.https.unwrap() };
        let visitor = TcpStream::connect(address).await.unwrap();
        if kind == ServiceKind::Tcp {
            soon("a stream", puppet.streams.recv()).await.unwrap();
        }
        drop(visitor);
    }
}

#[tokio::test]
async fn conditions_that_cannot_be_met_are_refused_at_the_login() {
    let server = TestServer::start(&[]);
    let refusal = async |hello: &Hello| {
        let refused = log_in(&server, hello).await.map(drop).unwrap_err();
        assert_eq!(refused.code, Refusal::NotAllowed);
        refused.message
    };
    let plain = guarded(|policy| {
        policy.basic_auth = vec![BasicUser { user: "ann".to_owned(), hash: "hunter2".to_owned() }];
    });
    let message = refusal(&plain).await;
    assert!(message.contains("`alice`") && message.contains("`ann`") && !message.contains("hunter2"), "{message}");
    let mut tcp = guarded(shared_header);
    tcp.services[0].kind = ServiceKind::Tcp;
    let message = refusal(&tcp).await;
    assert!(message.contains("a tcp service can allow and deny addresses, and nothing else"), "{message}");
    assert!(server.registry.is_empty());
}
