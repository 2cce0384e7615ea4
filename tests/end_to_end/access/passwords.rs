//! Names and passwords.

use std::net::SocketAddr;

use adit::protocol::access::{AccessPolicy, BasicUser};
use adit::values::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;

use super::{guarded, let_in, opened, refused, started};
use crate::harness::TestServer;
use crate::harness::puppet::Puppet;
use crate::harness::visitor::{Answer, Http2Visitor, Visitor, get, http2_request};

fn user(name: &str, password: &str) -> BasicUser {
    let hash = crate::harness::cheap_hash(&Secret::new(password)).unwrap();
    BasicUser { user: name.to_owned(), hash }
}

fn ann_and_bob(policy: &mut AccessPolicy) {
    policy.basic_auth = vec![user("ann", "right"), user("bob", "grüße: 1")];
}

fn with(credential: &str) -> Request<Full<Bytes>> {
    let mut request = get("alice", "/");
    let field = format!("Basic {}", STANDARD.encode(credential));
    request.headers_mut().insert("authorization", field.parse().unwrap());
    request
}

async fn ask(public: SocketAddr, credential: &str) -> Answer {
    Visitor::connect(public).await.ask(with(credential)).await
}

#[tokio::test]
async fn a_password_opens_and_goes_no_further() {
    let (server, mut puppet) = started(&[], ann_and_bob).await;
    let mut visitor = Visitor::connect(server.public).await;
    let asked = visitor.ask(get("alice", "/")).await;
    assert_eq!(refused(&asked), (401, "unauthorized"));
    assert_eq!(asked.header("www-authenticate"), "Basic realm=\"alice\", charset=\"UTF-8\"");
    assert_eq!(asked.header("content-type"), "application/json");
    for wrong in ["ann:wrong", "bob:right", "eve:right", "ann", ":"] {
        assert_eq!(refused(&visitor.ask(with(wrong)).await), (401, "unauthorized"), "{wrong}");
    }
    let mut twice = with("ann:right");
    twice.headers_mut().append("authorization", "Basic YW5uOndyb25n".parse().unwrap());
    assert_eq!(refused(&visitor.ask(twice).await), (401, "unauthorized"));
    assert_eq!((opened(&server), server.open.len()), (0, 0));
    for right in ["ann:right", "bob:grüße: 1", "ann:right"] {
        let asked = let_in(&mut puppet, visitor.ask(with(right))).await;
        assert!(!asked.head.headers.contains_key("authorization"), "{right}");
    }
}

#[tokio::test]
async fn a_browser_gets_a_page_and_grpc_a_status() {
    let (server, _puppet) = started(&[], ann_and_bob).await;
    let mut browser = get("alice", "/");
    browser.headers_mut().insert("accept", "text/html,*/*".parse().unwrap());
    let page = Visitor::connect(server.public).await.ask(browser).await;
    assert_eq!(refused(&page), (401, "unauthorized"));
    assert!(page.header("www-authenticate").starts_with("Basic ") && page.text().contains("<h1>Unauthorized</h1>"));
    let mut grpc = http2_request(Method::POST, "alice", "/package.Service/Method", "");
    grpc.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let (answer, _) = Http2Visitor::connect(server.public).await.ask(grpc).await;
    assert_eq!((refused(&answer), answer.header("grpc-status")), ((200, "unauthorized"), "16"));
}

#[tokio::test]
async fn an_address_that_guesses_too_often_waits() {
    let (server, mut puppet) = started(&[("limits.per_ip.logins_per_minute", "3")], ann_and_bob).await;
    let mut visitor = Visitor::connect(server.public).await;
    let_in(&mut puppet, visitor.ask(with("ann:right"))).await;
    for _ in 0..10 {
        // Asking without a password is not guessing: browsers do it all the time.
        assert_eq!(refused(&visitor.ask(get("alice", "/")).await), (401, "unauthorized"));
    }
    for _ in 0..3 {
        assert_eq!(refused(&visitor.ask(with("ann:wrong")).await), (401, "unauthorized"));
    }
    for credential in ["ann:wrong", "ann:right", "eve:"] {
        let late = visitor.ask(with(credential)).await;
        assert_eq!(refused(&late), (429, "rate_limited"), "{credential}");
        assert!((1..=20).contains(&late.header("retry-after").parse::<u64>().unwrap()));
    }
    assert_eq!(opened(&server), 1);
}

#[tokio::test]
async fn a_password_that_was_changed_lets_nobody_in_any_more() {
    let (server, mut puppet) = started(&[], ann_and_bob).await;
    let_in(&mut puppet, ask(server.public, "ann:right")).await;
    let changed = guarded(|policy| policy.basic_auth = vec![user("ann", "new"), user("bob", "grüße: 1")]);
    let mut puppet = Puppet::connect(&server, &changed).await;
    assert_eq!(refused(&ask(server.public, "ann:right").await), (401, "unauthorized"));
    let_in(&mut puppet, ask(server.public, "ann:new")).await;
    let open = guarded(|_| {});
    let mut puppet = Puppet::connect(&server, &open).await;
    let asked = let_in(&mut puppet, ask(server.public, "ann:right")).await;
    assert!(asked.header("authorization").starts_with("Basic "), "now it is the application's own");
}

#[tokio::test]
async fn many_at_once_are_let_in_with_one_comparison_each() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "1")]);
    let hash = adit::auth::hash(&Secret::new("right")).unwrap();
    let costly = guarded(|policy| policy.basic_auth = vec![BasicUser { user: "ann".to_owned(), hash }]);
    let mut puppet = Puppet::connect(&server, &costly).await;
    let asked = futures_util::future::join_all((0..30).map(|_| ask(server.public, "ann:right")));
    let answered = async {
        for _ in 0..30 {
            puppet.request().await.answer("welcome").await;
        }
    };
    let (answers, ()) = tokio::join!(asked, answered);
    assert!(answers.iter().all(|answer| answer.text() == "welcome"));
}

#[tokio::test]
async fn right_passwords_of_one_address_are_limited_and_hurt_no_other_tenant() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "3")]);
    // As costly as a tenant may set it.
    let costly = |name: &str| {
        let hash = argon2::Argon2::from(argon2::Params::new(64 * 1024, 3, 4, None).unwrap());
        let hash: argon2::password_hash::phc::PasswordHash =
            argon2::PasswordHasher::hash_password(&hash, b"right").unwrap();
        BasicUser { user: name.to_owned(), hash: hash.to_string() }
    };
    let users: Vec<BasicUser> = (0..8).map(|number| costly(&format!("user-{number}"))).collect();
    let mut attacked = Puppet::connect(&server, &guarded(|policy| policy.basic_auth = users)).await;
    let mut hello = crate::harness::puppet::hello("bob", &["bob"]);
    ann_and_bob(&mut hello.services[0].access);
    let mut bob = Puppet::connect(&server, &hello).await;
    let attack = async {
        let mut asking = Vec::new();
        for number in 0..8 {
            asking.push(ask_from([127, 0, 7, 1], server.public, format!("user-{number}:right")));
        }
        futures_util::future::join_all(asking).await
    };
    let serve = async {
        while let Some(stream) = attacked.streams.recv().await {
            drop(stream);
        }
    };
    let victim = async {
        let mut request = with("ann:right");
        request.headers_mut().insert("host", "bob.localhost".parse().unwrap());
        let mut visitor = Visitor::connect(server.public).await;
        let_in(&mut bob, visitor.ask(request)).await;
    };
    let statuses = tokio::select! {
        (statuses, ()) = async { tokio::join!(attack, victim) } => statuses,
        () = serve => panic!("the attacked tenant is gone"),
    };
    // One such comparison counts as six: twelve are allowed.
    let limited = statuses.iter().filter(|status| status.contains(" 429 ")).count();
    assert!((5..=6).contains(&limited), "{statuses:?}");
}

/// Asks alice's service from this address; the status line.
async fn ask_from(address: [u8; 4], public: SocketAddr, credential: String) -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    let mut socket = crate::harness::soon("a public port", socket.connect(public)).await.unwrap();
    let field = STANDARD.encode(credential);
    let request = format!("GET / HTTP/1.1\r\nHost: alice.localhost\r\nAuthorization: Basic {field}\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes()).await.unwrap();
    crate::harness::visitor::read_until(&mut socket, "\r\n").await
}

/// A request with these fields.
fn get_with(fields: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get("alice", "/");
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn after_a_login_authorization_is_the_application_s() {
    let (server, mut puppet) = started(&[], ann_and_bob).await;
    let mut visitor = Visitor::connect(server.public).await;
    let log_in = async {
        let (answer, ()) = tokio::join!(visitor.ask(with("ann:right")), async {
            puppet.request().await.answer("welcome").await;
        });
        answer.header("set-cookie").split(';').next().unwrap().to_owned()
    };
    let cookie = log_in.await;
    assert!(cookie.starts_with("adit-login="), "{cookie}");
    let both = format!("theme=dark; {cookie}");
    for proof in [("sec-fetch-site", "same-origin"), ("origin", "http://alice.localhost"), ("x-none", "1")] {
        let request = get_with(&[("authorization", "Bearer app"), ("cookie", &both), proof]);
        let asked = let_in(&mut puppet, visitor.ask(request)).await;
        assert_eq!((asked.header("authorization"), asked.header("cookie")), ("Bearer app", "theme=dark"));
    }
    for foreign in [("sec-fetch-site", "same-site"), ("origin", "http://bob.localhost"), ("cookie", cookie.as_str())] {
        let request = get_with(&[("authorization", "Bearer app"), ("cookie", &both), foreign]);
        assert_eq!(refused(&visitor.ask(request).await), (401, "unauthorized"), "{foreign:?}");
    }
    // On a path route, all tenants share an origin.
    let mut path = get_with(&[("authorization", "Bearer app"), ("cookie", &cookie), ("sec-fetch-site", "same-origin")]);
    path.headers_mut().insert("host", "localhost".parse().unwrap());
    *path.uri_mut() = "/alice/".parse().unwrap();
    assert_eq!(refused(&visitor.ask(path).await), (401, "unauthorized"));
    let mut path = with("ann:right");
    path.headers_mut().insert("host", "localhost".parse().unwrap());
    *path.uri_mut() = "/alice/".parse().unwrap();
    let (answer, ()) = tokio::join!(visitor.ask(path), async { puppet.request().await.answer("welcome").await });
    assert_eq!((answer.status.as_u16(), answer.header("set-cookie")), (200, ""));
}

#[tokio::test]
async fn a_preflight_gets_in_if_the_owner_allows_it() {
    for allowed in [false, true] {
        let (server, mut puppet) = started(&[], |policy| {
            ann_and_bob(policy);
            policy.preflight = allowed;
        })
        .await;
        let mut visitor = Visitor::connect(server.public).await;
        let mut preflight = get_with(&[("origin", "https://a.example"), ("access-control-request-method", "PUT")]);
        *preflight.method_mut() = Method::OPTIONS;
        if allowed {
            let_in(&mut puppet, visitor.ask(preflight)).await;
        } else {
            assert_eq!(refused(&visitor.ask(preflight).await), (401, "unauthorized"));
        }
        let mut options = get("alice", "/");
        *options.method_mut() = Method::OPTIONS;
        assert_eq!(refused(&visitor.ask(options).await), (401, "unauthorized"), "that is no preflight");
    }
}
