//! Bodies that must bear a signature.

use std::net::SocketAddr;
use std::ops::RangeBounds;
use std::time::Duration;

use adit::protocol::access::{AccessPolicy, Webhook, WebhookScheme};
use adit::values::Secret;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{let_in, opened, refused, started};
use crate::harness::frames::{self, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM};
use crate::harness::puppet::{self, Puppet, now};
use crate::harness::visitor::{self, Http2Visitor, Visitor, http2_request, request};
use crate::harness::{PATIENCE, TestServer, soon, until_idle};

const SECRET: &str = "It's a Secret to Everybody";

fn hook(scheme: WebhookScheme, max_body: usize) -> impl FnOnce(&mut AccessPolicy) {
    let webhook = Webhook { scheme, secret: Secret::new(SECRET), tolerance_s: 300, max_body };
    move |policy| policy.webhook = Some(webhook)
}

fn digest(parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn github(body: &[u8]) -> String {
    format!("sha256={}", digest(&[body]))
}

fn stripe(time: u64, body: &[u8]) -> String {
    format!("t={time},v1={}", digest(&[time.to_string().as_bytes(), b".", body]))
}

fn signed(field: &'static str, signature: &str, body: &[u8]) -> Request<Full<bytes::Bytes>> {
    let mut request = request(Method::POST, "alice", "/hook", body.to_vec());
    request.headers_mut().insert(field, signature.parse().unwrap());
    request
}

const GITHUB: &str = "x-hub-signature-256";
const STRIPE: &str = "stripe-signature";

#[tokio::test]
async fn a_signed_body_is_forwarded_byte_for_byte() {
    let (server, mut puppet) = started(&[], hook(WebhookScheme::Github, 2 << 20)).await;
    let mut visitor = Visitor::connect(server.public).await;
    for size in [0, 1, 4_096, 65_537, 1_500_000] {
        let body: Vec<u8> = (0..size).map(|at: usize| (at * 31 % 251) as u8).collect();
        let signature = github(&body);
        let asked = let_in(&mut puppet, visitor.ask(signed(GITHUB, &signature, &body))).await;
        assert!(asked.body == body, "{size} bytes arrived changed");
        assert_eq!(asked.header("content-length"), if size > 0 { size.to_string() } else { String::new() });
        assert_eq!(asked.header(GITHUB), signature, "the application may look for itself");
        assert_eq!(asked.head.has_body, size > 0);
        let answer = visitor.ask(signed(GITHUB, &github(b"another"), &body)).await;
        assert_eq!(refused(&answer), (401, "bad_signature"));
    }
    assert_eq!(opened(&server), 5);
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_chunked_body_stays_one_with_its_trailers() {
    let (server, mut puppet) = started(&[], hook(WebhookScheme::Github, 1024)).await;
    for (chunks, body) in
        [("3\r\none\r\n1\r\n,\r\n3\r\ntwo\r\n0\r\nX-Sum: 7\r\n\r\n", "one,two"), ("0\r\nX-Sum: 7\r\n\r\n", "")]
    {
        let head = format!(
            "POST /hook HTTP/1.1\r\nHost: alice.localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n{GITHUB}: {}\r\n\r\n",
            github(body.as_bytes())
        );
        let mut visitor = visitor::raw(server.public, &(head + chunks)).await;
        let mut asked = puppet.request().await;
        assert_eq!((&asked.body[..], asked.head.has_body), (body.as_bytes(), true));
        assert!(!asked.head.headers.contains_key("content-length"));
        assert_eq!(asked.trailers["x-sum"], "7");
        asked.answer("welcome").await;
        visitor::read_until(&mut visitor, "welcome").await;
    }
}

/// Its signature is right for what has come: were that taken for the whole, it would pass.
#[tokio::test]
async fn an_incomplete_http_2_body_is_not_a_signed_one() {
    let (server, mut puppet) = started(&[], hook(WebhookScheme::Github, 1 << 20)).await;
    for body in ["", "half"] {
        for code in [0_u32, 2, 8] {
            let mut visitor = Frames::visitor(server.public).await;
            let head = frames::request("POST", "/hook", &[(GITHUB, &github(body.as_bytes()))]);
            visitor.send(HEADERS, END_HEADERS, 1, &head).await;
            visitor.send_data(1, body.as_bytes()).await;
            visitor.send(RST_STREAM, 0, 1, &code.to_be_bytes()).await;
            // A whole one on the same connection, after which nothing of the other one is on its way any more.
            visitor
                .send(HEADERS, END_HEADERS, 3, &frames::request("POST", "/hook", &[(GITHUB, &github(b"whole"))]))
                .await;
            visitor.send(DATA, END_STREAM, 3, b"whole").await;
            let mut asked = puppet.request().await;
            assert_eq!(asked.body, b"whole", "{body:?} was taken for complete, code {code}");
            asked.answer("welcome").await;
            assert_eq!(visitor.rest(3).await.0, b"welcome");
        }
    }
    assert_eq!(opened(&server), 6);
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn an_http_2_body_is_held_too() {
    let (server, mut puppet) = started(&[], hook(WebhookScheme::Github, 1 << 20)).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let body = vec![b'x'; 900_000];
    for (signature, passes) in [(github(b"another"), false), (github(&body), true)] {
        let mut request = http2_request(Method::POST, "alice", "/hook", body.clone());
        request.headers_mut().insert(GITHUB, signature.parse().unwrap());
        let asking = async { visitor.ask(request).await.0 };
        if passes {
            assert!(let_in(&mut puppet, asking).await.body == body);
        } else {
            assert_eq!(refused(&asking.await), (401, "bad_signature"));
        }
    }
    // What is open has no end to be signed.
    let mut connect = http2_request(Method::CONNECT, "alice", "/chat", "");
    connect.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    connect.headers_mut().insert(GITHUB, github(b"").parse().unwrap());
    *connect.body_mut() = http_body_util::Empty::new().boxed();
    let answer = visitor.begin(connect).await.unwrap();
    assert_eq!(answer.headers()["x-adit-error"], "bad_signature");
    assert_eq!(opened(&server), 1);
}

#[tokio::test]
async fn a_request_without_a_signature_is_refused_before_its_body_is_asked_for() {
    let (server, mut puppet) = started(&[], hook(WebhookScheme::Github, 10)).await;
    let head = |field: &str| {
        format!(
            "POST /hook HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n{field}\r\n"
        )
    };
    let mut stranger = visitor::raw(server.public, &head("")).await;
    let answer = visitor::read_until(&mut stranger, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: HMAC-SHA256 realm="), "{answer}");
    let large = head(&format!("{GITHUB}: {}\r\n", github(b"")));
    let mut large = visitor::raw(server.public, &large.replace("Length: 4", "Length: 11")).await;
    assert!(visitor::read_until(&mut large, "\r\n\r\n").await.starts_with("HTTP/1.1 413"));
    // One that is signed is asked for, by the server itself.
    let mut sender = visitor::raw(server.public, &head(&format!("{GITHUB}: {}\r\n", github(b"body")))).await;
    assert_eq!(visitor::read_until(&mut sender, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(opened(&server), 0);
    sender.write_all(b"body").await.unwrap();
    let mut asked = puppet.request().await;
    assert_eq!((&asked.body[..], asked.header("expect")), (&b"body"[..], ""));
    asked.answer("welcome").await;
    visitor::read_until(&mut sender, "welcome").await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_not_held() {
    let (server, mut puppet) = started(&[], hook(WebhookScheme::Github, 10)).await;
    let mut visitor = Visitor::connect(server.public).await;
    let body = b"0123456789a";
    let answer = visitor.ask(signed(GITHUB, &github(body), body)).await;
    assert_eq!(refused(&answer), (413, "body_too_large"));
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: alice.localhost\r\nTransfer-Encoding: chunked\r\n{GITHUB}: {}\r\n\r\n6\r\n012345\r\n5\r\n6789a\r\n",
        github(body)
    );
    let mut visitor = visitor::raw(server.public, &chunked).await;
    assert!(visitor::read_until(&mut visitor, "\r\n").await.starts_with("HTTP/1.1 413"));
    assert_eq!(opened(&server), 0);
    let mut visitor = Visitor::connect(server.public).await;
    let_in(&mut puppet, visitor.ask(signed(GITHUB, &github(&body[..10]), &body[..10]))).await;
}

#[tokio::test]
async fn a_stripe_signature_is_good_for_once_and_for_a_while() {
    let (server, mut puppet) = started(&[], hook(WebhookScheme::Stripe, 1024)).await;
    let mut visitor = Visitor::connect(server.public).await;
    let body = br#"{"id":"evt_1"}"#;
    for (time, signed_body) in [(now() - 301, &body[..]), (now() + 330, body), (now(), b"{}")] {
        let answer = visitor.ask(signed(STRIPE, &stripe(time, signed_body), body)).await;
        assert_eq!(refused(&answer), (401, "bad_signature"), "{time}");
    }
    let fresh = stripe(now() - 200, body);
    let asked = let_in(&mut puppet, visitor.ask(signed(STRIPE, &fresh, body))).await;
    assert_eq!((&asked.body[..], asked.header(STRIPE)), (&body[..], fresh.as_str()));
    assert_eq!(refused(&visitor.ask(signed(STRIPE, &fresh, body)).await), (401, "bad_signature"), "sent again");
    assert_eq!(opened(&server), 1);
}

#[tokio::test]
async fn a_signed_request_does_not_become_a_connection() {
    let (server, mut puppet) = started(&[], hook(WebhookScheme::Github, 1024)).await;
    let ask = format!(
        "GET /chat HTTP/1.1\r\nHost: alice.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{GITHUB}: {}\r\n\r\n",
        github(b"")
    );
    let mut visitor = visitor::raw(server.public, &ask).await;
    let mut asked = puppet.request().await;
    assert_eq!((asked.header("upgrade"), asked.head.has_body), ("", false));
    asked.answer("welcome").await;
    visitor::read_until(&mut visitor, "welcome").await;
}

/// The head of a request with a body that is not what was signed.
fn unfinished(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: {length}\r\n{GITHUB}: {}\r\n\r\n", github(b""))
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let slow = [("timeouts.idle", "200ms"), ("timeouts.head", "1m")];
    let dripping = [("timeouts.idle", "10s"), ("timeouts.head", "2s")];
    for (settings, drips) in [(slow, false), (dripping, true)] {
        let (server, _puppet) = started(&settings, hook(WebhookScheme::Github, 1024)).await;
        let visitor = visitor::raw(server.public, &(unfinished(1000) + "half")).await;
        let (mut read, mut write) = visitor.into_split();
        let mut answer = [0; 12];
        let drip = async {
            let mut pace = tokio::time::interval(Duration::from_millis(50));
            // It ends when the answer is there.
            while drips && write.write_all(b".").await.is_ok() {
                pace.tick().await;
            }
            std::future::pending::<()>().await;
        };
        soon("an answer", async {
            tokio::select! {
                read = read.read_exact(&mut answer) => drop(read.unwrap()),
                () = drip => {}
            }
        })
        .await;
        assert_eq!(answer, *b"HTTP/1.1 408", "{settings:?}");
        assert_eq!(opened(&server), 0);
    }
}

/// Sends a body of `length` bytes that nobody has signed, and gives the head of the answer back: that may come, and the
/// connection end, before all of it is sent.
async fn told(server: &TestServer, length: usize) -> String {
    let socket = soon("a public port", TcpStream::connect(server.public)).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    let sent = async {
        let body = [unfinished(length).as_bytes(), &vec![b'x'; length]].concat();
        drop(write.write_all(&body).await);
        std::future::pending::<()>().await;
    };
    let mut head = Vec::new();
    let told = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(read.read_u8().await.unwrap());
        }
    };
    soon("an answer", async {
        tokio::select! {
            () = told => {}
            () = sent => {}
        }
    })
    .await;
    String::from_utf8(head).unwrap()
}

/// Waits until as many bytes are held as `wanted`.
async fn until_held(server: &TestServer, wanted: impl RangeBounds<usize>) {
    soon("as much held", async {
        while !wanted.contains(&server.held_bodies.in_use()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_are_held_within_a_budget() {
    let settings = [("limits.held_bodies", "100000")];
    let (server, mut puppet) = started(&settings, hook(WebhookScheme::Github, 1 << 20)).await;
    assert!(told(&server, 40_000).await.starts_with("HTTP/1.1 401"));
    // Each is here, or gone, before the next comes: any of them might be the one that does not fit.
    until_held(&server, 0..=0).await;
    let mut waiting = visitor::raw(server.public, &unfinished(1 << 20)).await;
    waiting.write_all(&[b'x'; 60_000]).await.unwrap();
    until_held(&server, 60_000..).await;
    let busy = told(&server, 40_000).await;
    assert!(busy.starts_with("HTTP/1.1 503"), "{busy}");
    assert!(busy.contains("x-adit-error: access_busy\r\n") && busy.contains("retry-after: 1\r\n"), "{busy}");
    let mut visitor = Visitor::connect(server.public).await;
    let_in(&mut puppet, visitor.ask(signed(GITHUB, &github(b"small"), b"small"))).await;
    drop(waiting);
    until_held(&server, 0..=0).await;
    assert!(told(&server, 40_000).await.starts_with("HTTP/1.1 401"));
    // One that is larger than the budget by itself never fits.
    until_held(&server, 0..=0).await;
    assert!(told(&server, 200_000).await.starts_with("HTTP/1.1 503"));
}

/// The head of a request for another tenant's service, and of its body all but the last bytes.
fn unfinished_for(name: &str, length: usize) -> Vec<u8> {
    let head = unfinished(length).replace("Host: alice.", &format!("Host: {name}."));
    [head.as_bytes(), &vec![b'x'; length - 10]].concat()
}

/// A connection from 127.0.`network`.`host`, which says `first` and then nothing.
async fn silent_from(server: &TestServer, (network, host): (u8, u8), first: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, network, host], 0))).unwrap();
    let mut socket = soon("a public port", socket.connect(server.public)).await.unwrap();
    // The server may refuse it before it has all of it.
    drop(socket.write_all(first).await);
    socket
}

async fn hooked(server: &TestServer, client: &str, max_body: usize) -> Puppet {
    let mut hello = puppet::hello(client, &[client]);
    hook(WebhookScheme::Github, max_body)(&mut hello.services[0].access);
    Puppet::connect(server, &hello).await
}

/// Sends a signed webhook of `size` bytes to `client`, which must arrive.
async fn delivered(server: &TestServer, (client, puppet): (&str, &mut Puppet), size: usize) {
    let body = vec![b'y'; size];
    let mut request = request(Method::POST, client, "/hook", body.clone());
    request.headers_mut().insert(GITHUB, github(&body).parse().unwrap());
    let mut visitor = Visitor::connect(server.public).await;
    let asked = let_in(puppet, visitor.ask(request)).await;
    assert_eq!(asked.body.len(), size);
}

#[tokio::test]
async fn an_uninvolved_tenant_hears_its_webhooks_while_others_are_flooded() {
    // A window of silence is longer than this test.
    let settings = [("limits.held_bodies", "1000000"), ("timeouts.idle", "1h"), ("timeouts.head", "5m")];
    let server = TestServer::start(&settings);
    let _attacked = [hooked(&server, "alice", 25 << 20).await, hooked(&server, "bob", 25 << 20).await];
    let mut carol = hooked(&server, "carol", 25 << 20).await;
    for many_addresses in [false, true] {
        let mut held = Vec::new();
        for number in 0..40_u8 {
            let name = if number % 2 == 0 { "alice" } else { "bob" };
            let from = if many_addresses { (7, number + 1) } else { (7, 1) };
            held.push(silent_from(&server, from, &unfinished_for(name, 100_000)).await);
        }
        until_held(&server, 600_000..).await;
        for size in [10, 60_000, 250_000] {
            delivered(&server, ("carol", &mut carol), size).await;
        }
        drop(held);
        until_held(&server, 0..=0).await;
    }
}

#[tokio::test]
async fn an_attacked_tenant_still_hears_another_address() {
    let settings = [("limits.held_bodies", "500000"), ("timeouts.idle", "1h"), ("timeouts.head", "5m")];
    let (server, mut puppet) = started(&settings, hook(WebhookScheme::Github, 1 << 20)).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(silent_from(&server, (7, 1), &unfinished_for("alice", 100_000)).await);
    }
    until_held(&server, 300_000..).await;
    delivered(&server, ("alice", &mut puppet), 100_000).await;
}

#[tokio::test]
async fn a_webhook_that_waits_for_its_application_makes_room_for_another_tenants() {
    let settings = [("limits.held_bodies", "1000000"), ("timeouts.idle", "1h"), ("timeouts.response_head", "1h")];
    let server = TestServer::start(&settings);
    // An attacker's own tenant, whose application takes nothing: its bodies are signed.
    let mut alice = hooked(&server, "alice", 25 << 20).await;
    let mut bob = hooked(&server, "bob", 25 << 20).await;
    let body = vec![b'x'; 900_000];
    let mut visitor = Visitor::connect(server.public).await;
    let mut sent = Box::pin(visitor.ask(signed(GITHUB, &github(&body), &body)));
    let stream = tokio::select! {
        answer = &mut sent => panic!("{answer:?}"),
        stream = soon("the request", alice.streams.recv()) => stream.unwrap(),
    };
    delivered(&server, ("bob", &mut bob), 450_000).await;
    assert_eq!(refused(&soon("an answer", sent).await), (503, "access_busy"));
    drop(stream);
    until_held(&server, 0..=0).await;
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_sender_that_falls_silent_is_given_up_long_before_its_deadline() {
    let (server, _puppet) = started(&[("timeouts.head", "10m")], hook(WebhookScheme::Github, 25 << 20)).await;
    for first in [unfinished_for("alice", 1 << 20), unfinished(25 << 20).into_bytes()] {
        let mut socket = silent_from(&server, (7, 1), &first).await;
        let answer = visitor::read_until(&mut socket, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    until_held(&server, 0..=0).await;
}
