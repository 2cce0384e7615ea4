//! What of a response's head decides how a visitor reads it: its length and its status line.

use adit::protocol::exchange::ResponseHead;
use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::harness::apps::{self, Script};
use crate::harness::puppet::{Puppet, hello};
use crate::harness::visitor::{self, Http2Visitor, Visitor, fetch, http2_request, read_until};
use crate::harness::{PATIENCE, TestAgent, TestServer, service, soon, spawn, until_idle};

/// The values of `Content-Length`.
fn lengths(headers: &HeaderMap) -> Vec<&str> {
    headers.get_all("content-length").iter().map(|value| value.to_str().unwrap()).collect()
}

/// Answers the next request with `head` and `body`.
async fn answer(app: &mut Script, head: &str, body: &str) {
    let (mut local, _) = app.request().await;
    local.write_all(format!("{head}\r\nConnection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
}

const REPEATED: [&str; 3] = [
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5, 5",
    "Content-Length : 5\r\nX: 1\r\ncontent-length:5 , 05",
];

#[tokio::test]
async fn a_repeated_length_reaches_visitors_once() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let http2 = Http2Visitor::connect(server.public).await;
    for fields in REPEATED {
        for (method, status, body) in
            [(Method::GET, "200 OK", "whole"), (Method::HEAD, "200 OK", ""), (Method::GET, "304 Not Modified", "")]
        {
            let head = format!("HTTP/1.1 {status}\r\n{fields}");
            let mut visitor = Visitor::connect(server.public).await;
            let asked = visitor.ask(visitor::request(method.clone(), "alice", "/", ""));
            let (old, ()) = tokio::join!(asked, answer(&mut app, &head, body));
            // The HTTP library sends none with 304 over HTTP/1.1.
            let expected = if status.starts_with("304") { vec![] } else { vec!["5"] };
            assert_eq!((lengths(&old.headers), old.text()), (expected, body), "{method} {head}");
            let asked = http2.ask(http2_request(method.clone(), "alice", "/", ""));
            let ((new, _), ()) = tokio::join!(asked, answer(&mut app, &head, body));
            assert_eq!((lengths(&new.headers), new.text()), (vec!["5"], body), "{method} {head}");
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn lengths_that_differ_are_a_bad_gateway() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for fields in ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 6", "Content-Length: +5"] {
        for method in [Method::GET, Method::HEAD] {
            let mut visitor = Visitor::connect(server.public).await;
            let asked = visitor.ask(visitor::request(method.clone(), "alice", "/", ""));
            let head = format!("HTTP/1.1 200 OK\r\n{fields}");
            let (refused, ()) = tokio::join!(asked, answer(&mut app, &head, "whole!"));
            let said = (refused.status, refused.header("x-adit-error"));
            assert_eq!(said, (StatusCode::BAD_GATEWAY, "local_broken"), "{method} {fields}");
        }
        // These have no body, whatever the field says.
        for status in ["204 No Content", "304 Not Modified"] {
            let head = format!("HTTP/1.1 {status}\r\n{fields}");
            let (fine, ()) = tokio::join!(fetch(server.public, "alice", "/"), answer(&mut app, &head, ""));
            assert_eq!((fine.status.as_str(), lengths(&fine.headers)), (&status[..3], vec![]), "{fields}");
        }
    }
    until_idle(&server.open, PATIENCE).await;
}

/// Agents of earlier versions pass all values on.
#[tokio::test]
async fn the_server_relies_on_no_agent_for_lengths() {
    let server = TestServer::start(&[]);
    let mut puppet = Puppet::connect(&server, &hello("alice", &["alice"])).await;
    let field = |value: &str| ("content-length", value.to_owned());
    for (fields, status) in [
        (vec![field("5"), field("5")], StatusCode::OK),
        (vec![field("5, 5")], StatusCode::OK),
        (vec![field("5"), field("6")], StatusCode::BAD_GATEWAY),
        (vec![field("x")], StatusCode::BAD_GATEWAY),
    ] {
        let (answer, ()) = tokio::join!(fetch(server.public, "alice", "/"), async {
            let mut asked = puppet.request().await;
            asked.head(StatusCode::OK, &fields).await;
            // The server has left already, if it does not take the head.
            if asked.writer.data(Bytes::from_static(b"whole")).await.is_ok() {
                let _ = asked.writer.end().await;
            }
        });
        assert_eq!(answer.status, status, "{fields:?}");
        if status.is_success() {
            assert_eq!((lengths(&answer.headers), answer.text()), (vec!["5"], "whole"), "{fields:?}");
        }
    }
}

#[tokio::test]
async fn a_request_has_one_length_in_either_version() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let visitor = Http2Visitor::connect(server.public).await;
    for (second, expected) in [("4", StatusCode::OK), ("5", StatusCode::BAD_REQUEST), ("x", StatusCode::BAD_REQUEST)] {
        let mut request = http2_request(Method::PUT, "alice", "/", "body");
        for length in ["4", second] {
            request.headers_mut().append("content-length", length.parse().unwrap());
        }
        if expected == StatusCode::OK {
            let (answer, _) = visitor.ask(request).await;
            let text = answer.text();
            assert!(text.ends_with("\n\nbody") && text.matches("content-length: 4\n").count() == 1, "{text}");
        } else {
            // The HTTP library resets the stream (RFC 9113, section 8.1.1).
            assert!(visitor.begin(request).await.is_err(), "{second}");
        }
        let repeated = format!("Content-Length: 4\r\nContent-Length: {second}");
        let asked = format!("PUT / HTTP/1.1\r\nHost: alice.localhost\r\n{repeated}\r\nConnection: close\r\n\r\nbody");
        let mut socket = visitor::raw(server.public, &asked).await;
        let text = String::from_utf8(visitor::read_to_end(&mut socket).await.unwrap()).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {} ", expected.as_str())), "{text}");
        if expected == StatusCode::OK {
            assert!(text.ends_with("\n\nbody") && text.matches("content-length: 4\n").count() == 1, "{text}");
        }
    }
}

/// The first line of the response to a `GET`.
async fn status_line(server: &TestServer, more: &str) -> String {
    let mut socket =
        visitor::raw(server.public, &format!("GET / HTTP/1.1\r\nHost: alice.localhost\r\n{more}\r\n")).await;
    let line = read_until(&mut socket, "\r\n").await;
    read_until(&mut socket, "\r\n\r\n").await;
    line.trim_end_matches("\r\n").to_owned()
}

#[tokio::test]
async fn a_visitor_gets_the_reason_phrase_of_the_application() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for (line, expected) in [
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200 Fine", "HTTP/1.1 200 Fine"),
        ("HTTP/1.1 200 Schön", "HTTP/1.1 200 Schön"),
        ("HTTP/1.1 200", "HTTP/1.1 200 "),
        ("HTTP/1.0 404 Gone fishing", "HTTP/1.1 404 Gone fishing"),
        ("HTTP/1.1 799 Nearly there", "HTTP/1.1 799 Nearly there"),
        ("HTTP/1.1 799", "HTTP/1.1 799 "),
        ("HTTP/1.1 520 ", "HTTP/1.1 520 "),
    ] {
        let head = format!("{line}\r\nContent-Length: 0");
        let (got, ()) = tokio::join!(status_line(&server, ""), answer(&mut app, &head, ""));
        assert_eq!(got, expected, "{line}");
    }
    // Over HTTP/2 there is none.
    let visitor = Http2Visitor::connect(server.public).await;
    let head = "HTTP/1.1 799 Nearly there\r\nContent-Length: 0";
    let ((got, _), ()) =
        tokio::join!(visitor.ask(http2_request(Method::GET, "alice", "/", "")), answer(&mut app, head, ""));
    assert_eq!(got.status.as_u16(), 799);
    let (got, ()) = tokio::join!(status_line(&server, "Connection: Upgrade\r\nUpgrade: echo/1\r\n"), async {
        let (mut local, _) = app.request().await;
        let agreed = "HTTP/1.1 101 By all means\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nContent-Length: 0\r\n\r\n";
        local.write_all(agreed.as_bytes()).await.unwrap();
    });
    assert_eq!(got, "HTTP/1.1 101 By all means");
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_status_of_an_http2_application_has_no_reason_phrase() {
    let server = TestServer::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let answered = hyper::service::service_fn(async |_: Request<hyper::body::Incoming>| {
                let mut response = http::Response::new(Full::<Bytes>::default().boxed());
                *response.status_mut() = StatusCode::from_u16(799).unwrap();
                Ok::<_, std::convert::Infallible>(response)
            });
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            spawn(http2.serve_connection(TokioIo::new(socket), answered));
        }
    });
    let entry = service("alice", &format!("h2c://{address}"), &[]);
    let _agent = TestAgent::connect_with(&server, "alice", vec![entry]).await;
    assert_eq!(status_line(&server, "").await, "HTTP/1.1 799 ");
}

/// Agents of earlier versions tell no phrase, and hostile ones tell what would be more than a line.
#[tokio::test]
async fn a_reason_phrase_is_optional_and_one_line() {
    let server = TestServer::start(&[]);
    let mut puppet = Puppet::connect(&server, &hello("alice", &["alice"])).await;
    for (status, reason, expected) in [
        (200, None, "HTTP/1.1 200 OK"),
        (799, None, "HTTP/1.1 799 "),
        (799, Some("Nearly there"), "HTTP/1.1 799 Nearly there"),
        (200, Some("a\r\nSet-Cookie: a=b"), "HTTP/1.1 502 Bad Gateway"),
    ] {
        let (got, ()) = tokio::join!(status_line(&server, ""), async {
            let mut writer = puppet.request().await.writer;
            let (status, headers) = (StatusCode::from_u16(status).unwrap(), HeaderMap::new());
            let (version, local) = (Version::HTTP_11, Some(std::time::Duration::ZERO));
            let head = ResponseHead { status, version, headers, local, reason: reason.map(Bytes::from) };
            head.put(writer.gather()).unwrap();
            let _ = writer.end().await;
        });
        assert_eq!(got, expected, "{reason:?}");
    }
}

#[tokio::test]
async fn a_service_of_this_process_may_have_a_reason_phrase() {
    let server = TestServer::start(&[]);
    let router = Router::new().fallback(async || {
        let mut response = axum::response::Response::new(axum::body::Body::empty());
        response.extensions_mut().insert(ReasonPhrase::from_static(b"Fine"));
        response
    });
    let token = crate::harness::token("alice").as_secret().expose();
    let tunnel = adit::sdk::Tunnel::connect(server.tunnel.to_string(), "alice", token);
    let tunnel = tunnel.fingerprint(server.fingerprint.to_string());
    let _tunnel = soon("a connected tunnel", tunnel.serve(router)).await.unwrap();
    assert_eq!(status_line(&server, "").await, "HTTP/1.1 200 Fine");
}
