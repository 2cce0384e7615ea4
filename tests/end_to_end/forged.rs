//! Visitors cannot forge fields that only a proxy may send, in any spelling.

use http::{HeaderName, HeaderValue, Method};
use tokio::io::AsyncWriteExt as _;

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Http2Visitor, http2_request, read_until};
use crate::harness::{TestAgent, TestServer, service};

/// Sent by a stranger; none of them may reach an application as it is.
const FORGED: [&str; 26] = [
    "x.forwarded.for",
    "x_forwarded_for",
    "x-forwarded_proto",
    "x.forwarded.prefix",
    "x-forwarded-port",
    "x-forwarded-ssl",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-user",
    "x-forwarded-anything",
    "x~forwarded|host",
    "x--forwarded-for",
    "x-client-ip",
    "x_client_ip",
    "true-client-ip",
    "cf-connecting-ip",
    "client-ip",
    "http_client_ip",
    "forwarded.",
    "proxy",
    "transfer_encoding",
    "content_length",
    "content.length",
    "x_tunnel_id",
    "x-original-url",
    "x.real.ip",
];

/// An application's own fields, which cross as they are.
const OWN: [&str; 6] = ["x_api_key", "x.trace.id", "content_type", "x-forwardedness", "via", "x-http-method-override"];

fn is_forged(text: &str) -> Option<&str> {
    text.lines().find(|line| line.ends_with("6.6.6.6"))
}

#[tokio::test]
async fn no_spelling_of_a_proxys_field_reaches_an_application() {
    let server = TestServer::start(&[]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let lines: String = FORGED.iter().map(|name| format!("{name}: 6.6.6.6\r\n")).collect();
    let own: String = OWN.iter().map(|name| format!("{name}: mine\r\n")).collect();
    let asked = format!("GET / HTTP/1.1\r\nHost: alice.localhost\r\nConnection: close\r\n{lines}{own}\r\n");
    let mut visitor = visitor::raw(server.public, &asked).await;
    let answer = String::from_utf8(visitor::read_to_end(&mut visitor).await.unwrap()).unwrap();
    assert_eq!(is_forged(&answer), None, "{answer}");
    assert!(answer.contains("x-forwarded-for: 127.0.0.1\n") && answer.contains("x-real-ip: 127.0.0.1\n"), "{answer}");
    for name in OWN {
        assert!(answer.contains(&format!("{name}: mine\n")), "{name}: {answer}");
    }

    let mut request = http2_request(Method::GET, "alice", "/", "");
    for name in FORGED {
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static("6.6.6.6"));
    }
    let (answer, _) = Http2Visitor::connect(server.public).await.ask(request).await;
    assert_eq!(is_forged(answer.text()), None, "{}", answer.text());
}

#[tokio::test]
async fn an_upgrade_carries_none_of_them_either() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let lines: String = FORGED.iter().map(|name| format!("{name}: 6.6.6.6\r\n")).collect();
    let asked = format!(
        "GET / HTTP/1.1\r\nHost: alice.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nhttp2-settings: 6.6.6.6\r\n{lines}\r\n"
    );
    let _visitor = visitor::raw(server.public, &asked).await;
    let (_local, head) = app.request().await;
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert_eq!(is_forged(&head), None, "{head}");
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_itself_in_exact_names_and_for_the_visitor_alone() {
    let server = TestServer::start(&[("public.trusted_proxies", "127.0.0.1")]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
    let mut request = http2_request(Method::GET, "alice", "/", "");
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-port", "8443"),
        ("x-forwarded-user", "carol"),
        ("x_forwarded_user", "6.6.6.6"),
        ("x.forwarded.for", "6.6.6.6"),
        ("cf-connecting-ip", "203.0.113.7"),
        ("true-client-ip", "6.6.6.6"),
        ("x-client-ip", "6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("proxy", "6.6.6.6"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (answer, _) = Http2Visitor::connect(server.public).await.ask(request).await;
    let text = answer.text();
    assert_eq!(is_forged(text), None, "{text}");
    for line in [
        "x-forwarded-for: 203.0.113.7\n",
        "x-real-ip: 203.0.113.7\n",
        "x-forwarded-port: 8443\n",
        "x-forwarded-user: carol\n",
        "cf-connecting-ip: 203.0.113.7\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test]
async fn trailers_say_nothing_of_who_asks() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let others = ["x-forwarded-for", "x-real-ip", "cookie", "x-tunnel-id", "authorization", "remote_user", "host"];
    let lines: String = FORGED.iter().chain(&others).map(|name| format!("{name}: 6.6.6.6\r\n")).collect();
    let asked = format!(
        "POST / HTTP/1.1\r\nHost: alice.localhost\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         4\r\nwhat\r\n0\r\n{lines}x-sum: 1\r\n\r\n"
    );
    let mut visitor = visitor::raw(server.public, &asked).await;
    let (mut local, _) = app.request().await;
    let body = read_until(&mut local, "\r\n\r\n").await;
    assert!(body.starts_with("4\r\nwhat\r\n0\r\n") && body.contains("x-sum: 1\r\n"), "{body}");
    assert_eq!(is_forged(&body), None, "{body}");

    // The application's own say more, but do not frame the message either.
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-request-id, set-cookie\r\n\r\n\
                  2\r\nok\r\n0\r\nx-sum: 2\r\nx-request-id: 3\r\nset-cookie: a=6.6.6.6\r\n\r\n";
    local.write_all(answer.as_bytes()).await.unwrap();
    read_until(&mut visitor, "ok\r\n0\r\n").await;
    let trailers = read_until(&mut visitor, "\r\n\r\n").await;
    assert!(trailers.contains("x-sum: 2\r\n") && trailers.contains("x-request-id: 3\r\n"), "{trailers}");
    assert_eq!(is_forged(&trailers), None, "{trailers}");
}

#[tokio::test]
async fn a_service_can_have_fields_that_name_a_user_removed() {
    let server = TestServer::start(&[]);
    let echo = apps::echo().await.to_string();
    let services =
        vec![service("alice", &echo, &[("remove_identity_headers", true.into())]), service("blog", &echo, &[])];
    let _agent = TestAgent::connect_with(&server, "alice", services).await;
    let names = [
        "remote-user",
        "remote_user",
        "x.remote.user",
        "x-auth-request-user",
        "x-ssl-client-verify",
        "ssl_client_s_dn",
    ];
    let lines: String = names.iter().map(|name| format!("{name}: 6.6.6.6\r\n")).collect();
    for (host, are_removed) in [("alice", true), ("blog", false)] {
        let asked = format!(
            "GET / HTTP/1.1\r\nHost: {host}.localhost\r\nAuthorization: Bearer mine\r\nConnection: close\r\n{lines}\r\n"
        );
        let mut visitor = visitor::raw(server.public, &asked).await;
        let answer = String::from_utf8(visitor::read_to_end(&mut visitor).await.unwrap()).unwrap();
        assert!(answer.contains("authorization: Bearer mine\n"), "{answer}");
        assert_eq!(is_forged(&answer).is_none(), are_removed, "{answer}");
    }
}
