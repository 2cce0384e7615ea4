//! Bulk transfers over a slow link: heartbeats and small messages beside them.

use futures_util::io::AsyncWriteExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::relay::Moved;
use super::*;
use crate::link::testing::{CONFIG, End, within, write};

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
                writers
                    .spawn(async move { while poll_fn(|cx| stream.poll_write(cx, &[7; 64 * 1024])).await.is_ok() {} });
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
    assert!(moved.each().into_iter().all(|bytes| bytes > 64 * 1024), "{:?}", moved.each());
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

/// How long a small answer takes beside `downloads`, over a link of a megabit per second: the median of nine.
async fn small_answer_beside(downloads: usize) -> Duration {
    let mut tasks = JoinSet::new();
    let (near, far) = slow_pipe(125_000, &mut tasks);
    let mut drivers = JoinSet::new();
    let server = End::new(Box::new(near), Side::Server, CONFIG, &mut drivers);
    let mut agent = End::new(Box::new(far), Side::Agent, CONFIG, &mut drivers);
    let mut readers = JoinSet::new();
    for _ in 0..downloads {
        let stream = server.session.open(b"GET").await.unwrap();
        readers.spawn(async move { while poll_fn(|cx| stream.poll_read(cx)).await.is_some() {} });
        let stream = agent.accept().await;
        tasks.spawn(async move { while write(&stream, &[7; 64 * 1024]).await.is_ok() {} });
    }
    sleep(Duration::from_secs(20)).await;
    let mut took = Vec::new();
    for _ in 0..9 {
        let since = Instant::now();
        let stream = server.session.open(b"GET small").await.unwrap();
        let answering = agent.accept().await;
        tasks.spawn(async move { write(&answering, &[8; 1000]).await.unwrap() });
        assert_eq!(within(poll_fn(|cx| stream.poll_read(cx))).await.unwrap().len(), 1000);
        took.push(since.elapsed());
        sleep(Duration::from_millis(700)).await;
    }
    took.sort();
    took[took.len() / 2]
}

#[tokio::test(start_paused = true)]
async fn a_small_answer_waits_for_what_the_link_holds_and_little_more() {
    // The pipes hold a second's worth.
    for downloads in [1, 8, 64] {
        let took = small_answer_beside(downloads).await;
        assert!(took < Duration::from_millis(1_400), "beside {downloads}: {took:?}");
    }
}
