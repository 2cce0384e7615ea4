//! Requests and answers that go well, and the ones that cannot.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Answer, Visitor, fetch, get, request};
use crate::harness::{TestAgent, TestServer, until_idle};

#[tokio::test]
async fn a_visitor_reaches_the_application_by_each_of_the_three_ways() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let mut visitor = Visitor::connect(server.public).await;

    let by_subdomain = visitor.ask(get("alice", "/a//b%2Fc?q=1&q=2")).await;
    assert_eq!(by_subdomain.status, StatusCode::OK);
    assert!(by_subdomain.text().starts_with("GET /a//b%2Fc?q=1&q=2\n"), "{}", by_subdomain.text());
    assert!(by_subdomain.text().contains("\nhost: alice.localhost\n"));
    assert!(by_subdomain.text().contains("\nx-forwarded-for: 127.0.0.1\n"));
    assert!(by_subdomain.text().contains("\nx-forwarded-proto: http\n"));

    let mut bare = get("alice", "/alice/x?y");
    bare.headers_mut().insert("host", "localhost".parse().unwrap());
    let by_path = visitor.ask(bare).await;
    assert!(by_path.text().starts_with("GET /x?y\n"), "{}", by_path.text());
    assert!(by_path.text().contains("\nx-forwarded-prefix: /alice\n"));

    let mut named = get("alice", "/x");
    named.headers_mut().insert("host", "127.0.0.1".parse().unwrap());
    named.headers_mut().insert("x-tunnel-id", "alice".parse().unwrap());
    let by_header = visitor.ask(named).await;
    assert!(by_header.text().starts_with("GET /x\n"), "{}", by_header.text());
    assert!(!by_header.text().contains("x-tunnel-id"), "the header is not passed on");
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn bodies_of_every_kind_cross_unchanged() {
    let server = TestServer::start(&[]);
    let app = apps::with(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::new(body))
    });
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.await)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    for size in [0, 1, 100, 16 * 1024 - 4, 16 * 1024, 64 * 1024, 64 * 1024 + 1, 1_000_003] {
        let body: Vec<u8> = (0..size).map(|i: usize| (i * 31 % 251) as u8).collect();
        let answer = visitor.ask(request(Method::POST, "alice", "/", body.clone())).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body.len(), size);
        assert!(answer.body == body, "{size} bytes came back changed");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_crosses_with_every_method() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        let asked = format!(
            "{method} / HTTP/1.1\r\nHost: alice.localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhat\r\n0\r\n\r\n"
        );
        let mut visitor = visitor::raw(server.public, &asked).await;
        let (mut local, head) = app.request().await;
        assert_eq!(head.matches("transfer-encoding: chunked\r\n").count(), 1, "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert_eq!(visitor::read_until(&mut local, "0\r\n\r\n").await, "4\r\nwhat\r\n0\r\n\r\n", "{method}");
        local.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(visitor::read_until(&mut visitor, "\r\n\r\n").await.starts_with("HTTP/1.1 204"), "{method}");
    }
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

async fn answered(server: &TestServer, app: &mut Script, fields: &str, body: &str) -> Answer {
    let (answer, ()) = tokio::join!(fetch(server.public, "alice", "/"), async {
        let (mut local, _) = app.request().await;
        local.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}").as_bytes()).await.unwrap();
    });
    answer
}

#[tokio::test]
async fn an_answer_is_as_long_as_its_coding_says() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let both =
        answered(&server, &mut app, "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "5\r\nwhole\r\n0\r\n\r\n")
            .await;
    assert_eq!((both.status, both.text(), both.header("content-length")), (StatusCode::OK, "whole", ""));
    let coded = answered(&server, &mut app, "Transfer-Encoding: gzip, chunked\r\n", "5\r\ncoded\r\n0\r\n\r\n").await;
    assert_eq!((coded.status, coded.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "local_broken"));
    let old = answered(&server, &mut app, "Transfer-Encoding: identity\r\nConnection: close\r\n", "plain").await;
    assert_eq!((old.status, old.text()), (StatusCode::OK, "plain"));
}

#[tokio::test]
async fn every_piece_is_passed_on_when_it_is_there() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(
        server.public,
        "POST / HTTP/1.1\r\nHost: alice.localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
    )
    .await;
    let (mut local, _) = app.request().await;
    // Up, before the request has ended.
    assert!(visitor::read_until(&mut local, "one\r\n").await.ends_with("one\r\n"));
    // Down, before the request has ended: the answer begins early.
    local.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n").await.unwrap();
    visitor::read_until(&mut visitor, "two\r\n").await;
    visitor.write_all(b"5\r\nthree\r\n0\r\n\r\n").await.unwrap();
    visitor::read_until(&mut local, "three\r\n0\r\n\r\n").await;
    local.write_all(b"4\r\nfour\r\n0\r\n\r\n").await.unwrap();
    visitor::read_until(&mut visitor, "four\r\n0\r\n\r\n").await;
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let server = TestServer::start(&[]);
    let app = apps::with(|request| async move {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = match request.uri().path() {
            "/204" => StatusCode::NO_CONTENT,
            "/304" => StatusCode::NOT_MODIFIED,
            _ => StatusCode::OK,
        };
        if request.method() == Method::HEAD {
            response.headers_mut().insert("content-length", "1234".parse().unwrap());
        }
        response
    });
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.await)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    for (path, status) in [("/204", StatusCode::NO_CONTENT), ("/304", StatusCode::NOT_MODIFIED)] {
        let answer = visitor.ask(get("alice", path)).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
    let head = visitor.ask(request(Method::HEAD, "alice", "/", "")).await;
    assert_eq!((head.header("content-length"), head.body.len()), ("1234", 0));
    assert_eq!(visitor.ask(get("alice", "/")).await.status, StatusCode::OK, "the connection goes on");
}

#[tokio::test]
async fn a_path_route_gives_locations_and_cookies_their_prefix_back() {
    let server = TestServer::start(&[]);
    let app = apps::with(|_| async {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert("location", "/login".parse().unwrap());
        response.headers_mut().append("set-cookie", "a=1; Path=/".parse().unwrap());
        response
    });
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.await)]).await;
    let mut bare = get("alice", "/alice/");
    bare.headers_mut().insert("host", "localhost".parse().unwrap());
    let by_path = Visitor::connect(server.public).await.ask(bare).await;
    assert_eq!((by_path.header("location"), by_path.header("set-cookie")), ("/alice/login", "a=1; Path=/alice/"));
    let by_subdomain = fetch(server.public, "alice", "/").await;
    assert_eq!((by_subdomain.header("location"), by_subdomain.header("set-cookie")), ("/login", "a=1; Path=/"));
}

#[tokio::test]
async fn whoever_cannot_be_reached_is_told_apart() {
    let server = TestServer::start(&[]);
    let unknown = fetch(server.public, "nobody", "/").await;
    assert_eq!((unknown.status, unknown.header("x-adit-error")), (StatusCode::NOT_FOUND, "unknown_name"));

    let offline = fetch(server.public, "alice", "/").await;
    assert_eq!((offline.status, offline.header("x-adit-error")), (StatusCode::SERVICE_UNAVAILABLE, "tunnel_offline"));
    assert!(!offline.header("retry-after").is_empty());

    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::nothing().await)]).await;
    let down = fetch(server.public, "alice", "/").await;
    assert_eq!((down.status, down.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "local_unreachable"));

    let mut browser = get("alice", "/");
    browser.headers_mut().insert("accept", "text/html,*/*".parse().unwrap());
    let page = Visitor::connect(server.public).await.ask(browser).await;
    assert!(page.header("content-type").starts_with("text/html") && page.text().contains("502"));
    assert!(page.text().contains(page.header("x-request-id")));
    assert_eq!(down.header("content-type"), "application/json");
}

#[tokio::test]
async fn an_application_that_speaks_no_http_is_a_bad_gateway() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let answer = tokio::join!(fetch(server.public, "alice", "/"), async {
        let (mut local, _) = app.request().await;
        local.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
    });
    assert_eq!((answer.0.status, answer.0.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "local_broken"));
}

#[tokio::test]
async fn an_application_that_does_not_answer_is_a_gateway_timeout() {
    let server = TestServer::start(&[("timeouts.response_head", "3s")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let answer = fetch(server.public, "alice", "/").await;
    assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::GATEWAY_TIMEOUT, "response_timeout"));
    let (mut local, _) = app.request().await;
    apps::left(&mut local, crate::harness::PATIENCE).await;
    until_idle(&server.open, crate::harness::PATIENCE).await;
}

#[tokio::test]
async fn the_answers_deadline_counts_from_the_whole_request() {
    let server = TestServer::start(&[("timeouts.response_head", "300ms")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let head = "POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 12\r\n\r\n";
    let mut visitor = visitor::raw(server.public, head).await;
    let (mut local, _) = app.request().await;
    for piece in ["one ", "two ", "last"] {
        // Together much longer than the deadline: nothing may come in the meantime.
        let early = tokio::time::timeout(std::time::Duration::from_millis(200), visitor.read_u8()).await;
        assert!(early.is_err(), "a slow upload was cut");
        visitor.write_all(piece.as_bytes()).await.unwrap();
        // With the last of it the deadline runs, and the application may be left before it has read that.
        if piece != "last" {
            visitor::read_until(&mut local, piece).await;
        }
    }
    assert!(visitor::read_until(&mut visitor, "\r\n").await.starts_with("HTTP/1.1 504"), "and then it counts");
}

#[tokio::test]
async fn the_servers_own_pages() {
    let server = TestServer::start(&[]);
    let health = |path: &'static str| async move {
        let mut bare = get("alice", path);
        bare.headers_mut().insert("host", "localhost".parse().unwrap());
        Visitor::connect(server.public).await.ask(bare).await
    };
    let before = health("/health").await;
    assert_eq!((before.status, before.text().trim()), (StatusCode::SERVICE_UNAVAILABLE, "Tunnel: Disconnected"));
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("application").await)]).await;
    assert_eq!(health("/health").await.text().trim(), "Tunnel: Connected");
    assert_eq!(health("/health?tunnel=alice").await.status, StatusCode::OK);
    for nobody in ["/health?tunnel=nobody", "/health?tunnel=No_One"] {
        let slip = health(nobody).await;
        assert_eq!((slip.status, slip.text().trim()), (StatusCode::SERVICE_UNAVAILABLE, "Tunnel: Disconnected"));
        assert_eq!(slip.header("x-adit-error"), "unknown_name", "{nobody}");
    }
    let listed = health("/health?tunnel=bob").await;
    assert!(listed.status == StatusCode::SERVICE_UNAVAILABLE && !listed.headers.contains_key("x-adit-error"));
    let front = health("/").await;
    assert_eq!((front.status, front.header("x-adit-error")), (StatusCode::NOT_FOUND, "not_found"));
    assert!(front.text().contains("This is a tunnel server."), "{}", front.text());
    assert!(health("/health/x").await.text().contains("no such page"));
    assert_eq!(fetch(server.public, "alice", "/health").await.text(), "application", "there it is the application's");
    let redirect = health("/alice?x=1").await;
    assert_eq!((redirect.status, redirect.header("location")), (StatusCode::PERMANENT_REDIRECT, "/alice/?x=1"));
    let nobody = health("/nosuch").await;
    assert_eq!((nobody.status, nobody.header("x-adit-error")), (StatusCode::NOT_FOUND, "unknown_name"));
}

#[tokio::test]
async fn requests_that_could_be_understood_in_two_ways_are_refused() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\nHost: alice.localhost\r\nHost: bob.localhost\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"),
        ("CONNECT alice.localhost:80 HTTP/1.1\r\nHost: alice.localhost\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost : alice.localhost\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: alice.localhost:1/evil\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: alice.localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400"),
    ] {
        let mut socket = visitor::raw(server.public, head).await;
        let answer = visitor::read_until(&mut socket, "\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?} got {answer:?}");
    }
}

#[tokio::test]
async fn fields_reach_the_application_as_they_were_and_answers_too() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut socket = visitor::raw(
        server.public,
        "GET / HTTP/1.1\r\nHost: alice.localhost\r\nX-A: 1\r\nX-A: 2\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: X-Drop\r\nX-Drop: 1\r\n\r\n",
    )
    .await;
    let (mut local, head) = app.request().await;
    assert!(head.contains("x-a: 1\r\nx-a: 2\r\n"), "{head}");
    assert!(!head.contains("6.6.6.6") && !head.contains("x-drop"), "{head}");
    local.write_all(b"HTTP/1.1 299 Odd\r\nX-B: \xe9\r\nX-B: 2\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        tokio::io::AsyncReadExt::read_buf(&mut socket, &mut answer).await.unwrap();
    }
    let is_in = |part: &[u8]| answer.windows(part.len()).any(|window| window == part);
    assert!(is_in(b"HTTP/1.1 299 ") && is_in(b"x-b: \xe9\r\nx-b: 2\r\n"), "{:?}", String::from_utf8_lossy(&answer));
    assert!(!is_in(b"date:"), "no field is added");
}

#[tokio::test]
async fn what_a_visitor_says_of_its_trace_passes_untouched() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    let mut traced = get("alice", "/");
    let fields = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", "a=1")];
    for (name, value) in fields.into_iter().chain([("traceparent", "nonsense")]) {
        traced.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = visitor.ask(traced).await;
    let told: Vec<_> = answer.text().lines().filter(|line| line.starts_with("trace")).collect();
    let [parent, state] = fields.map(|(name, value)| format!("{name}: {value}"));
    let expected = [parent.as_str(), "traceparent: nonsense", state.as_str()];
    assert_eq!(told, expected);
    let answer = visitor.ask(get("alice", "/")).await;
    assert!(!answer.text().contains("\ntrace"), "{}", answer.text());
}

/// Browsers show such pages.
#[tokio::test]
async fn a_malformed_answer_that_browsers_understand_reaches_the_visitor_repaired() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    for (head, body, field) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Type : text/html\r\nContent-Length: 2\r\n\r\n",
            "ok",
            ("content-type", "text/html"),
        ),
        ("HTTP/1.1 200 OK\r\nX-A: a\u{1}b\r\nContent-Length: 2\r\n\r\n", "ok", ("x-a", "a b")),
        ("HTTP/1.0 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nok\r\n0\r\n\r\n", ("x-a", "1")),
        ("HTTP/1.1 200 OK\r\nnonsense\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\n", "ok", ("x-a", "1 2")),
        ("ICY 200 OK\r\nX-A: 1\r\n\r\n", "ok", ("x-a", "1")),
    ] {
        let answered = async {
            let (mut local, _) = app.request().await;
            local.write_all(head.as_bytes()).await.unwrap();
            local.write_all(body.as_bytes()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(visitor.ask(get("alice", "/")), answered);
        assert_eq!((answer.status, answer.text(), answer.header(field.0)), (StatusCode::OK, "ok", field.1), "{head:?}");
    }
}

#[tokio::test]
async fn a_page_reloads_for_navigations_and_shows_the_name_that_was_asked_for() {
    let server = TestServer::start(&[]);
    let ask = async |host: &str, path: &str, kind: &[(&'static str, &str)]| {
        let mut request = get("alice", path);
        for (name, value) in [("host", host), ("accept", "text/html")].iter().chain(kind) {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        Visitor::connect(server.public).await.ask(request).await
    };
    let navigation = &[("sec-fetch-mode", "navigate")][..];
    // Over plain HTTP, browsers say less.
    for navigation in [navigation, &[("upgrade-insecure-requests", "1")]] {
        let away = ask("alice.localhost", "/", navigation).await;
        let reloads = away.text().contains("http-equiv=\"refresh\"");
        assert_eq!((away.status, reloads), (StatusCode::SERVICE_UNAVAILABLE, true), "{navigation:?}");
    }
    for other in [&[("sec-fetch-mode", "cors"), ("upgrade-insecure-requests", "1")][..], &[]] {
        assert!(!ask("alice.localhost", "/", other).await.text().contains("refresh"), "{other:?}");
    }
    for (host, path, name) in [
        ("nobody.localhost:80", "/x", "nobody.localhost"),
        ("localhost", "/nobody/x", "localhost/nobody/"),
        ("a&b'.example", "/", "a&amp;b&#39;.example"),
    ] {
        let page = ask(host, path, navigation).await;
        let text = format!("<p>There is nothing at {name}.</p>");
        assert_eq!((page.status, page.text().contains(&text)), (StatusCode::NOT_FOUND, true), "{}", page.text());
        assert!(!page.text().contains("refresh"));
    }
}
