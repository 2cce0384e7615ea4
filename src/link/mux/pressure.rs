//! Tests back-pressure in both directions across many pings: every stream keeps making progress.

use std::sync::atomic::AtomicUsize;

use bytes::{Buf as _, BytesMut};
use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::testing::{CONFIG, End};
use super::*;

const PING_EVERY: Duration = Duration::from_millis(100);
const STREAMS: usize = 8;
/// Numbers of the relay's own pings begin here.
const OURS: u32 = 1 << 31;

/// Pings of the relay in one direction: like yamux's, one at a time, but far more often. yamux's own go by the real clock.
struct Pings {
    /// When the next is due; `None`: one is not answered yet.
    next: Mutex<Option<Instant>>,
    answered: AtomicUsize,
    again: Notify,
}

impl Pings {
    fn new() -> Arc<Self> {
        Arc::new(Self { next: Mutex::new(Some(Instant::now())), answered: AtomicUsize::new(0), again: Notify::new() })
    }

    fn is_due(&self) -> bool {
        self.next.lock().is_some_and(|next| next <= Instant::now())
    }

    async fn due(&self) {
        loop {
            let next = *self.next.lock();
            match next {
                Some(next) => return sleep_until(next).await,
                None => self.again.notified().await,
            }
        }
    }

    fn answer(&self) {
        *self.next.lock() = Some(Instant::now() + PING_EVERY);
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.again.notify_one();
    }
}

/// Bytes per second each way: less than the readers take, so that writers wait for the pipe.
const RATE: usize = 1_000_000;

/// Carries frames in one direction, at [`RATE`], and adds pings between them; `theirs` are those that are answered on this
/// way.
async fn relay(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mine: Arc<Pings>,
    theirs: Arc<Pings>,
) -> std::io::Result<()> {
    let (mut buffer, mut body, mut number) = (BytesMut::with_capacity(4096), 0, OURS);
    let mut free = Instant::now();
    loop {
        while body > 0 && !buffer.is_empty() {
            let n = buffer.len().min(body);
            sleep_until(free).await;
            free = free.max(Instant::now()) + Duration::from_secs(1) * n as u32 / RATE as u32;
            to.write_all(&buffer[..n]).await?;
            buffer.advance(n);
            body -= n;
        }
        if body == 0 && buffer.len() >= 12 && !mine.is_due() {
            let (kind, flags) = (buffer[1], buffer[3]);
            let length = u32::from_be_bytes([buffer[8], buffer[9], buffer[10], buffer[11]]);
            if kind == 2 && flags == 2 && length >= OURS {
                theirs.answer();
            } else {
                to.write_all(&buffer[..12]).await?;
                body = if kind == 0 { length as usize } else { 0 };
            }
            buffer.advance(12);
            continue;
        }
        tokio::select! {
            biased;
            () = mine.due(), if body == 0 => {
                *mine.next.lock() = None;
                let [n0, n1, n2, n3] = number.to_be_bytes();
                to.write_all(&[0, 2, 0, 1, 0, 0, 0, 0, n0, n1, n2, n3]).await?;
                number += 1;
            }
            read = from.read_buf(&mut buffer) => if read? == 0 { return Ok(()) },
        }
    }
}

/// Two pipes with a relay between them.
fn relayed(capacity: usize, tasks: &mut JoinSet<()>) -> (DuplexStream, DuplexStream, [Arc<Pings>; 2]) {
    let ((near, left), (right, far)) = (tokio::io::duplex(capacity), tokio::io::duplex(capacity));
    let ((from_left, to_left), (from_right, to_right)) = (tokio::io::split(left), tokio::io::split(right));
    let [there, back] = [Pings::new(), Pings::new()];
    let (mine, theirs) = (Arc::clone(&there), Arc::clone(&back));
    tasks.spawn(async move { drop(relay(from_left, to_right, mine, theirs).await) });
    let (mine, theirs) = (Arc::clone(&back), Arc::clone(&there));
    tasks.spawn(async move { drop(relay(from_right, to_left, mine, theirs).await) });
    (near, far, [there, back])
}

/// How many bytes were read, one counter for each stream and end.
#[derive(Clone, Default)]
struct Moved(Arc<Mutex<Vec<Arc<AtomicUsize>>>>);

impl Moved {
    fn counter(&self) -> Arc<AtomicUsize> {
        let counter = Arc::new(AtomicUsize::new(0));
        self.0.lock().push(Arc::clone(&counter));
        counter
    }

    fn all(&self) -> Vec<usize> {
        self.0.lock().iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
    }
}

/// Reads slowly.
const PAUSE: Duration = Duration::from_millis(100);

/// Writes without an end, and reads slowly.
fn busy(stream: MuxStream, counter: Arc<AtomicUsize>, tasks: &mut JoinSet<()>) {
    let writer = stream.clone();
    tasks.spawn(async move { while poll_fn(|cx| writer.poll_write(cx, &[7; SPLIT_SEND])).await.is_ok() {} });
    tasks.spawn(async move {
        while let Some(bytes) = poll_fn(|cx| stream.poll_read(cx)).await {
            counter.fetch_add(bytes.len(), Ordering::Relaxed);
            sleep(PAUSE).await;
        }
    });
}

/// An end that is yamux alone, as earlier versions of adit are: it holds pongs, and answers one ping at a time.
fn plain_end(pipe: DuplexStream, moved: Moved) -> impl Future<Output = ()> {
    let (layer, drain) = earlier::over(pipe);
    let mut settings = yamux::Config::default();
    settings.set_split_send_size(SPLIT_SEND);
    let mut connection = yamux::Connection::new(layer, settings, yamux::Mode::Client);
    async move {
        let mut tasks = JoinSet::new();
        poll_fn(|cx| {
            while let Poll::Ready(stream) = connection.poll_next_inbound(cx) {
                let Some(Ok(stream)) = stream else { return Poll::Ready(()) };
                let (mut reader, mut writer) = stream.split();
                tasks.spawn(async move { while writer.write_all(&[7; SPLIT_SEND]).await.is_ok() {} });
                let counter = moved.counter();
                tasks.spawn(async move {
                    let mut buffer = [0; 64 * 1024];
                    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
                        counter.fetch_add(n, Ordering::Relaxed);
                        sleep(PAUSE).await;
                    }
                });
            }
            match drain.poll_drain(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }
}

/// What may wait to be read on streams that have their smallest window, when every frame carries something.
const HELD: usize = STREAMS * (STREAM_WINDOW + STREAM_WINDOW / 16);

/// Half a minute of bulk both ways: in every ten seconds something is read on every stream at each end, and pings are
/// answered. A window update may wait for five seconds: behind ten frames of 64 KiB on each of eight streams, at [`RATE`].
async fn goes_on(capacity: usize, is_far_plain: bool) {
    let mut tasks = JoinSet::new();
    let (near, far, pings) = relayed(capacity, &mut tasks);
    let (here, there, unread) = (Moved::default(), Moved::default(), Unread::new(usize::MAX));
    let config = MuxConfig { window_growth: 0, ..CONFIG };
    let mut drivers = JoinSet::new();
    let (session, driver) = session_within(Box::new(near), Side::Server, config, Arc::clone(&unread));
    drivers.spawn(driver.run(Duration::from_secs(1), |_| ()));
    let mut end = None;
    if is_far_plain {
        tasks.spawn(plain_end(far, there.clone()));
    } else {
        end = Some(End::new(Box::new(far), Side::Agent, config, &mut drivers));
    }
    for _ in 0..STREAMS {
        busy(session.open(b"!").await.unwrap(), here.counter(), &mut tasks);
        if let Some(end) = &mut end {
            busy(end.accept().await, there.counter(), &mut tasks);
        }
    }
    let mut before = vec![0; 2 * STREAMS];
    for seconds in (2..=30).step_by(2) {
        sleep(Duration::from_secs(2)).await;
        let streams = [here.all(), there.all()].concat();
        assert_eq!(streams.len(), 2 * STREAMS);
        let case = format!("after {seconds} s over a pipe of {capacity} bytes");
        if seconds % 10 == 0 {
            assert!(
                before.iter().zip(&streams).all(|(before, now)| before < now),
                "{case}: {before:?}, now {streams:?}"
            );
            before = streams;
        }
        assert!(unread.bytes() <= HELD, "{case}: {} bytes wait to be read", unread.bytes());
    }
    for pings in pings {
        let answered = pings.answered.load(Ordering::Relaxed);
        assert!(answered >= 10, "{answered} pings were answered");
    }
    assert!(!session.is_closed() && drivers.try_join_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn bulk_both_ways_goes_on_over_pipes_of_any_size() {
    for capacity in [1, 4, 16, 64, 256] {
        goes_on(capacity * 1024, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_end_that_answers_pings_itself_is_enough() {
    for capacity in [1, 4, 16, 64, 256] {
        goes_on(capacity * 1024, true).await;
    }
}

/// A pipe that carries so many bytes per second each way, and holds a second's worth.
fn slow_pipe(per_second: usize, tasks: &mut JoinSet<()>) -> (DuplexStream, DuplexStream) {
    async fn carry(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, per_second: usize) {
        let mut piece = vec![0; per_second / 50];
        while let Ok(n @ 1..) = from.read(&mut piece).await {
            sleep(Duration::from_secs(1) * n as u32 / per_second as u32).await;
            if to.write_all(&piece[..n]).await.is_err() {
                return;
            }
        }
    }
    let ((near, left), (right, far)) = (tokio::io::duplex(per_second / 2), tokio::io::duplex(per_second / 2));
    let ((from_left, to_left), (from_right, to_right)) = (tokio::io::split(left), tokio::io::split(right));
    tasks.spawn(carry(from_left, to_right, per_second));
    tasks.spawn(carry(from_right, to_left, per_second));
    (near, far)
}

/// An agent of an earlier version, which sends heartbeats, and a download on each stream that the server opens. It queues
/// as much as the windows allow, so that its heartbeats wait behind megabytes.
fn earlier_agent(pipe: DuplexStream, beat: Duration, started: mpsc::UnboundedSender<()>) -> impl Future<Output = ()> {
    let (layer, drain) = earlier::over(pipe);
    let mut settings = yamux::Config::default();
    settings.set_split_send_size(SPLIT_SEND);
    let mut connection = yamux::Connection::new(layer, settings, yamux::Mode::Client);
    async move {
        let mut tasks = JoinSet::new();
        let mut control = poll_fn(|cx| connection.poll_new_outbound(cx)).await.unwrap();
        tasks.spawn(async move {
            let message = crate::protocol::json::encode(&crate::protocol::control::Control::Heartbeat).unwrap();
            while control.write_all(&message).await.is_ok() {
                sleep(beat).await;
            }
        });
        poll_fn(|cx| {
            while let Poll::Ready(stream) = connection.poll_next_inbound(cx) {
                let Some(Ok(mut stream)) = stream else { return Poll::Ready(()) };
                let _ = started.send(());
                tasks.spawn(async move { while stream.write_all(&[7; 64 * 1024]).await.is_ok() {} });
            }
            match drain.poll_drain(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }
}

/// 64 downloads over a megabit per second, for 30 heartbeats. Returns the longest time between two heartbeats.
async fn longest_between_heartbeats(is_agent_earlier: bool) -> Duration {
    use crate::link::handshake::{ControlReader, ControlWriter};
    use crate::link::silence::Silence;

    const BEAT: Duration = Duration::from_secs(10);
    let mut tasks = JoinSet::new();
    let (near, far) = slow_pipe(125_000, &mut tasks);
    let mut drivers = JoinSet::new();
    let mut server = End::new(Box::new(near), Side::Server, CONFIG, &mut drivers);
    let moved = Moved::default();
    let (streams, mut started) = mpsc::unbounded_channel();
    if is_agent_earlier {
        tasks.spawn(earlier_agent(far, BEAT, streams));
    } else {
        let mut agent = End::new(Box::new(far), Side::Agent, CONFIG, &mut drivers);
        let mut control = ControlWriter::new(agent.session.open(b"").await.unwrap());
        control.beat().unwrap();
        tasks.spawn(async move {
            let mut writers = JoinSet::new();
            loop {
                let stream = agent.accept().await;
                let _ = streams.send(());
                writers.spawn(async move { while poll_fn(|cx| stream.poll_write(cx, &[7; 64 * 1024])).await.is_ok() {} });
            }
        });
        tasks.spawn(async move {
            loop {
                sleep(BEAT).await;
                control.beat().unwrap();
            }
        });
    }
    let mut heard = ControlReader::new(server.accept().await);
    for _ in 0..64 {
        let stream = server.session.open(b"GET").await.unwrap();
        let counter = moved.counter();
        started.recv().await.unwrap();
        tasks.spawn(async move {
            while let Some(bytes) = poll_fn(|cx| stream.poll_read(cx)).await {
                counter.fetch_add(bytes.len(), Ordering::Relaxed);
            }
        });
    }
    let mut silence = Silence::new(server.session.pulse(), BEAT);
    let (since, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    while since.elapsed() < BEAT * 30 {
        tokio::select! {
            message = heard.receive() => {
                message.unwrap();
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            lost = silence.is_too_long() => panic!("{lost} after {:?}", since.elapsed()),
            () = sleep(BEAT) => {}
        }
    }
    assert!(moved.all().into_iter().all(|bytes| bytes > 64 * 1024), "{:?}", moved.all());
    longest.max(last.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_not_lost_while_bulk_transfers_fill_a_slow_link() {
    let longest = longest_between_heartbeats(true).await;
    // By its heartbeats alone it would have been.
    assert!(longest > Duration::from_secs(30), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_do_not_wait_behind_bulk_transfers() {
    let longest = longest_between_heartbeats(false).await;
    assert!(longest < Duration::from_secs(13), "{longest:?}");
}
