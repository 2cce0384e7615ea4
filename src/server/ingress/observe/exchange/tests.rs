use std::task::{Context, Poll, Wake, Waker};

use tokio_util::task::TaskTracker;

use super::*;
use crate::auth::LaneSecret;
use crate::limits::Permits;
use crate::link::mux;
use crate::link::mux::{MuxConfig, Side, WINDOW_GROWTH};
use crate::server::directory::authenticated::Authenticated;
use crate::server::directory::tunnel::{Lane, Tunnel};
use crate::values::{InstanceId, LaneId, TunnelId};

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
    let about = About {
        request_id: RequestId(1),
        visitor: [192, 0, 2, 1].into(),
        meter: Meter::for_tests(),
        asked: Asked::Connection(ServiceKind::Tcp),
        span: Default::default(),
    };
    let held = (server.try_acquire().unwrap(), None, None, exchanges.token());
    let entry = Entry::open(about, held, &Arc::default());
    let (stream, permit) = tunnel.open(b"!", Duration::from_secs(10)).await.unwrap();
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
        harmless_host(&request.body(()).unwrap())
    };
    assert_eq!(of("/", b"Nobody.tunnel.example.com:9090").unwrap(), "Nobody.tunnel.example.com:9090");
    assert_eq!(of("/", b"[2001:db8::1]:80").unwrap(), "[2001:db8::1]:80");
    assert_eq!(of("http://target.example/", b"other.example").unwrap(), "target.example");
    assert_eq!(of("/", b"a\" outcome=\xff<b>").unwrap(), "a??outcome???b?");
    assert_eq!(of("/", "x".repeat(5000).as_bytes()).unwrap().len(), MOST_OF_A_HOST);
    assert_eq!(harmless_host(&Request::new(())), None);
}
