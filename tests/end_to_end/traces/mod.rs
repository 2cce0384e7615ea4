//! Spans of requests: whose children they are, what they say, and that nobody waits for the collector.

mod collector;

use std::time::{Duration, Instant};

use adit::server::Drained;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;

use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Answer, Http2Visitor, Visitor, fetch, get, http2_request, request};
use crate::harness::{PATIENCE, TestAgent, TestServer, until_idle};
use collector::{Collector, Span};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// How long a server that has nothing else to do takes at most to stop, with the time that its last spans have.
const STOPS: Duration = Duration::from_secs(8);

/// A server that exports to `collector`, with an agent in front of an application that says what it was asked.
struct Traced {
    collector: Collector,
    server: TestServer,
    _agent: TestAgent,
}

impl Traced {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let collector = Collector::start().await;
        let url = collector.url();
        let mut all = vec![("traces.endpoint", url.as_str())];
        all.extend(settings);
        let server = TestServer::start(&all);
        let agent = TestAgent::connect(&server, "alice", &[("alice", apps::echo().await)]).await;
        Self { collector, server, _agent: agent }
    }

    async fn ask(&self, fields: &[(&'static str, &'static str)]) -> Answer {
        Visitor::connect(self.server.public).await.ask(with(get("alice", "/"), fields)).await
    }

    /// Stops the server; then everything has come that comes.
    async fn spans(mut self) -> Vec<Span> {
        until_idle(&self.server.open, PATIENCE).await;
        let stopped = tokio::time::timeout(STOPS, self.server.stop()).await;
        assert_eq!(stopped.expect("the server does not stop"), Drained { requests_cut: 0 });
        self.collector.spans()
    }
}

fn with(mut request: Request<Full<Bytes>>, fields: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn parent(flags: &str) -> &'static str {
    format!("00-{TRACE}-{PARENT}-{flags}").leak()
}

/// What the application was told under this name, each time.
fn told<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.text().lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

/// Trace, span and flags that the application was told.
fn told_parent(answer: &Answer) -> (String, String, String) {
    let told = told(answer, "traceparent");
    assert_eq!(told.len(), 1, "{}", answer.text());
    let parts: Vec<String> = told[0].split('-').map(str::to_owned).collect();
    assert_eq!((parts.len(), parts[0].as_str()), (4, "00"), "{told:?}");
    (parts[1].clone(), parts[2].clone(), parts[3].clone())
}

#[tokio::test]
async fn a_span_is_between_the_visitors_and_the_applications() {
    let traced = Traced::start(&[]).await;
    let fields = [
        ("traceparent", parent("01")),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("authorization", "Bearer hunter2"),
        ("cookie", "hunter2"),
    ];
    let asked = with(request(Method::POST, "alice", "/some/path?key=hunter2", "hunter2"), &fields);
    let answer = Visitor::connect(traced.server.public).await.ask(asked).await;
    let (trace, id, flags) = told_parent(&answer);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    assert_ne!(id, PARENT);
    assert_eq!(told(&answer, "tracestate"), ["a=1", "b=2"]);
    let request_id = told(&answer, "x-request-id")[0].to_owned();

    let mut traced = traced;
    until_idle(&traced.server.open, PATIENCE).await;
    traced.server.stop().await;
    let raw = traced.collector.raw();
    assert!(!raw.windows(7).any(|part| part == b"hunter2"), "a secret is in a span");
    let spans = collector::spans_of(&raw);
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((span.trace.as_str(), span.parent.as_str(), &span.id), (TRACE, PARENT, &id));
    assert_eq!((span.name.as_str(), span.kind, span.status, span.state.as_str()), ("POST", 2, 0, "a=1,b=2"));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.path", "/some/path"),
        ("url.scheme", "http"),
        ("server.address", "alice.localhost"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("adit.client", "alice"),
        ("adit.service", "alice"),
        ("adit.outcome", "ok"),
        ("adit.request_id", &request_id),
        ("error.type", ""),
    ] {
        assert_eq!(span.get(key), value, "{key}");
    }
    assert_eq!(span.events, ["adit.answer_began"]);
    let local: u64 = span.get("adit.local_us").parse().unwrap();
    assert!(local > 0 && u128::from(local) * 1000 < u128::from(span.end - span.begin), "{local} {span:?}");
    assert!(span.begin > 0 && span.begin < span.end, "{span:?}");
    assert_eq!(span.resource["service.name"], "adit");
    assert_eq!(span.resource["service.version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_trace_begins_here_if_the_visitor_has_begun_none() {
    let traced = Traced::start(&[]).await;
    let mut began = Vec::new();
    for fields in [
        &[][..],
        &[("tracestate", "a=1")],
        &[("traceparent", "00-xyz"), ("tracestate", "a=1")],
        &[("traceparent", parent("01")), ("traceparent", parent("00"))],
    ] {
        let answer = traced.ask(fields).await;
        let (trace, id, flags) = told_parent(&answer);
        assert!(trace != TRACE && flags == "01", "{}", answer.text());
        assert!(told(&answer, "tracestate").is_empty(), "{}", answer.text());
        began.push((trace, id, String::new()));
    }
    let http2 = Http2Visitor::connect(traced.server.public).await;
    let (answer, _) = http2.ask(http2_request(Method::from_bytes(b"BREW").unwrap(), "alice", "/", "")).await;
    let (trace, id, _) = told_parent(&answer);
    began.push((trace, id, String::new()));
    drop(http2);
    let spans = traced.spans().await;
    let other = spans.iter().find(|span| span.id == began[4].1).unwrap();
    let mut made: Vec<_> =
        spans.iter().map(|span| (span.trace.clone(), span.id.clone(), span.parent.clone())).collect();
    made.sort();
    began.sort();
    assert_eq!(made, began);
    assert_eq!((other.name.as_str(), other.get("network.protocol.version")), ("HTTP", "2"));
    assert_eq!((other.get("http.request.method"), other.get("http.request.method_original")), ("_OTHER", "BREW"));
}

#[tokio::test]
async fn what_a_visitor_does_not_sample_is_not_sampled_but_continued() {
    let traced = Traced::start(&[]).await;
    let answer = traced.ask(&[("traceparent", parent("00")), ("tracestate", "a=1")]).await;
    let (trace, id, flags) = told_parent(&answer);
    assert_eq!((trace.as_str(), flags.as_str(), told(&answer, "tracestate")), (TRACE, "00", vec!["a=1"]));
    assert_ne!(id, PARENT);
    assert_eq!(traced.spans().await.len(), 0);
}

#[tokio::test]
async fn of_new_traces_only_the_wanted_part_is_sampled() {
    let traced = Traced::start(&[("traces.sample", "0")]).await;
    let (_, _, flags) = told_parent(&traced.ask(&[]).await);
    assert_eq!(flags, "00");
    let (trace, id, flags) = told_parent(&traced.ask(&[("traceparent", parent("01"))]).await);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    let spans = traced.spans().await;
    assert_eq!(spans.iter().map(|span| span.id.as_str()).collect::<Vec<_>>(), [&id]);
}

#[tokio::test]
async fn what_fails_says_why() {
    let mut traced = Traced::start(&[]).await;
    let server = &traced.server;
    let agent = TestAgent::connect(server, "bob", &[("bob", apps::nothing().await)]).await;
    assert_eq!(fetch(server.public, "bob", "/").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(fetch(server.public, "nobody", "/").await.status, StatusCode::NOT_FOUND);
    let health = Request::get("/health").header("host", "localhost").body(Full::default()).unwrap();
    assert_eq!(Visitor::connect(server.public).await.ask(health).await.status, StatusCode::OK);
    agent.stop().await.unwrap();
    let mut app = Script::start().await;
    let _carol = TestAgent::connect(server, "carol", &[("carol", app.address)]).await;
    let visitor = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: carol.localhost\r\n\r\n").await;
    let (_local, _) = app.request().await;
    drop(visitor);
    until_idle(&server.open, PATIENCE).await;
    traced.server.stop().await;

    let spans = traced.collector.spans();
    let said = |span: &Span| {
        let [code, outcome, error] =
            ["http.response.status_code", "adit.outcome", "error.type"].map(|key| span.get(key));
        format!("{} {code} {outcome} {error} {} {}", span.get("adit.service"), span.status, span.events.len())
    };
    let mut said: Vec<_> = spans.iter().map(said).collect();
    said.sort();
    let expected = [
        " 200 own  0 0",
        " 404 unknown_name unknown_name 0 0",
        "bob 502 local_unreachable local_unreachable 2 0",
        "carol  cut  0 0",
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn nobody_waits_for_a_collector_that_is_away() {
    let away = format!("http://{}", apps::nothing().await);
    let server = TestServer::start(&[("traces.endpoint", &away)]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "here");
    let stopped = tokio::time::timeout(STOPS, server.stop()).await;
    assert_eq!(stopped.expect("the server does not stop").requests_cut, 0);
}

#[tokio::test]
async fn nobody_waits_for_a_collector_that_does_not_answer() {
    let mut collector = Script::start().await;
    let server = TestServer::start(&[("traces.endpoint", &format!("http://{}", collector.address))]);
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    // More than the queue takes, and a batch that is under way.
    let began = Instant::now();
    let mut under_way = None;
    for asked in 0..3_000 {
        assert_eq!(visitor.ask(get("alice", "/")).await.text(), "here");
        if asked == 600 {
            under_way = Some(collector.request().await);
        }
    }
    assert!(began.elapsed() < PATIENCE, "the visitor was slowed: {:?}", began.elapsed());
    let (_socket, head) = under_way.unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    drop(visitor);
    let stopped = tokio::time::timeout(STOPS, server.stop()).await;
    assert_eq!(stopped.expect("the server does not stop").requests_cut, 0);
}

#[tokio::test]
async fn what_a_visitor_chooses_is_bounded() {
    let traced = Traced::start(&[]).await;
    let path = format!("/{}", "x".repeat(5_000));
    let mut asked = get("alice", &path);
    asked.headers_mut().insert("host", format!("{}.localhost", "y".repeat(2_000)).parse().unwrap());
    let mut visitor = Visitor::connect(traced.server.public).await;
    assert_eq!(visitor.ask(asked).await.status, StatusCode::NOT_FOUND);
    assert_eq!(visitor.ask(get("alice", &path)).await.status, StatusCode::OK);
    drop(visitor);
    let spans = traced.spans().await;
    assert_eq!(spans.iter().map(|span| span.get("url.path")).collect::<Vec<_>>(), [&path[..1024]; 2]);
    assert_eq!(spans[0].get("server.address"), "y".repeat(1024));
}
