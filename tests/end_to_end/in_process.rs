//! Services of the agent's own process, served through a tunnel without a local port.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adit::sdk::{Error, Tunnel};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{any, get, post};
use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::harness::visitor::{self, Http2Visitor, Visitor, fetch, read_until, request};
use crate::harness::{PATIENCE, TestServer, soon, spawn, token, until_idle};

async fn serve(server: &TestServer, router: Router) -> Tunnel {
    let token = token("alice").as_secret().expose();
    let tunnel = Tunnel::connect(server.tunnel.to_string(), "alice", token).fingerprint(server.fingerprint.to_string());
    soon("a connected tunnel", tunnel.serve(router)).await.unwrap()
}

/// A body whose frames the test sends.
fn channel() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, Body) {
    let (sender, mut receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let frames = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|frame| frame.map(|piece| piece.map(Frame::data)))
    });
    (sender, Body::new(StreamBody::new(frames)))
}

async fn echo(request: Request) -> Response {
    Response::new(Body::new(request.into_body()))
}

#[tokio::test]
async fn a_router_answers_visitors() {
    let server = TestServer::start(&[]);
    let router = Router::new().route("/", get(async || "hello")).route("/echo", post(echo));
    let tunnel = serve(&server, router).await;
    assert!(tunnel.urls().iter().any(|url| url.contains("alice.localhost")), "{:?}", tunnel.urls());
    let mut visitor = Visitor::connect(server.public).await;

    let answer = visitor.ask(visitor::get("alice", "/")).await;
    assert_eq!((answer.status, answer.text(), answer.header("content-length")), (StatusCode::OK, "hello", "5"));
    let answer = visitor.ask(request(Method::HEAD, "alice", "/", "")).await;
    assert_eq!((answer.status, answer.text(), answer.header("content-length")), (StatusCode::OK, "", "5"));
    let answer = visitor.ask(request(Method::POST, "alice", "/echo", "body")).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "body"));
    assert_eq!(visitor.ask(visitor::get("alice", "/none")).await.status, StatusCode::NOT_FOUND);
    // The handler does not read the body.
    let answer = visitor.ask(request(Method::POST, "alice", "/", vec![b'x'; 300_000])).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    until_idle(&server.open, PATIENCE).await;
    soon("the end of the tunnel", tunnel.shutdown()).await.unwrap();
}

#[tokio::test]
async fn the_request_says_who_asks_and_for_what() {
    let server = TestServer::start(&[]);
    let show = async |request: Request| {
        let field = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        format!("{} {} {}", request.uri(), field("host"), field("x-forwarded-for"))
    };
    let _tunnel = serve(&server, Router::new().fallback(show)).await;
    let answer = fetch(server.public, "alice", "/a//b?q=1").await;
    assert_eq!(answer.text(), "/a//b?q=1 alice.localhost 127.0.0.1");
}

/// Each piece is answered before the next one is sent.
#[tokio::test]
async fn bodies_stream_both_ways() {
    let server = TestServer::start(&[]);
    let _tunnel = serve(&server, Router::new().route("/", post(echo))).await;
    let visitor = Http2Visitor::connect(server.public).await;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|frame| frame.map(|data| Ok::<_, Infallible>(Frame::data(data))))
    });
    let request = http::Request::post("http://alice.localhost/").body(StreamBody::new(frames).boxed()).unwrap();
    sender.send(Bytes::from_static(b"first")).await.unwrap();
    let mut body = visitor.begin(request).await.unwrap().into_body();
    for (piece, next) in [("first", Some("second")), ("second", Some("third")), ("third", None)] {
        let frame = soon("the echo", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
        if let Some(next) = next {
            sender.send(next.into()).await.unwrap();
        }
    }
    drop(sender);
    let rest = soon("the end", body.collect()).await.expect("a complete body").to_bytes();
    assert!(rest.is_empty(), "{rest:?}");
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_visitor_that_waits_to_be_asked_for_its_body_is_asked() {
    let server = TestServer::start(&[]);
    let _tunnel = serve(&server, Router::new().route("/", post(async |body: String| body))).await;
    let head = "POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let mut visitor = visitor::raw(server.public, head).await;
    assert!(read_until(&mut visitor, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    visitor.write_all(b"body").await.unwrap();
    assert!(read_until(&mut visitor, "body").await.starts_with("HTTP/1.1 200"));
}

/// The handler is polled only as fast as the visitor reads.
#[tokio::test]
async fn a_large_body_waits_for_its_visitor() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 1_000;
    let server = TestServer::start(&[]);
    let made = Arc::new(AtomicUsize::new(0));
    let handler = {
        let made = Arc::clone(&made);
        move || {
            let made = Arc::clone(&made);
            let frames = futures_util::stream::poll_fn(move |_| {
                let next = made.fetch_add(1, Ordering::SeqCst);
                let frame = (next < PIECES).then(|| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; PIECE]))));
                std::task::Poll::Ready(frame)
            });
            async move { Response::new(Body::new(StreamBody::new(frames))) }
        }
    };
    let _tunnel = serve(&server, Router::new().route("/", get(handler))).await;
    let mut visitor = Visitor::connect(server.public).await;
    let response = visitor.begin(visitor::get("alice", "/")).await.unwrap();
    let (mut before, mut now) = (0, 1);
    while before != now {
        tokio::time::sleep(Duration::from_millis(300)).await;
        (before, now) = (now, made.load(Ordering::SeqCst));
    }
    assert!(now < PIECES / 2, "{now} pieces were made for a visitor that reads nothing");
    let body = soon("the whole body", response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body.len(), PIECE * PIECES);
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_body_that_fails_is_incomplete_for_the_visitor() {
    let server = TestServer::start(&[]);
    let router = Router::new()
        .route(
            "/error",
            get(async || {
                let (sender, body) = channel();
                spawn(async move {
                    sender.send(Ok("begun".into())).await.unwrap();
                    sender.send(Err(std::io::Error::other("no more"))).await.unwrap();
                });
                Response::new(body)
            }),
        )
        .route(
            "/short",
            get(async || {
                let (sender, body) = channel();
                spawn(async move { sender.send(Ok("begun".into())).await });
                Response::builder().header("content-length", "10").body(body).unwrap()
            }),
        )
        .route(
            "/panic",
            get(async || {
                let mut begun = false;
                let frames = futures_util::stream::poll_fn(move |_| {
                    assert!(!std::mem::replace(&mut begun, true), "a body panics");
                    std::task::Poll::Ready(Some(Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"begun")))))
                });
                Response::new(Body::new(StreamBody::new(frames)))
            }),
        );
    let _tunnel = serve(&server, router).await;
    for path in ["/error", "/short", "/panic"] {
        let mut visitor = Visitor::connect(server.public).await;
        let response = visitor.begin(visitor::get("alice", path)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let mut body = response.into_body();
        assert_eq!(soon("data", body.frame()).await.unwrap().unwrap().into_data().unwrap(), "begun", "{path}");
        assert!(soon("an error", body.frame()).await.unwrap().is_err(), "{path} looks complete");
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_panic_ends_one_request() {
    let server = TestServer::start(&[]);
    async fn panics() -> &'static str {
        panic!("a handler panics")
    }
    let router = Router::new().route("/", get(async || "fine")).route("/panic", get(panics));
    let tunnel = serve(&server, router).await;
    for _ in 0..2 {
        assert_eq!(fetch(server.public, "alice", "/panic").await.status, StatusCode::BAD_GATEWAY);
        assert_eq!(fetch(server.public, "alice", "/").await.text(), "fine");
    }
    until_idle(&server.open, PATIENCE).await;
    soon("the end of the tunnel", tunnel.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_visitor_that_leaves_cancels_the_handler() {
    struct Dropped(mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let server = TestServer::start(&[]);
    let (began, mut begun) = mpsc::unbounded_channel();
    let (dropped, mut was_dropped) = mpsc::unbounded_channel();
    let handler = move || {
        let (began, dropped) = (began.clone(), Dropped(dropped.clone()));
        async move {
            let _dropped = dropped;
            began.send(()).unwrap();
            std::future::pending::<&'static str>().await
        }
    };
    let _tunnel = serve(&server, Router::new().route("/", any(handler))).await;
    for body in ["", "a body that nobody reads"] {
        let length = body.len();
        let head = format!("POST / HTTP/1.1\r\nHost: alice.localhost\r\nContent-Length: {length}\r\n\r\n{body}");
        let visitor = visitor::raw(server.public, &head).await;
        soon("the request", begun.recv()).await.unwrap();
        drop(visitor);
        soon("the end of the handler", was_dropped.recv()).await.unwrap();
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_handler_upgrades_the_connection() {
    let server = TestServer::start(&[]);
    let upgrade = async |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        spawn(async move {
            let mut connection = TokioIo::new(upgrade.await.unwrap());
            let mut piece = [0; 4];
            connection.read_exact(&mut piece).await.unwrap();
            connection.write_all(&piece).await.unwrap();
            assert_eq!(connection.read(&mut piece).await.unwrap(), 0);
            connection.write_all(b"bye").await.unwrap();
            connection.shutdown().await.unwrap();
        });
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        response.header("connection", "upgrade").header("upgrade", "echo/1").body(Body::empty()).unwrap()
    };
    let decline = async || (StatusCode::UPGRADE_REQUIRED, "no");
    let _tunnel = serve(&server, Router::new().route("/chat", get(upgrade)).route("/", get(decline))).await;
    let head = |path| {
        format!("GET {path} HTTP/1.1\r\nHost: alice.localhost\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n")
    };

    let mut visitor = visitor::raw(server.public, &head("/chat")).await;
    let answer = read_until(&mut visitor, "\r\n\r\n").await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101") && answer.contains("upgrade: echo/1\r\n"), "{answer}");
    visitor.write_all(b"ping").await.unwrap();
    read_until(&mut visitor, "ping").await;
    visitor.shutdown().await.unwrap();
    assert_eq!(visitor::read_to_end(&mut visitor).await.unwrap(), b"bye");

    let mut visitor = visitor::raw(server.public, &head("/")).await;
    assert!(read_until(&mut visitor, "no").await.starts_with("HTTP/1.1 426"));
    drop(visitor);
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_shutdown_finishes_open_requests() {
    let server = TestServer::start(&[]);
    let (release, released) = tokio::sync::watch::channel(false);
    let (began, mut begun) = mpsc::unbounded_channel();
    let handler = move || {
        let (mut released, began) = (released.clone(), began.clone());
        async move {
            began.send(()).unwrap();
            released.wait_for(|released| *released).await.unwrap();
            "finished"
        }
    };
    let tunnel = serve(&server, Router::new().route("/", get(handler))).await;
    let public = server.public;
    let asking = spawn(async move { fetch(public, "alice", "/").await });
    soon("the request", begun.recv()).await.unwrap();
    let stopping = spawn(tunnel.shutdown());
    tokio::time::sleep(Duration::from_millis(100)).await;
    release.send(true).unwrap();
    assert_eq!(soon("the response", asking).await.unwrap().text(), "finished");
    soon("the end of the tunnel", stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_tunnel_that_cannot_be_says_why() {
    let server = TestServer::start(&[]);
    let connect = |token: &str| {
        let tunnel = Tunnel::connect(server.tunnel.to_string(), "alice", token);
        tunnel.fingerprint(server.fingerprint.to_string())
    };
    let refused = soon("a refusal", connect("adit_wrong").serve(Router::new())).await.unwrap_err();
    assert!(matches!(refused, Error::GivenUp(_)), "{refused}");
    let invalid = connect("x").name("not a name").serve(Router::new()).await.unwrap_err();
    assert!(matches!(invalid, Error::Setting { setting: "the name", .. }), "{invalid}");
}
