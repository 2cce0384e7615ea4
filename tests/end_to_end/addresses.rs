//! Applications that look at their own address: in `Host`, `Origin` and `Destination`, and in the URIs that they write.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::harness::apps;
use crate::harness::visitor::{self, Answer, Visitor, request};
use crate::harness::{TestAgent, TestServer, service};

type Page = Response<Full<Bytes>>;

fn page(status: StatusCode, text: impl Into<String>) -> Page {
    let mut page = Response::new(Full::from(text.into()));
    *page.status_mut() = status;
    page
}

fn redirect(to: &str) -> Page {
    let mut page = page(StatusCode::FOUND, "");
    page.headers_mut().insert(LOCATION, to.parse().unwrap());
    page
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// An application that answers only to its own address, as development servers do: it refuses other hosts and origins, and
/// writes whole URIs.
async fn picky() -> SocketAddr {
    apps::with(|request: Request<Incoming>| async move {
        let (headers, path) = (request.headers(), request.uri().path());
        let host = text(headers, "host");
        if !host.starts_with("127.0.0.1:") || headers.contains_key("x-forwarded-host") {
            return page(StatusCode::FORBIDDEN, "blocked host");
        }
        let origin = text(headers, "origin");
        let is_same = origin.is_empty() || origin == format!("http://{host}");
        let referer = text(headers, "referer");
        if !is_same || !(referer.is_empty() || referer.starts_with(&format!("http://{host}/"))) {
            return page(StatusCode::FORBIDDEN, "another origin");
        }
        match (request.method(), path) {
            (&Method::POST, "/login") => {
                let mut answer = redirect(&format!("http://{host}/home?x=1"));
                answer.headers_mut().insert(SET_COOKIE, "id=1; Domain=127.0.0.1; Path=/".parse().unwrap());
                answer.headers_mut().insert("refresh", format!("0; url=http://{host}/home").parse().unwrap());
                answer.headers_mut().insert("link", format!("<http://{host}/?p=2>; rel=next").parse().unwrap());
                answer
            }
            (_, "/home") => page(StatusCode::OK, "home"),
            _ => page(StatusCode::NOT_FOUND, "nothing"),
        }
    })
    .await
}

/// Asks at a URI of the public server, as a browser does that follows a link.
async fn visit(server: &TestServer, method: Method, uri: &str, fields: &[(&'static str, &str)]) -> Answer {
    let (authority, path) = uri.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut request = request(method, "alice", &format!("/{path}"), "");
    request.headers_mut().insert(HOST, authority.parse().unwrap());
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    Visitor::connect(server.public).await.ask(request).await
}

/// The origins under which `alice` is reached, and the prefix there.
fn routes(server: &TestServer) -> [(String, &'static str); 2] {
    let port = server.public.port();
    [(format!("http://alice.localhost:{port}"), ""), (format!("http://localhost:{port}"), "/alice")]
}

#[tokio::test]
async fn an_application_that_is_told_its_own_address_works_on_every_route() {
    let server = TestServer::start(&[]);
    let app = picky().await;
    let _agent = TestAgent::connect_with(
        &server,
        "alice",
        vec![service("alice", &app.to_string(), &[("host_header", "local".into())])],
    )
    .await;
    for (origin, prefix) in routes(&server) {
        let base = format!("{origin}{prefix}");
        let fields = [("origin", origin.as_str()), ("referer", &format!("{base}/login"))];
        let answer = visit(&server, Method::POST, &format!("{base}/login"), &fields).await;
        assert_eq!(answer.status, StatusCode::FOUND, "{}", answer.text());
        assert_eq!(answer.header("location"), format!("{base}/home?x=1"));
        assert_eq!(answer.header("refresh"), format!("0; url={base}/home"));
        assert_eq!(answer.header("link"), format!("<{base}/?p=2>; rel=next"));
        let cookie = if prefix.is_empty() { "id=1; Domain=alice.localhost; Path=/" } else { "id=1; Path=/alice/" };
        assert_eq!(answer.header("set-cookie"), cookie);
        assert_eq!(visit(&server, Method::GET, answer.header("location"), &[]).await.text(), "home");
        // A page of another site stays one.
        let forged =
            visit(&server, Method::POST, &format!("{base}/login"), &[("origin", "http://bob.localhost")]).await;
        assert_eq!((forged.status, forged.text()), (StatusCode::FORBIDDEN, "another origin"));
    }
}

/// nginx on another port: the host that it was asked for, with its own port.
#[tokio::test]
async fn a_redirect_with_the_applications_own_port_can_be_followed() {
    let server = TestServer::start(&[]);
    let app = apps::with(|request: Request<Incoming>| async move {
        let host = text(request.headers(), "host");
        let name = host.split(':').next().unwrap();
        let port = text(request.headers(), "x-own-port");
        match request.uri().path() {
            "/gal" => redirect(&format!("http://{name}:{port}/gal/")),
            path => page(StatusCode::OK, path),
        }
    })
    .await;
    let port = app.port().to_string();
    let own_port = ("set".to_owned(), http_fields(&[("x-own-port", &port)]));
    let keys = [(
        "request_headers",
        adit::schema::ValueKind::from(std::iter::once(own_port).collect::<crate::harness::ServiceEntry>()),
    )];
    let _agent = TestAgent::connect_with(&server, "alice", vec![service("alice", &app.to_string(), &keys)]).await;
    for (origin, prefix) in routes(&server) {
        let answer = visit(&server, Method::GET, &format!("{origin}{prefix}/gal"), &[]).await;
        assert_eq!(answer.header("location"), format!("{origin}{prefix}/gal/"));
        assert_eq!(visit(&server, Method::GET, answer.header("location"), &[]).await.text(), "/gal/");
    }
}

fn http_fields(fields: &[(&str, &str)]) -> adit::schema::ValueKind {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), adit::schema::ValueKind::from(*value)));
    fields.collect::<crate::harness::ServiceEntry>().into()
}

/// A WebDAV server that compares the destination with its own address, as Apache does.
async fn dav() -> SocketAddr {
    apps::with(|request: Request<Incoming>| async move {
        let own = format!("http://{}/", text(request.headers(), "host"));
        let destination = text(request.headers(), "destination");
        match destination.strip_prefix(&own) {
            None => page(StatusCode::BAD_GATEWAY, destination),
            Some(path) => page(StatusCode::CREATED, format!("{} to /{path}", request.uri().path())),
        }
    })
    .await
}

#[tokio::test]
async fn a_webdav_destination_is_mapped_as_host_and_path_are() {
    let server = TestServer::start(&[]);
    let app = dav().await;
    for host_header in ["preserve", "local", "dav.lan"] {
        let keys = [("host_header", host_header.into())];
        let _agent = TestAgent::connect_with(&server, "alice", vec![service("alice", &app.to_string(), &keys)]).await;
        for (origin, prefix) in routes(&server) {
            let base = format!("{origin}{prefix}");
            let to = format!("{base}/b/c");
            let answer = visit(&server, "MOVE".parse().unwrap(), &format!("{base}/a"), &[("destination", &to)]).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::CREATED, "/a to /b/c"), "{host_header} {base}");
        }
    }
}

/// Two WebDAV servers on one port. `MOVE` compares the scheme of the destination with that of the connection, as nginx does;
/// `COPY` with `X-Forwarded-Proto`, as Radicale does.
async fn two_dav() -> SocketAddr {
    apps::with(|request: Request<Incoming>| async move {
        let (host, proto) = (text(request.headers(), "host"), text(request.headers(), "x-forwarded-proto"));
        let scheme = if request.method() == "MOVE" { "http".to_owned() } else { proto };
        let destination = text(request.headers(), "destination");
        let path = if destination.starts_with('/') {
            Some(&*destination)
        } else {
            destination.strip_prefix(&format!("{scheme}://{host}"))
        };
        match path {
            None => page(StatusCode::BAD_GATEWAY, destination),
            Some(path) => page(StatusCode::CREATED, path.to_owned()),
        }
    })
    .await
}

#[tokio::test]
async fn a_webdav_destination_suits_whatever_scheme_a_server_compares() {
    let server = TestServer::start(&[("public.trusted_proxies", "127.0.0.1")]);
    let app = two_dav().await;
    for host_header in ["preserve", "local"] {
        let keys = [("host_header", host_header.into())];
        let _agent = TestAgent::connect_with(&server, "alice", vec![service("alice", &app.to_string(), &keys)]).await;
        let base = format!("http://alice.localhost:{}", server.public.port());
        for scheme in ["http", "https"] {
            for method in ["MOVE", "COPY"] {
                let to = format!("{scheme}://alice.localhost:{}/b/c", server.public.port());
                let fields = [("destination", &*to), ("x-forwarded-proto", scheme)];
                let answer = visit(&server, method.parse().unwrap(), &format!("{base}/a"), &fields).await;
                assert_eq!(
                    (answer.status, answer.text()),
                    (StatusCode::CREATED, "/b/c"),
                    "{host_header} {scheme} {method}"
                );
            }
        }
    }
}

/// An application with a base path: what is not below it is redirected there.
async fn below_a_base_path() -> SocketAddr {
    apps::with(|request: Request<Incoming>| async move {
        match request.uri().path().strip_prefix("/alice/") {
            None => redirect("/alice/"),
            Some(path) => {
                let mut page =
                    page(StatusCode::OK, format!("page {path} {}", text(request.headers(), "x-forwarded-prefix")));
                page.headers_mut().insert(SET_COOKIE, "a=1; Path=/alice/".parse().unwrap());
                page.headers_mut().insert(CONTENT_TYPE, "text/plain".parse().unwrap());
                page
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_application_with_a_base_path_keeps_it() {
    let server = TestServer::start(&[]);
    let keys = [("strip_prefix", false.into())];
    let app = below_a_base_path().await;
    let _agent = TestAgent::connect_with(&server, "alice", vec![service("alice", &app.to_string(), &keys)]).await;
    let [_, (origin, _)] = routes(&server);
    let answer = visit(&server, Method::GET, &format!("{origin}/alice/x"), &[]).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "page x "));
    assert_eq!(answer.header("set-cookie"), "a=1; Path=/alice/");
    // It answers for its own root.
    let answer = visit(&server, Method::GET, &format!("{origin}/alice"), &[]).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::FOUND, "/alice/"));
}

#[tokio::test]
async fn a_path_that_begins_like_the_prefix_is_no_prefix_unless_the_application_knows_it() {
    let server = TestServer::start(&[]);
    let app = apps::with(|request: Request<Incoming>| async move {
        match request.uri().path() {
            "/" => redirect(&format!("{}/alice/x", text(request.headers(), "x-knows").trim())),
            path => page(StatusCode::OK, format!("{path} of {}", text(request.headers(), "x-forwarded-prefix"))),
        }
    })
    .await;
    let [_, (origin, _)] = routes(&server);
    for (knows, location, then) in [(false, "/alice/alice/x", "/alice/x of /alice"), (true, "/alice/x", "/x of /alice")]
    {
        let keys = [("knows_prefix", knows.into())];
        let _agent = TestAgent::connect_with(&server, "alice", vec![service("alice", &app.to_string(), &keys)]).await;
        let answer = visit(&server, Method::GET, &format!("{origin}/alice/"), &[]).await;
        assert_eq!(answer.header("location"), location);
        assert_eq!(visit(&server, Method::GET, &format!("{origin}{location}"), &[]).await.text(), then);
    }
}

#[tokio::test]
async fn what_no_client_follows_a_redirect_for_is_served_without_the_slash() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let [_, (origin, _)] = routes(&server);
    let base = format!("{origin}/alice");
    for (method, fields, expected) in [
        (Method::POST, &[][..], "POST /?x=/y\n"),
        (Method::OPTIONS, &[], "OPTIONS /?x=/y\n"),
        (Method::GET, &[("upgrade", "websocket"), ("connection", "upgrade")], "GET /?x=/y\n"),
    ] {
        let answer = visit(&server, method, &format!("{base}?x=/y"), fields).await;
        assert!(answer.text().starts_with(expected), "{}", answer.text());
    }
    for (method, fields) in
        [(Method::GET, &[][..]), (Method::HEAD, &[]), (Method::GET, &[("upgrade", "h2c"), ("connection", "upgrade")])]
    {
        let answer = visit(&server, method, &format!("{base}?x=/y"), fields).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::PERMANENT_REDIRECT, "/alice/?x=/y"));
    }
    for method in [Method::GET, Method::POST] {
        let answer = visit(&server, method, &format!("{origin}/nosuch"), &[]).await;
        assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::NOT_FOUND, "unknown_name"));
    }
}

#[tokio::test]
async fn an_empty_path_is_the_root() {
    let server = TestServer::start(&[]);
    let in_process = apps::echo().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", in_process)]).await;
    for (target, expected) in [
        ("http://alice.localhost?x=1", "GET /?x=1\n"),
        ("http://alice.localhost", "GET /\n"),
        ("http://localhost/alice?x=1", ""),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: alice.localhost\r\nConnection: close\r\n\r\n");
        let mut visitor = visitor::raw(server.public, &text).await;
        let answer = String::from_utf8(visitor::read_to_end(&mut visitor).await.unwrap()).unwrap();
        assert!(answer.contains(&format!("\r\n\r\n{expected}")), "{target}: {answer}");
    }
}
