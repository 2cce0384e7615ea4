use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Request, StatusCode};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::auth::LaneSecret;
use crate::limits::{Permits, VisitorRate};
use crate::link::carriers::mux;
use crate::link::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH};
use crate::protocol::login::ServiceKind;
use crate::server::directory::authenticated::Authenticated;
use crate::server::directory::tunnel::{Lane, Tunnel};
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::observe::exchange::{Exchange, HeldPermits};
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::observe::record::{ExchangeRecord, MAX_HOST, Outcome, RequestSummary, loggable_host};
use crate::server::ingress::observe::{Observer, Observers};
use crate::server::metrics::{Meter, Metrics};
use crate::telemetry::RequestSpan;
use crate::values::{InstanceId, LaneId, RequestId, TunnelId};

/// An observer that keeps the outcome of each exchange.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<(u64, Outcome, u16, bool)>>);

impl Observer for Recorder {
    fn ended(&self, record: &mut ExchangeRecord) {
        let end = &record.end;
        self.0.lock().push((record.request_id.0, end.outcome.clone(), end.status, end.was_forwarded));
    }
}

/// Counts what is in use at the very moment when nothing counts as open any more.
struct AtTheEnd {
    tunnel: Arc<Tunnel>,
    lane: Arc<Lane>,
    server: Permits,
    seen: Mutex<Vec<[usize; 3]>>,
}

impl Wake for AtTheEnd {
    fn wake(self: Arc<Self>) {
        let now = [self.tunnel.streams(), self.lane.streams(), self.server.in_use()];
        self.seen.lock().push(now);
    }
}

fn observers() -> Arc<Observers> {
    Arc::new(Observers::new(Arc::new(Metrics::default())))
}

fn connection_record(id: u64) -> ExchangeRecord {
    ExchangeRecord::of_connection(RequestId(id), [192, 0, 2, 1].into(), ServiceKind::Tcp, Meter::for_tests())
}

/// Handles one request with `handle`, and returns what was observed.
fn observed(handle: impl FnOnce(&mut Exchange<'_>, &Request<()>)) -> (Outcome, u16, bool) {
    let observers = observers();
    let request = Request::get("/path?query").header(HOST, "blog.example.com").body(()).unwrap();
    let visitor = [192, 0, 2, 1].into();
    let record = ExchangeRecord::of_request(RequestId(1), visitor, &request, RequestSpan::none(), false);
    let mut exchange = Exchange::open(&observers, record);
    handle(&mut exchange, &request);
    drop(exchange);
    only_one(&observers)
}

/// Returns the only exchange that was observed.
fn only_one(observers: &Observers) -> (Outcome, u16, bool) {
    assert!(observers.live.ids(|_| true).is_empty(), "no exchange is in flight any more");
    let seen = std::mem::take(&mut *observers.recorder.0.lock());
    let [(1, outcome, status, was_forwarded)] = &seen[..] else { panic!("observed {seen:?}") };
    (outcome.clone(), *status, *was_forwarded)
}

/// Forwards an exchange and checks that it is in flight and not yet observed.
fn forward(exchange: &mut Exchange<'_>, observers: Option<&Observers>) -> Arc<ForwardedExchange> {
    let exchanges = TaskTracker::new();
    let permits = HeldPermits {
        server: Permits::new(1).try_acquire().unwrap(),
        address: None,
        in_flight: None,
        open: exchanges.token(),
    };
    exchange.set_service(&Meter::for_tests());
    let summary = || RequestSummary::of(&Request::get("/path").body(()).unwrap(), false);
    let forwarded = exchange.forward(permits, summary).unwrap();
    if let Some(observers) = observers {
        assert_eq!(observers.live.ids(|_| true), [RequestId(1)]);
        assert!(observers.recorder.0.lock().is_empty(), "an exchange in flight was observed already");
    }
    forwarded
}

#[test]
fn each_way_out_of_a_request_is_observed_once() {
    let rate = VisitorRate::new(NonZeroU32::MIN, NonZeroU32::MIN, 64, 10);
    assert!(rate.check([192, 0, 2, 1].into()).is_ok() && rate.check([192, 0, 2, 1].into()).is_ok());
    let limited = Failure::RateLimited(rate.check([192, 0, 2, 1].into()).unwrap_err());
    let (ok, failed) = (200, |failure: &Failure| failure.status().as_u16());

    let own = observed(|exchange, request| exchange.own_page(ok, 20, request));
    assert_eq!(own, (Outcome::OwnPage, ok, false));
    let refused = observed(|exchange, request| exchange.failed(Failure::UnknownName, 300, request));
    assert_eq!(refused, (Outcome::Failed(Failure::UnknownName), 404, false));
    let rate_limited = observed(|exchange, request| exchange.failed(limited.clone(), 300, request));
    assert_eq!(rate_limited, (Outcome::Failed(limited.clone()), 429, false));
    let abandoned = observed(|_, _| {});
    assert_eq!(abandoned, (Outcome::Abandoned, 0, false));

    let complete = observed(|exchange, _| {
        let forwarded = forward(exchange, None);
        forwarded.response_began(StatusCode::OK, None);
        forwarded.complete();
    });
    assert_eq!(complete, (Outcome::Complete, ok, true));
    let left = observed(|exchange, _| forward(exchange, None).response_began(StatusCode::OK, None));
    assert_eq!(left, (Outcome::Cut, ok, true));
    let failed_page = observed(|exchange, request| {
        let forwarded = forward(exchange, None);
        forwarded.fail(Failure::TunnelLost);
        forwarded.set_status(Failure::TunnelLost.status());
        exchange.forwarding_failed(forwarded);
        exchange.failed(Failure::TunnelLost, 300, request);
    });
    assert_eq!(failed_page, (Outcome::Failed(Failure::TunnelLost), failed(&Failure::TunnelLost), true));
    let by_operator = observed(|exchange, _| {
        let forwarded = forward(exchange, None);
        forwarded.response_began(StatusCode::OK, None);
        forwarded.cut();
    });
    assert_eq!(by_operator, (Outcome::Failed(Failure::CutByOperator), ok, true));
    let upgraded = observed(|exchange, _| {
        let forwarded = forward(exchange, None);
        forwarded.response_began(StatusCode::SWITCHING_PROTOCOLS, None);
        forwarded.complete();
    });
    assert_eq!(upgraded, (Outcome::Complete, 101, true));
}

#[test]
fn each_way_out_of_a_raw_connection_is_observed_once() {
    let observers = observers();
    let mut exchange = Exchange::open(&observers, connection_record(1));
    exchange.connection_failed(Failure::Forbidden);
    drop(exchange);
    assert_eq!(only_one(&observers), (Outcome::Failed(Failure::Forbidden), 0, false));

    let mut exchange = Exchange::open(&observers, connection_record(1));
    let forwarded = forward(&mut exchange, Some(&observers));
    drop(exchange);
    assert!(observers.recorder.0.lock().is_empty(), "it ends with its connection");
    forwarded.complete();
    drop(forwarded);
    assert_eq!(only_one(&observers), (Outcome::Complete, 0, true));

    let mut exchange = Exchange::open(&observers, connection_record(1));
    let forwarded = forward(&mut exchange, Some(&observers));
    forwarded.fail(Failure::TunnelLost);
    drop(forwarded);
    exchange.connection_failed(Failure::TunnelLost);
    drop(exchange);
    assert_eq!(only_one(&observers), (Outcome::Failed(Failure::TunnelLost), 0, true));
}

#[tokio::test]
async fn whoever_hears_that_nothing_is_open_finds_nothing_in_use() {
    let (pipe, _far) = tokio::io::duplex(1024);
    let config = MuxConfig { max_streams: 10, yield_first: false, window_growth: WINDOW_GROWTH };
    let (session, _driver) = mux::session(Box::new(pipe), Side::Server, config);
    let (lane, _notices) = Lane::new(LaneId::next(), session, 10, 1000);
    let login = Authenticated::for_tests("alice", InstanceId::random().unwrap(), &["alice"]);
    let tunnel = Arc::new(Tunnel::new(TunnelId::random().unwrap(), login, LaneSecret::random().unwrap(), 10));
    tunnel.activate(&lane, 1);

    let (exchanges, server) = (TaskTracker::new(), Permits::new(10));
    exchanges.close();
    let record = connection_record(1);
    let observers = observers();
    let mut exchange = Exchange::open(&observers, record);
    let permits =
        HeldPermits { server: server.try_acquire().unwrap(), address: None, in_flight: None, open: exchanges.token() };
    let entry = exchange.forward(permits, || RequestSummary::Connection(ServiceKind::Tcp)).unwrap();
    let (stream, permit) = tunnel.open(b"!", Duration::from_secs(10), None).await.unwrap();
    entry.hold(&stream, permit);

    let end = Arc::new(AtTheEnd { tunnel, lane, server, seen: Mutex::default() });
    let waker = Waker::from(Arc::clone(&end));
    let mut idle = std::pin::pin!(exchanges.wait());
    assert!(idle.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!([end.tunnel.streams(), end.lane.streams(), end.server.in_use()], [1; 3]);
    drop(entry);
    assert_eq!(*end.seen.lock(), [[0; 3]]);
    assert_eq!(idle.poll(&mut Context::from_waker(&waker)), Poll::Ready(()));
}

#[test]
fn a_host_in_the_log_is_bounded_and_harmless() {
    let of = |uri: &str, host: &[u8]| {
        let request = Request::builder().uri(uri).header(HOST, HeaderValue::from_bytes(host).unwrap());
        loggable_host(&request.body(()).unwrap())
    };
    assert_eq!(of("/", b"Nobody.tunnel.example.com:9090").unwrap(), "Nobody.tunnel.example.com:9090");
    assert_eq!(of("/", b"[2001:db8::1]:80").unwrap(), "[2001:db8::1]:80");
    assert_eq!(of("http://target.example/", b"other.example").unwrap(), "target.example");
    assert_eq!(of("/", b"a\" outcome=\xff<b>").unwrap(), "a??outcome???b?");
    assert_eq!(of("/", "x".repeat(5000).as_bytes()).unwrap().len(), MAX_HOST);
    assert_eq!(loggable_host(&Request::new(())), None);
}
