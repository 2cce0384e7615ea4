//! Tests back-pressure in both directions across many pings: every stream keeps making progress, little is held, and
//! everything arrives.

use std::sync::atomic::AtomicUsize;

use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::*;
use crate::link::session::Stream;
use crate::link::testing::{CONFIG, End};
use crate::link::write::{MAX_CONTROL, MAX_QUEUED};
use relay::{Moved, RELAY_BUFFER, Relay};

mod earlier;
mod relay;
mod slow;

const STREAMS: usize = 8;

/// A slow reader pauses so long after each piece.
const PAUSE: Duration = Duration::from_millis(100);

/// How often progress and what is held are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What may wait to be read on streams that have their smallest window, when every frame carries something.
const HELD: usize = STREAMS * (STREAM_WINDOW + STREAM_WINDOW / 16);

/// What one end has written on all streams, and read from them.
#[derive(Clone, Default)]
struct Traffic {
    written: Moved,
    read: Moved,
    /// Bytes that were read and are not those that were written.
    wrong: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// The byte that is written at a place of a stream.
fn byte_at(place: usize) -> u8 {
    (place % 251) as u8
}

/// As much as one write takes, from a place of a stream on.
fn piece_at(place: usize) -> Vec<u8> {
    (place..place + SPLIT_SEND).map(byte_at).collect()
}

impl Traffic {
    /// Checks and counts what comes at a place of a stream.
    fn check(&self, counter: &AtomicUsize, bytes: &[u8]) {
        let place = counter.fetch_add(bytes.len(), Ordering::Relaxed);
        let wrong = bytes.iter().enumerate().filter(|(at, byte)| **byte != byte_at(place + at)).count();
        self.wrong.fetch_add(wrong, Ordering::Relaxed);
    }

    /// Writes on `stream`, on which so many bytes were written, until it is told to stop, and reads slowly.
    fn run(&self, stream: Stream, begun: usize, tasks: &mut JoinSet<()>) {
        let (writer, written, stop) = (stream.clone(), self.written.counter(), self.stop.clone());
        written.fetch_add(begun, Ordering::Relaxed);
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                let piece = piece_at(written.load(Ordering::Relaxed));
                let Ok(n) = poll_fn(|cx| writer.poll_write(cx, &piece)).await else { return };
                written.fetch_add(n, Ordering::Relaxed);
            }
        });
        let (this, read) = (self.clone(), self.read.counter());
        tasks.spawn(async move {
            while let Some(bytes) = poll_fn(|cx| stream.poll_read(cx)).await {
                this.check(&read, &bytes);
                sleep(PAUSE).await;
            }
        });
    }

    /// The same on a stream of yamux alone.
    fn run_plain(&self, stream: yamux::Stream, tasks: &mut JoinSet<()>) {
        let (mut reader, mut writer) = stream.split();
        let (written, stop) = (self.written.counter(), self.stop.clone());
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                let piece = piece_at(written.load(Ordering::Relaxed));
                let Ok(n) = writer.write(&piece).await else { return };
                written.fetch_add(n, Ordering::Relaxed);
            }
            // The stream must stay.
            std::future::pending::<()>().await;
        });
        let (this, read) = (self.clone(), self.read.counter());
        tasks.spawn(async move {
            let mut buffer = [0; 64 * 1024];
            while let Ok(n @ 1..) = reader.read(&mut buffer).await {
                this.check(&read, &buffer[..n]);
                sleep(PAUSE).await;
            }
        });
    }
}

/// An end that is yamux alone, as earlier versions of adit are: it holds pongs, and answers one ping at a time.
async fn plain_end(pipe: DuplexStream, traffic: Traffic) {
    let (layer, drain) = earlier::over(pipe);
    let mut settings = yamux::Config::default();
    settings.set_split_send_size(SPLIT_SEND);
    let mut connection = yamux::Connection::new(layer, settings, yamux::Mode::Client);
    let mut tasks = JoinSet::new();
    poll_fn(|cx| {
        while let Poll::Ready(stream) = connection.poll_next_inbound(cx) {
            let Some(Ok(stream)) = stream else { return Poll::Ready(()) };
            traffic.run_plain(stream, &mut tasks);
        }
        match drain.poll_drain(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

/// Two sessions over a relay, with bulk both ways on [`STREAMS`] streams.
struct Bulk {
    case: String,
    relay: Relay,
    /// Bytes that the pipes between a session and the relay hold.
    capacity: usize,
    session: Session,
    unread: Arc<Unread>,
    near: Traffic,
    far: Traffic,
    drivers: JoinSet<Ended>,
    tasks: JoinSet<()>,
    is_far_plain: bool,
}

impl Bulk {
    /// Over duplexes of `capacity` bytes.
    async fn over_duplexes(capacity: usize, is_far_plain: bool) -> Self {
        let ((near, left), (right, far)) = (tokio::io::duplex(capacity), tokio::io::duplex(capacity));
        let mut tasks = JoinSet::new();
        let relay = Relay::between(left, right, &mut tasks);
        let case = format!("over a pipe of {capacity} bytes");
        if is_far_plain {
            let far_traffic = Traffic::default();
            tasks.spawn(plain_end(far, far_traffic.clone()));
            Self::start(case, relay, capacity, Box::new(near), Err(far_traffic), tasks).await
        } else {
            Self::start(case, relay, capacity, Box::new(near), Ok(Box::new(far)), tasks).await
        }
    }

    /// Over TCP, with buffers of so many bytes in the kernel, or as large as it wants.
    async fn over_tcp(buffers: Option<u32>) -> Self {
        let ((near, left), (right, far)) = (connected(buffers).await, connected(buffers).await);
        let mut tasks = JoinSet::new();
        let relay = Relay::between(left, right, &mut tasks);
        // What the kernel takes with default buffers is its own affair.
        let capacity = if buffers.is_some() { 256 * 1024 } else { 16 * 1024 * 1024 };
        Self::start(format!("over TCP, {buffers:?}"), relay, capacity, Box::new(near), Ok(Box::new(far)), tasks).await
    }

    async fn start(
        case: String,
        relay: Relay,
        capacity: usize,
        near: Box<dyn Pipe>,
        far: Result<Box<dyn Pipe>, Traffic>,
        mut tasks: JoinSet<()>,
    ) -> Self {
        let config = MuxConfig { window_growth: 0, ..CONFIG };
        let (unread, mut drivers) = (Unread::new(usize::MAX), JoinSet::new());
        let (session, driver) = session_within(near, Side::Server, config, Arc::clone(&unread));
        drivers.spawn(driver.run(Duration::from_secs(1), |_| ()));
        let near = Traffic::default();
        let is_far_plain = far.is_err();
        let (mut agent, far) = match far {
            Ok(far) => (Some(End::new(far, Side::Agent, config, &mut drivers)), Traffic::default()),
            Err(traffic) => (None, traffic),
        };
        for _ in 0..STREAMS {
            near.run(session.open(&[byte_at(0)]).await.unwrap(), 1, &mut tasks);
            if let Some(agent) = &mut agent {
                far.run(agent.accept().await, 0, &mut tasks);
            }
        }
        Self { case, relay, capacity, session, unread, near, far, drivers, tasks, is_far_plain }
    }

    /// Runs for half a minute and looks all the time: what is held stays within bounds, and in each ten seconds something is
    /// read on every stream at each end. Then everything that was written arrives.
    async fn check(mut self) {
        let case = self.case.clone();
        let mut before = vec![0; 2 * STREAMS];
        let (since, mut looked) = (Instant::now(), Duration::ZERO);
        while since.elapsed() < Duration::from_secs(30) {
            sleep(LOOK).await;
            self.check_held();
            if since.elapsed() - looked >= Duration::from_secs(10) {
                looked = since.elapsed();
                let streams = [self.near.read.each(), self.far.read.each()].concat();
                assert_eq!(streams.len(), 2 * STREAMS);
                let moves = before.iter().zip(&streams).all(|(before, now)| before < now);
                assert!(moves, "{case}, after {looked:?}: {before:?}, now {streams:?}");
                before = streams;
            }
        }
        assert!(self.relay.answered() >= 10, "{case}: {} pings were answered", self.relay.answered());
        self.near.stop.cancel();
        self.far.stop.cancel();
        let until = Instant::now() + Duration::from_secs(60);
        while self.near.written.each() != self.far.read.each() || self.far.written.each() != self.near.read.each() {
            assert!(Instant::now() < until, "{case}: not everything arrives");
            sleep(LOOK).await;
        }
        assert_eq!(self.near.wrong.load(Ordering::Relaxed), 0, "{case}");
        assert!(!self.session.is_closed() && self.drivers.try_join_next().is_none());
        self.tasks.abort_all();
    }

    fn check_held(&self) {
        let case = &self.case;
        let queued = self.session.mux().0.ledger.budget.queued();
        assert!(queued <= MAX_QUEUED, "{case}: {queued} bytes are queued");
        assert!(self.unread.bytes() <= HELD, "{case}: {} bytes wait to be read", self.unread.bytes());
        let [there, back] = self.relay.carried.each_ref().map(|carried| carried.load(Ordering::Relaxed));
        // What was written and has not passed the relay is in the queue, in the pipe or in the relay.
        let most = MAX_QUEUED + MAX_CONTROL + self.capacity + RELAY_BUFFER;
        let held = self.near.written.total().saturating_sub(there);
        assert!(held <= most, "{case}: the near end holds {held} bytes, {most} at most");
        if !self.is_far_plain {
            let held = self.far.written.total().saturating_sub(back);
            assert!(held <= most, "{case}: the far end holds {held} bytes, {most} at most");
        }
    }
}

/// A connection over loopback, with buffers of so many bytes at both ends.
async fn connected(buffers: Option<u32>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = buffers {
        let listening = socket2::SockRef::from(&listener);
        listening.set_send_buffer_size(bytes as usize).unwrap();
        listening.set_recv_buffer_size(bytes as usize).unwrap();
        socket.set_send_buffer_size(bytes).unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    let (near, far) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
    let (near, (far, _)) = (near.unwrap(), far.unwrap());
    for socket in [&near, &far] {
        crate::link::write::socket::bound_unsent(socket);
        socket.set_nodelay(true).unwrap();
    }
    (near, far)
}

#[tokio::test(start_paused = true)]
async fn bulk_both_ways_goes_on_over_pipes_of_any_size() {
    for capacity in [1, 4, 16, 64, 256] {
        Bulk::over_duplexes(capacity * 1024, false).await.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_end_that_answers_pings_itself_is_enough() {
    for capacity in [1, 4, 16, 64, 256] {
        Bulk::over_duplexes(capacity * 1024, true).await.check().await;
    }
}

/// In real time, because the kernel's buffers know no other.
#[tokio::test]
async fn bulk_both_ways_goes_on_over_tcp() {
    let (default, small) = tokio::join!(Bulk::over_tcp(None), Bulk::over_tcp(Some(8 * 1024)));
    tokio::join!(default.check(), small.check());
}
