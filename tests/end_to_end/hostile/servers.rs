//! A server that means harm to an agent: it reaches what the agent's configuration names, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use adit::protocol::decode::Event;
use adit::protocol::exchange::{RequestHead, Scheme};
use adit::protocol::frame::Status;
use adit::protocol::login::ServiceKind;
use adit::protocol::preface::Preface;
use adit::values::RequestId;
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version};
use http_body_util::Full;

use crate::harness::stand_in::{Lane, StandIn};
use crate::harness::{TestAgent, apps, name, soon, spawn};

/// The agent of `services`, and its lane.
async fn connected(services: &[(&str, std::net::SocketAddr)]) -> (StandIn, TestAgent, Lane) {
    let server = StandIn::start().await;
    let mut agent = TestAgent::start_at(&[server.address], server.fingerprint, "alice", services);
    let lane = server.login().await.welcome().await;
    agent.connected().await;
    (server, agent, lane)
}

/// An application that counts who connects to it.
async fn counted() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, count)
}

fn preface(service: &str, kind: ServiceKind) -> BytesMut {
    let address = "192.0.2.1:80".parse().unwrap();
    let mut out = BytesMut::new();
    let request_id = RequestId(1);
    Preface { service: name(service), visitor: address, server: address, kind, request_id }.put(&mut out).unwrap();
    out
}

/// What becomes of a request: the body of the answer, or `None` for none.
async fn asked(lane: &Lane, first: &[u8]) -> Option<String> {
    let stream = lane.open(first).await;
    let decoder = adit::protocol::decode::Decoder::response(adit::protocol::frame::MAX_HEAD);
    let mut reader = adit::link::framed::FrameReader::new(stream, decoder);
    let mut body = Vec::new();
    loop {
        match soon("an answer", reader.event()).await {
            Ok(Event::Status(Status::Accepted) | Event::Response(_) | Event::Informational(_) | Event::Trailers(_)) => {
            }
            Ok(Event::Data(data)) => body.extend_from_slice(&data),
            Ok(Event::End) => return Some(String::from_utf8(body).unwrap()),
            Ok(_) | Err(_) => return None,
        }
    }
}

#[tokio::test]
async fn no_request_leads_anywhere_but_to_the_configured_address() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let own = apps::with(move |request| {
        record.lock().unwrap().push(request.uri().to_string());
        async move { Response::new(Full::new(Bytes::from_static(b"own"))) }
    })
    .await;
    let (other, others) = counted().await;
    let (_server, agent, lane) = connected(&[("alice", own)]).await;
    let targets = [
        format!("http://{other}/"),
        format!("//{other}/"),
        format!("@{other}/"),
        format!("/@{other}/"),
        format!("http://alice@{other}/"),
        format!("/../../{other}"),
        format!("/http://{other}/"),
        format!("/%2e%2e/http:%2f%2f{other}/"),
        format!("{other}"),
        format!(":{}", other.port()),
        format!(":{}/", other.port()),
        format!("\\\\{other}\\"),
        "*".to_owned(),
        String::new(),
        "file:///etc/passwd".to_owned(),
        "unix:/run/x.sock".to_owned(),
        format!("/ HTTP/1.1\r\nHost: {other}\r\n\r\nGET /second"),
        "/\r\nX-Injected: 1".to_owned(),
        "/\0".to_owned(),
        "/ space".to_owned(),
        "/#fragment".to_owned(),
        "/fine".to_owned(),
    ];
    let authorities =
        [Some("alice.localhost".to_owned()), Some(other.to_string()), Some(format!("alice@{other}")), None];
    let methods = [Method::GET, Method::OPTIONS, Method::CONNECT, Method::from_bytes(b"PROPFIND").unwrap()];
    let mut requests = Vec::new();
    for target in &targets {
        for authority in &authorities {
            for method in &methods {
                for protocol in [None, Some(Bytes::from_static(b"websocket"))] {
                    let mut headers = HeaderMap::new();
                    for field in ["x-forwarded-host", "x-original-url", "x-rewrite-url", "forwarded", "upgrade"] {
                        let value = HeaderValue::from_str(&format!("http://{other}/")).unwrap();
                        headers.insert(HeaderName::from_static(field), value);
                    }
                    let mut first = preface("alice", ServiceKind::Http);
                    let head = RequestHead {
                        method: method.clone(),
                        scheme: Scheme::Https,
                        authority: authority.clone().map(Bytes::from),
                        target: Bytes::from(target.clone()),
                        protocol,
                        version: Version::HTTP_11,
                        headers,
                        has_body: false,
                    };
                    head.put(&mut first).unwrap();
                    adit::protocol::frame::put_end(&mut first);
                    requests.push(first);
                }
            }
        }
    }
    let (mut answered, mut refused) = (0, 0);
    // Some together, as many as may be open at once.
    for some in requests.chunks(100) {
        for body in join_all(some.iter().map(|first| asked(&lane, first))).await {
            *(if body.is_some() { &mut answered } else { &mut refused }) += 1;
        }
    }
    assert_eq!(others.load(Ordering::SeqCst), 0, "another address was dialled");
    let seen = seen.lock().unwrap().clone();
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
    assert!(seen.iter().any(|target| target == "/fine"));
    assert!(!seen.iter().any(|target| target.contains("second")), "{seen:?}");
    assert_eq!(lane.ask("alice", "/fine").await.body().await, "own", "and the agent is as it was");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_service_that_was_not_offered_is_not_served_nor_as_another_kind() {
    let (own, connections) = counted().await;
    let (_server, _agent, lane) = connected(&[("alice", own)]).await;
    for (service, kind) in [
        ("bob", ServiceKind::Http),
        ("bob", ServiceKind::Tcp),
        ("alice", ServiceKind::Tcp),
        ("alice", ServiceKind::Tls),
    ] {
        let mut first = preface(service, kind);
        first.extend_from_slice(&adit::protocol::frame::data_header(5));
        first.extend_from_slice(b"hello");
        let stream = lane.open(&first).await;
        let decoder = adit::protocol::decode::Decoder::response(1000);
        let mut reader = adit::link::framed::FrameReader::new(stream, decoder);
        assert_eq!(soon("a status", reader.event()).await, Ok(Event::Status(Status::UnknownService)));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn garbage_on_a_stream_is_the_end_of_that_stream() {
    let (_server, _agent, lane) = connected(&[("alice", apps::fixed("own").await)]).await;
    let good = preface("alice", ServiceKind::Http).to_vec();
    let cases: Vec<Vec<u8>> = vec![
        vec![0xa5; 10_000],
        vec![0; 100],
        vec![1, 0xff, 0xff, 0xff],
        good[..good.len() - 1].iter().copied().chain([0xff; 100]).collect(),
        [good.clone(), vec![4, 0, 0, 1, 0]].concat(),
        [good.clone(), vec![2, 0xff, 0xff, 0xff]].concat(),
        [good.clone(), good.clone()].concat(),
        [good.clone(), vec![6, 0, 0, 0]].concat(),
        [good, vec![2, 0, 0, 3, 0xff, 0xff, 0xff]].concat(),
    ];
    for bytes in cases {
        assert_eq!(asked(&lane, &bytes).await, None, "{bytes:?}");
    }
    assert_eq!(lane.ask("alice", "/").await.body().await, "own");
}

#[tokio::test]
async fn a_server_that_opens_streams_without_end_ends_its_session_and_the_agent_comes_back() {
    let waiting = apps::Script::start().await;
    let services = [("alice", waiting.address), ("blog", apps::fixed("own").await)];
    let (server, mut agent, lane) = connected(&services).await;
    let mut first = preface("alice", ServiceKind::Http);
    let head = RequestHead {
        method: Method::POST,
        scheme: Scheme::Http,
        authority: None,
        target: Bytes::from_static(b"/wait"),
        protocol: None,
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        has_body: true,
    };
    head.put(&mut first).unwrap();
    // It was agreed that 100 are open at once.
    let mut open = Vec::new();
    while let Some(stream) = lane.try_open(&first).await {
        open.push(stream);
        assert!(open.len() < 1000, "there is no end to it");
    }
    assert!(open.len() > 100);
    let lane = server.login().await.welcome().await;
    agent.connected().await;
    assert_eq!(lane.ask("blog", "/").await.body().await, "own");
    drop((open, waiting));
}
