//! Visitors over TLS, and those whose proxy says who they are.

use std::sync::Arc;

use adit::transport::tls;
use adit::transport::tls::LocalTrust;
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::apps;
use crate::harness::visitor::{self, Visitor, get, http2_request};
use crate::harness::{PATIENCE, TestAgent, TestServer, soon, spawn, until_idle};

const HTTPS: [(&str, &str); 2] = [("public.https", "127.0.0.1:0"), ("public.domain", "tunnel.test")];

/// A TLS connection of a visitor that trusts the server's own authority and asks for `host`.
async fn greet(server: &TestServer, host: &str, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
    let trust = LocalTrust::CaFile(server.dir().path().join("ca.pem"));
    let config = tls::local_client(&trust, alpn).unwrap();
    let socket = TcpStream::connect(server.https.unwrap()).await?;
    let host = ServerName::try_from(host.to_owned()).unwrap();
    soon("a TLS handshake", TlsConnector::from(config).connect(host, socket)).await
}

async fn say(stream: &mut TlsStream<TcpStream>, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon("an answer", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_visitor_speaks_either_version_over_tls() {
    let server = TestServer::start(&HTTPS);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let mut old = greet(&server, "alice.tunnel.test", &[tls::HTTP1]).await.unwrap();
    let text = say(&mut old, "GET /x HTTP/1.1\r\nHost: alice.tunnel.test\r\nConnection: close\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("x-forwarded-proto: https\n"), "{text}");

    let stream = greet(&server, "alice.tunnel.test", &[tls::HTTP2]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(tls::HTTP2));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    spawn(connection);
    let mut request = http2_request(http::Method::GET, "alice", "/y", "");
    *request.uri_mut() = "https://alice.tunnel.test/y".parse().unwrap();
    let answer = soon("an answer", sender.send_request(request)).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    assert!(text.starts_with("GET /y\n") && text.contains("host: alice.tunnel.test\n"), "{text}");
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn the_certificate_is_for_the_domain_and_the_names_below_it() {
    let server = TestServer::start(&HTTPS);
    for host in ["tunnel.test", "anything.tunnel.test", "localhost", "127.0.0.1"] {
        greet(&server, host, &[]).await.unwrap_or_else(|error| panic!("{host}: {error}"));
    }
    assert!(greet(&server, "elsewhere.test", &[]).await.is_err());
}

#[tokio::test]
async fn whoever_speaks_no_tls_is_sent_away_at_once() {
    let server = TestServer::start(&HTTPS);
    let mut socket = visitor::raw(server.https.unwrap(), "GET / HTTP/1.1\r\nHost: alice.tunnel.test\r\n\r\n").await;
    let answer = visitor::read_to_end(&mut socket).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("X-Adit-Error: tls_required\r\n"), "{answer}");
    let mut socket = visitor::raw(server.https.unwrap(), "SSH-2.0-OpenSSH_10.0\r\n").await;
    // An alert in TLS, whatever it is good for, and the end.
    let answer = visitor::read_to_end(&mut socket).await.unwrap_or_default();
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_closed() {
    let settings = [HTTPS[0], HTTPS[1], ("timeouts.head", "200ms")];
    let server = TestServer::start(&settings);
    for said in ["", "\x16\x03\x01"] {
        let mut socket = visitor::raw(server.https.unwrap(), said).await;
        visitor::read_to_end(&mut socket).await.unwrap_or_default();
    }
}

#[tokio::test]
async fn plain_http_is_sent_to_https_where_the_operator_wants_it() {
    let settings = [HTTPS[0], HTTPS[1], ("public.redirect_to_https", "*.tunnel.test")];
    let server = TestServer::start(&settings);
    let port = server.https.unwrap().port();
    let ask = |host: &'static str| {
        let mut request = get("alice", "/a/?b=c");
        request.headers_mut().insert("host", host.parse().unwrap());
        async move { Visitor::connect(server.public).await.ask(request).await }
    };
    let answer = ask("alice.tunnel.test:80").await;
    assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(answer.header("location"), format!("https://alice.tunnel.test:{port}/a/?b=c"));
    assert_eq!(ask("tunnel.test").await.header("x-adit-error"), "unknown_name", "the domain itself is not meant");
}

#[tokio::test]
async fn health_of_an_address_is_answered_where_all_else_is_sent_to_https() {
    let server = TestServer::start(&[HTTPS[0], HTTPS[1], ("public.redirect_to_https", "*")]);
    let ask = |host: &'static str, path: &'static str, name: Option<&'static str>| {
        let mut request = get("alice", path);
        request.headers_mut().insert("host", host.parse().unwrap());
        if let Some(name) = name {
            request.headers_mut().insert("x-tunnel-id", name.parse().unwrap());
        }
        async move { Visitor::connect(server.public).await.ask(request).await.status }
    };
    for address in ["127.0.0.1:9090", "[::1]"] {
        assert_eq!(ask(address, "/health?tunnel=alice", None).await, StatusCode::SERVICE_UNAVAILABLE, "{address}");
        assert_eq!(ask(address, "/", None).await, StatusCode::PERMANENT_REDIRECT, "{address}");
        assert_eq!(ask(address, "/health", Some("alice")).await, StatusCode::PERMANENT_REDIRECT, "it is alice's page");
    }
    for host in ["tunnel.test", "alice.tunnel.test", "other.example"] {
        assert_eq!(ask(host, "/health", None).await, StatusCode::PERMANENT_REDIRECT, "{host}");
    }
}

#[tokio::test]
async fn a_proxy_that_ended_tls_already_is_not_redirected() {
    let settings = [
        HTTPS[0],
        HTTPS[1],
        ("public.redirect_to_https", "*"),
        ("public.trusted_proxies", "127.0.0.1"),
        ("public.url", "https://{name}.tunnel.test"),
    ];
    let server = TestServer::start(&settings);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    let ask = |proto: Option<&'static str>| {
        let mut request = get("alice", "/");
        request.headers_mut().insert("host", "alice.tunnel.test".parse().unwrap());
        if let Some(proto) = proto {
            request.headers_mut().insert("x-forwarded-proto", proto.parse().unwrap());
        }
        async move { Visitor::connect(server.public).await.ask(request).await }
    };
    assert_eq!(ask(Some("https")).await.text(), "here");
    let redirect = ask(None).await;
    assert_eq!(redirect.header("location"), "https://alice.tunnel.test/", "the port of what stands in front");
}

#[tokio::test]
async fn a_proxy_says_who_the_visitor_is_and_must() {
    let server = TestServer::start(&[("public.proxy_protocol_from", "127.0.0.1")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let request = "GET / HTTP/1.1\r\nHost: alice.localhost\r\nConnection: close\r\n\r\n";
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 80\r\n".to_vec();
    let v2 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[192, 0, 2, 7, 198, 51, 100, 1, 0x15, 0xb3, 0, 80]]
        .concat();
    for header in [v1, v2] {
        let mut socket = visitor::raw(server.public, "").await;
        // In two pieces, as it may come.
        socket.write_all(&header[..8]).await.unwrap();
        socket.write_all(&header[8..]).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(visitor::read_to_end(&mut socket).await.unwrap()).unwrap();
        assert!(answer.contains("x-forwarded-for: 192.0.2.7\n"), "{answer}");
        assert!(answer.contains("x-real-ip: 192.0.2.7\n"), "{answer}");
    }
    let mut without = visitor::raw(server.public, request).await;
    assert_eq!(visitor::read_to_end(&mut without).await.unwrap_or_default(), b"", "a header is required");
}

#[tokio::test]
async fn nobody_else_says_who_the_visitor_is() {
    let server = TestServer::start(&[("public.proxy_protocol_from", "192.0.2.0/24")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let text = "PROXY TCP4 192.0.2.7 198.51.100.1 5555 80\r\nGET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";
    let mut socket = visitor::raw(server.public, text).await;
    assert!(visitor::read_until(&mut socket, "\r\n").await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn the_operators_certificates_are_chosen_by_name() {
    let dir = Arc::new(tempfile::TempDir::new().unwrap());
    let made = [("a", vec!["tunnel.test", "*.tunnel.test"]), ("b", vec!["blog.example"])].map(|(file, names)| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.into_iter().map(String::from).collect();
        let cert = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let (cert_file, key_file) = (dir.path().join(format!("{file}.pem")), dir.path().join(format!("{file}.key")));
        std::fs::write(&cert_file, cert.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        cert.der().to_vec()
    });
    let text = "[public]\nhttps = '127.0.0.1:0'\ndomain = 'tunnel.test'\n\
                [[public.certificates]]\ncert = 'a.pem'\nkey = 'a.key'\n\
                [[public.certificates]]\ncert = 'b.pem'\nkey = 'b.key'\n";
    let server = TestServer::start_with_file(dir, text);
    for (host, expected) in [("x.tunnel.test", &made[0]), ("blog.example", &made[1]), ("other.example", &made[0])] {
        let config = tls::local_client(&LocalTrust::Anybody, &[]).unwrap();
        let socket = TcpStream::connect(server.https.unwrap()).await.unwrap();
        let name = ServerName::try_from(host).unwrap();
        let stream = soon("a TLS handshake", TlsConnector::from(config).connect(name, socket)).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0].as_ref(), expected.as_slice(), "{host}");
    }
}

/// Writes a fresh certificate for `tunnel.test` and its key, and gives what visitors see of it.
fn bring(dir: &std::path::Path) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["tunnel.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    // One after the other, as everybody does: for a moment they are no pair.
    std::fs::write(dir.join("own.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("own.key"), key.serialize_pem()).unwrap();
    cert.der().to_vec()
}

#[tokio::test]
async fn certificates_that_change_are_shown_and_nobody_is_cut() {
    let dir = Arc::new(tempfile::TempDir::new().unwrap());
    let first = bring(dir.path());
    let text = "[tunnel.tls]\ncert = 'own.pem'\nkey = 'own.key'\n[public]\nhttps = '127.0.0.1:0'\n\
                domain = 'tunnel.test'\n[[public.certificates]]\ncert = 'own.pem'\nkey = 'own.key'\n\
                [timeouts]\nhead = '1m'\n";
    let server = TestServer::start_with_file(Arc::clone(&dir), text);
    let greet = async |port: std::net::SocketAddr, alpn: &[&[u8]]| {
        let config = tls::local_client(&LocalTrust::Anybody, alpn).unwrap();
        let socket = TcpStream::connect(port).await.unwrap();
        let name = ServerName::try_from("tunnel.test").unwrap();
        soon("a TLS handshake", TlsConnector::from(config).connect(name, socket)).await.unwrap()
    };
    let seen = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let https = server.https.unwrap();
    let mut kept = greet(https, &[tls::HTTP1]).await;
    assert_eq!(seen(&kept), first);
    let second = bring(dir.path());
    for (port, alpn) in [(https, tls::HTTP1), (server.tunnel, adit::protocol::ALPN)] {
        // Each handshake is another look; the files are heard of within a moment.
        soon("the new certificate", async { while seen(&greet(port, &[alpn]).await) != second {} }).await;
    }
    std::fs::write(dir.path().join("own.pem"), "nonsense").unwrap();
    let text = say(&mut kept, "GET /health HTTP/1.1\r\nHost: tunnel.test\r\nConnection: close\r\n\r\n").await;
    assert!(text.contains("Tunnel: Disconnected"), "{text}");
    assert_eq!(seen(&greet(https, &[]).await), second, "what cannot be used changes nothing");
}
