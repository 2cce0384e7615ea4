//! Services that are carried byte for byte: public ports, and an application's own TLS.

use std::io::ErrorKind;

use adit::schema::ValueKind;
use adit::transport::tls;
use adit::transport::tls::LocalTrust;
use http::StatusCode;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::apps;
use crate::harness::visitor::{self, fetch};
use crate::harness::{PATIENCE, ServiceEntry, TestAgent, TestServer, service, soon, spawn, until, until_idle};

fn tcp(name: &str, local: &str, keys: &[(&str, ValueKind)]) -> ServiceEntry {
    let mut entry = service(name, local, keys);
    entry.insert("kind".to_owned(), "tcp".into());
    entry
}

/// The public address of the first service of an agent.
pub fn public_address(agent: &TestAgent) -> std::net::SocketAddr {
    let adit::agent::State::Connected { services, .. } = agent.state.borrow().clone() else { panic!("not connected") };
    let (_, port) = services[0].public_urls[0].rsplit_once(':').unwrap();
    ([127, 0, 0, 1], port.parse().unwrap()).into()
}

pub async fn connected(server: &TestServer) -> (TestAgent, TcpListener, std::net::SocketAddr) {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = app.local_addr().unwrap().to_string();
    let agent = TestAgent::connect_with(server, "alice", vec![tcp("alice", &local, &[])]).await;
    let public = public_address(&agent);
    (agent, app, public)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_on_its_own() {
    let server = TestServer::start(&[]);
    let (_agent, app, public) = connected(&server).await;
    let mut visitor = soon("a public port", TcpStream::connect(public)).await.unwrap();
    let (mut local, _) = soon("a connection", app.accept()).await.unwrap();
    // The application speaks first, as SSH and MySQL do.
    local.write_all(b"hello").await.unwrap();
    visitor::read_until(&mut visitor, "hello").await;
    visitor.write_all(b"request").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(visitor::read_to_end(&mut local).await.unwrap(), b"request");
    local.write_all(b"late answer").await.unwrap();
    drop(local);
    assert_eq!(visitor::read_to_end(&mut visitor).await.unwrap(), b"late answer");
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn much_goes_through_unchanged() {
    let server = TestServer::start(&[]);
    let (_agent, app, public) = connected(&server).await;
    let sent: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();
    let visitor = soon("a public port", TcpStream::connect(public)).await.unwrap();
    let (local, _) = soon("a connection", app.accept()).await.unwrap();
    let (mut from_visitor, mut to_visitor) = visitor.into_split();
    let (mut from_local, mut to_local) = local.into_split();
    let (one, two) = (sent.clone(), sent.clone());
    let up = spawn(async move {
        to_visitor.write_all(&one).await.unwrap();
        to_visitor.shutdown().await.unwrap();
    });
    let down = spawn(async move {
        to_local.write_all(&two).await.unwrap();
        to_local.shutdown().await.unwrap();
    });
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (a, b) = soon("all of it", async {
        tokio::join!(from_local.read_to_end(&mut got_up), from_visitor.read_to_end(&mut got_down))
    })
    .await;
    a.unwrap();
    b.unwrap();
    assert!(got_up == sent && got_down == sent);
    up.await.unwrap();
    down.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_no_orderly_end() {
    let server = TestServer::start(&[]);
    let (agent, app, public) = connected(&server).await;
    let mut visitor = soon("a public port", TcpStream::connect(public)).await.unwrap();
    let (mut local, _) = soon("a connection", app.accept()).await.unwrap();
    local.write_all(b"half").await.unwrap();
    visitor::read_until(&mut visitor, "half").await;
    agent.crash().await;
    assert!(visitor::read_to_end(&mut visitor).await.is_err(), "a cut looked like an end");
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_visitor_that_breaks_off_has_not_said_everything() {
    let server = TestServer::start(&[]);
    let (_agent, app, public) = connected(&server).await;
    let mut visitor = soon("a public port", TcpStream::connect(public)).await.unwrap();
    let (mut local, _) = soon("a connection", app.accept()).await.unwrap();
    visitor.write_all(b"half").await.unwrap();
    visitor::read_until(&mut local, "half").await;
    socket2::SockRef::from(&visitor).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(visitor);
    assert!(visitor::read_to_end(&mut local).await.is_err(), "a cut looked like an end");
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn an_application_that_refuses_is_a_reset() {
    let server = TestServer::start(&[]);
    let local = apps::nothing().await.to_string();
    let agent = TestAgent::connect_with(&server, "alice", vec![tcp("alice", &local, &[])]).await;
    let mut visitor = soon("a public port", TcpStream::connect(public_address(&agent))).await.unwrap();
    assert!(visitor::read_to_end(&mut visitor).await.is_err());
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn an_agent_that_comes_back_has_the_same_port_and_one_that_leaves_none() {
    let server = TestServer::start(&[]);
    let (agent, app, public) = connected(&server).await;
    let local = app.local_addr().unwrap().to_string();
    let again = TestAgent::connect_with(&server, "alice", vec![tcp("alice", &local, &[])]).await;
    assert_eq!(public_address(&again), public);
    agent.stop().await.unwrap();
    let mut visitor = soon("a public port", TcpStream::connect(public)).await.unwrap();
    let (mut local, _) = soon("a connection", app.accept()).await.unwrap();
    local.write_all(b"still here").await.unwrap();
    visitor::read_until(&mut visitor, "still here").await;
    drop((visitor, local));
    again.stop().await.unwrap();
    until("no tunnel", &server.registry, || server.registry.is_empty()).await;
    soon("a closed port", async { while TcpStream::connect(public).await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_port_must_be_the_clients_own() {
    let server = TestServer::start(&[]);
    let local = apps::nothing().await.to_string();
    for (client, port, says) in
        [("alice", 22, "set alice --tcp-ports +22`"), ("bob", 21_000, "set bob --tcp-ports 21000`")]
    {
        let entry = tcp(client, &local, &[("remote_port", ValueKind::from(i64::from(port)))]);
        let mut agent = TestAgent::start_with(&[server.tunnel], server.fingerprint, client, vec![entry]);
        let why = agent.refused("not_allowed").await;
        assert!(why.contains(says), "{why}");
    }
}

#[tokio::test]
async fn a_name_that_is_no_http_says_so() {
    let server = TestServer::start(&[]);
    let (_agent, _app, _) = connected(&server).await;
    let answer = fetch(server.public, "alice", "/").await;
    assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::MISDIRECTED_REQUEST, "wrong_kind"));
}

#[tokio::test]
async fn the_application_is_told_the_visitors_address_if_it_asks() {
    let server = TestServer::start(&[]);
    for version in ["v1", "v2"] {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = app.local_addr().unwrap().to_string();
        let entry = tcp("alice", &local, &[("proxy_protocol", version.into())]);
        let agent = TestAgent::connect_with(&server, "alice", vec![entry]).await;
        let mut visitor = soon("a public port", TcpStream::connect(public_address(&agent))).await.unwrap();
        let from = visitor.local_addr().unwrap();
        visitor.write_all(b"words").await.unwrap();
        let (mut socket, _) = soon("a connection", app.accept()).await.unwrap();
        visitor.shutdown().await.unwrap();
        let got = visitor::read_to_end(&mut socket).await.unwrap();
        let header = adit::transport::proxy_protocol::parse(&got).unwrap().unwrap();
        assert_eq!(header.addresses, Some((from, public_address(&agent))), "{version}");
        assert_eq!(&got[header.length..], b"words");
        drop((visitor, socket));
        agent.stop().await.unwrap();
        until("no tunnel", &server.registry, || server.registry.is_empty()).await;
    }
}

#[tokio::test]
async fn an_applications_own_tls_reaches_the_visitor() {
    let server = TestServer::start(&[("public.https", "127.0.0.1:0")]);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(["alice.localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let chain = vec![cert.der().clone()];
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.serialize_der().try_into().unwrap())
        .unwrap();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut entry = service("alice", &app.local_addr().unwrap().to_string(), &[]);
    entry.insert("kind".to_owned(), "tls".into());
    let _agent = TestAgent::connect_with(&server, "alice", vec![entry]).await;
    let serve = spawn(async move {
        let (socket, _) = app.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(std::sync::Arc::new(config)).accept(socket).await.unwrap();
        stream.write_all(b"from the application itself").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let trust = tls::local_client(&LocalTrust::Anybody, &[]).unwrap();
    let socket = TcpStream::connect(server.https.unwrap()).await.unwrap();
    let host = ServerName::try_from("alice.localhost").unwrap();
    let mut stream = soon("a TLS handshake", TlsConnector::from(trust).connect(host, socket)).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], *cert.der());
    let mut said = String::new();
    soon("the end", stream.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "from the application itself");
    serve.await.unwrap();
    let answer = fetch(server.public, "alice", "/").await;
    assert_eq!(answer.header("x-adit-error"), "wrong_kind");
}

#[tokio::test]
async fn tls_of_ones_own_needs_the_https_port() {
    let server = TestServer::start(&[]);
    let mut entry = service("alice", "443", &[]);
    entry.insert("kind".to_owned(), "tls".into());
    let mut agent = TestAgent::start_with(&[server.tunnel], server.fingerprint, "alice", vec![entry]);
    let why = agent.refused("not_allowed").await;
    assert!(why.contains("public.https"), "{why}");
}

#[tokio::test]
async fn a_port_closes_with_its_service_whatever_is_still_open() {
    let server = TestServer::start(&[]);
    let (mut agent, app, public) = connected(&server).await;
    let mut visitor = soon("a public port", TcpStream::connect(public)).await.unwrap();
    let (mut local, _) = soon("a connection", app.accept()).await.unwrap();
    assert!(agent.change(vec![service("blog", &apps::fixed("blog").await.to_string(), &[])]));
    let has_changed = |state: &adit::agent::State| match state {
        adit::agent::State::Connected { services, .. } => services[0].name.as_str() == "blog",
        _ => false,
    };
    agent.reaches("a change of services", has_changed).await;
    // An open port without a service resets, a closed one refuses.
    let is_refused = |tried: std::io::Result<_>| tried.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    let closed = async { while !is_refused(TcpStream::connect(public).await) {} };
    soon("the end of the port", closed).await;
    local.write_all(b"goes on").await.unwrap();
    visitor::read_until(&mut visitor, "goes on").await;
}
