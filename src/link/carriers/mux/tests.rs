use tokio::task::JoinSet;

use super::*;
use crate::link::session::Stream;
use crate::link::testing::{CONFIG, End, GOODBYE, Pair, pattern, read, read_to_end, stays_pending, within, write};

/// More than the window of a stream.
const ENDLESS: usize = 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn bytes_go_both_ways_and_from_both_ends() {
    for yield_first in [false, true] {
        let mut pair = Pair::with(MuxConfig { yield_first, ..CONFIG }, 10_000);
        let sent = pattern(ENDLESS);
        let near = within(pair.server.session.open(&sent[..100_000])).await.unwrap();
        let far = pair.agent.accept().await;
        let (rest, echo) = tokio::join!(write(&near, &sent[100_000..]), async {
            let mut got = Vec::new();
            while got.len() < sent.len() {
                let bytes = read(&far).await.unwrap();
                got.extend_from_slice(&bytes);
            }
            got
        });
        rest.unwrap();
        assert!(echo == sent);
        write(&far, b"back").await.unwrap();
        assert_eq!(read(&near).await.unwrap(), "back");
        let other = within(pair.agent.session.open(b"other way")).await.unwrap();
        let stream = pair.server.accept().await;
        assert_eq!(read(&stream).await.unwrap(), "other way");
        assert_eq!((pair.server.session.opened(), pair.agent.session.opened()), (1, 1));
        drop(other);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_opened_with_nothing_is_heard_of_later() {
    let mut pair = Pair::new();
    let _first = pair.stream().await;
    let quiet = within(pair.server.session.open(b"")).await.unwrap();
    stays_pending(std::future::pending::<()>()).await;
    write(&quiet, b"late").await.unwrap();
    let far = pair.agent.accept().await;
    assert_eq!(read(&far).await.unwrap(), "late");
}

#[tokio::test(start_paused = true)]
async fn a_byte_from_the_acceptor_keeps_the_way_open() {
    let mut pair = Pair::new();
    let server = pair.server.session.clone();
    let open = async {
        let mut open = Vec::new();
        for _ in 0..600 {
            open.push(server.open(b"request").await.unwrap());
        }
        open
    };
    let answer = async {
        let mut open = Vec::new();
        for _ in 0..600 {
            let stream = pair.agent.accept().await;
            write(&stream, &[1]).await.unwrap();
            open.push(stream);
        }
        open
    };
    let (near, far) = within(async { tokio::join!(open, answer) }).await;
    assert_eq!((near.len(), far.len()), (600, 600));
}

/// 256 streams that nobody has acknowledged, and the next opener.
async fn backlog(pair: &mut Pair) -> (Vec<Stream>, Vec<Stream>) {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..256 {
        near.push(within(pair.server.session.open(b"request")).await.unwrap());
        far.push(pair.agent.accept().await);
    }
    (near, far)
}

#[tokio::test(start_paused = true)]
async fn without_a_byte_from_the_acceptor_the_257th_waits_for_one() {
    let mut pair = Pair::new();
    let (_near, far) = backlog(&mut pair).await;
    let mut tasks = JoinSet::new();
    opener(&pair, &mut tasks, b"late");
    stays_pending(tasks.join_next()).await;
    write(&far[100], &[1]).await.unwrap();
    within(tasks.join_next()).await.unwrap().unwrap();
}

/// Opens a stream in a task of its own, which nothing but a wake-up polls again.
fn opener(pair: &Pair, tasks: &mut JoinSet<Stream>, first: &'static [u8]) -> tokio::task::AbortHandle {
    let session = pair.server.session.clone();
    tasks.spawn(async move { session.open(first).await.unwrap() })
}

#[tokio::test(start_paused = true)]
async fn an_opener_that_waits_learns_that_an_unanswered_stream_is_gone() {
    let mut pair = Pair::new();
    let (mut near, mut far) = backlog(&mut pair).await;
    let mut tasks = JoinSet::new();
    opener(&pair, &mut tasks, b"after a drop here");
    stays_pending(tasks.join_next()).await;
    near.pop();
    let _next = within(tasks.join_next()).await.unwrap().unwrap();
    opener(&pair, &mut tasks, b"after a drop there");
    stays_pending(tasks.join_next()).await;
    far.remove(0);
    within(tasks.join_next()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_opener_that_gives_up_leaves_the_turn_to_the_next() {
    let mut pair = Pair::new();
    let (_near, far) = backlog(&mut pair).await;
    let mut tasks = JoinSet::new();
    let first = opener(&pair, &mut tasks, b"1");
    stays_pending(tasks.join_next()).await;
    opener(&pair, &mut tasks, b"2");
    stays_pending(tasks.join_next()).await;
    first.abort();
    assert!(within(tasks.join_next()).await.unwrap().unwrap_err().is_cancelled());
    stays_pending(tasks.join_next()).await;
    write(&far[0], &[1]).await.unwrap();
    let _second = within(tasks.join_next()).await.unwrap().unwrap();
    assert_eq!(read(&pair.agent.accept().await).await.unwrap(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_ended_both_ways_is_closed_and_loses_nothing() {
    let mut pair = Pair::new();
    let (near, far) = pair.stream().await;
    write(&far, b"all of it").await.unwrap();
    far.write_ended();
    assert_eq!(read(&near).await.unwrap(), "all of it");
    near.read_ended();
    assert!(!near.is_closed() && !near.is_complete());
    let sent = pattern(200_000);
    write(&near, &sent).await.unwrap();
    near.write_ended();
    assert!(near.is_closed() && near.is_complete() && !far.is_complete());
    drop(near);
    assert!(read_to_end(&far).await == sent);
    far.read_ended();
    assert!(far.is_complete());
    // The session goes on.
    pair.stream().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_with_a_full_queue_loses_nothing_either() {
    let mut pair = Pair::new();
    let (near, far) = pair.stream().await;
    near.read_ended();
    // The driver does not get a turn in between.
    let mut written = 0;
    let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
    while near.poll_write(&mut cx, &[written]).is_ready() {
        written += 1;
    }
    near.write_ended();
    assert_eq!(read_to_end(&far).await, (0..written).collect::<Vec<_>>());
}

/// A reader and a writer that wait at `stream`; both must end, without a byte and with an error.
fn waiting(stream: &Stream, tasks: &mut JoinSet<()>) {
    let (reader, writer) = (stream.clone(), stream.clone());
    tasks.spawn(async move { assert_eq!(poll_fn(|cx| reader.poll_read(cx)).await, None) });
    tasks.spawn(async move { assert!(write(&writer, &pattern(ENDLESS)).await.is_err()) });
}

async fn all_end(mut tasks: JoinSet<()>) {
    while let Some(ended) = within(tasks.join_next()).await {
        ended.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_wakes_who_waits_at_the_other_end() {
    let mut pair = Pair::new();
    let (near, far) = pair.stream().await;
    let mut tasks = JoinSet::new();
    waiting(&far, &mut tasks);
    let other = near.clone();
    drop(near);
    stays_pending(tasks.join_next()).await;
    drop(other);
    all_end(tasks).await;
    assert!(far.is_closed());
}

#[tokio::test(start_paused = true)]
async fn an_aborted_stream_wakes_who_waits_at_either_end() {
    let mut pair = Pair::new();
    let (near, far) = pair.stream().await;
    let mut tasks = JoinSet::new();
    waiting(&far, &mut tasks);
    let kept = near.clone();
    stays_pending(tasks.join_next()).await;
    near.abort();
    all_end(tasks).await;
    assert!(kept.is_closed() && far.is_closed() && !kept.is_complete());

    // What was queued before the abort still arrives.
    let (near, far) = pair.stream().await;
    let mut tasks = JoinSet::new();
    waiting(&near, &mut tasks);
    stays_pending(tasks.join_next()).await;
    near.abort();
    all_end(tasks).await;
    assert!(pattern(ENDLESS).starts_with(&read_to_end(&far).await));
}

/// Ends a session while a reader, a writer and two openers wait, and sees them all end.
async fn ends_for_everybody(end: impl FnOnce(&mut Pair)) -> Pair {
    let mut pair = Pair::new();
    let (near, far) = pair.stream().await;
    write(&far, b"answered").await.unwrap();
    assert_eq!(read(&near).await.unwrap(), "answered");
    let (_unanswered, theirs) = backlog(&mut pair).await;
    let mut tasks = JoinSet::new();
    waiting(&near, &mut tasks);
    for _ in 0..2 {
        let session = pair.server.session.clone();
        tasks.spawn(async move { assert_eq!(session.open(b"x").await.unwrap_err(), OpenError::Closed) });
    }
    for session in [pair.server.session.clone(), pair.agent.session.clone()] {
        tasks.spawn(async move { session.ended().await });
    }
    let there = theirs[0].clone();
    tasks.spawn(async move { assert_eq!(read_to_end(&there).await, b"request") });
    stays_pending(tasks.join_next()).await;
    end(&mut pair);
    all_end(tasks).await;
    assert!(pair.server.session.is_closed() && pair.agent.session.is_closed());
    for session in [&pair.server.session, &pair.agent.session] {
        assert_eq!(session.open(b"x").await.unwrap_err(), OpenError::Closed);
    }
    assert!(pattern(ENDLESS).starts_with(&read_to_end(&far).await));
    pair
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_driver_wakes_everybody() {
    ends_for_everybody(|pair| pair.server.driver.abort()).await;
    ends_for_everybody(|pair| pair.agent.driver.abort()).await;
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_wakes_everybody() {
    for close in [|pair: &Pair| pair.server.session.close(), |pair: &Pair| pair.agent.session.close()] {
        let mut pair = ends_for_everybody(|pair| close(pair)).await;
        let mut ends = Vec::new();
        while let Some(ended) = pair.drivers.join_next().await {
            ends.push(ended.unwrap());
        }
        ends.sort_by_key(|ended| ended.to_string());
        assert_eq!(ends, [Ended::Closed, Ended::ByPeer]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_a_goodbye_arrives() {
    let mut pair = Pair::with(CONFIG, 1000);
    let (near, far) = pair.stream().await;
    let sent = pattern(250_000);
    write(&near, &sent).await.unwrap();
    pair.server.session.close();
    assert!(read_to_end(&far).await == sent);
    within(pair.agent.session.ended()).await;
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_nobody_hears_ends_in_time() {
    let mut drivers = JoinSet::new();
    let (near, _silent) = tokio::io::duplex(16);
    let end = End::new(Box::new(near), Side::Server, CONFIG, &mut drivers);
    let stream = end.session.open(&pattern(1000)).await.unwrap();
    end.session.close();
    let before = tokio::time::Instant::now();
    assert_eq!(within(drivers.join_next()).await.unwrap().unwrap(), Ended::Closed);
    assert_eq!(before.elapsed(), GOODBYE);
    assert!(stream.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_pipe_that_breaks_says_why() {
    let mut drivers = JoinSet::new();
    let (near, mut far) = tokio::io::duplex(1000);
    let end = End::new(Box::new(near), Side::Server, CONFIG, &mut drivers);
    within(tokio::io::AsyncWriteExt::write_all(&mut far, &[0xff; 100])).await.unwrap();
    let ended = within(drivers.join_next()).await.unwrap().unwrap();
    assert!(matches!(&ended, Ended::Broken(why) if !why.is_empty()), "{ended}");
    assert!(end.session.is_closed());
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_streams_is_not_the_end_of_the_session_and_twice_as_many_are() {
    let mut pair = Pair::with(MuxConfig { max_streams: 8, ..CONFIG }, 10_000);
    let mut open = Vec::new();
    for _ in 0..2 * 8 + 16 {
        open.push(pair.stream().await);
        let (near, far) = open.last().unwrap();
        write(far, b"still here").await.unwrap();
        assert_eq!(read(near).await.unwrap(), "still here");
    }
    assert!(!pair.server.session.is_closed());
    open.pop();
    stays_pending(std::future::pending::<()>()).await;
    open.push(pair.stream().await);
    assert_eq!(within(pair.server.session.open(b"!")).await.unwrap_err(), OpenError::Closed);
    let ended = within(pair.drivers.join_next()).await.unwrap().unwrap();
    assert!(matches!(&ended, Ended::Broken(why) if why.contains("streams")), "{ended}");
    within(pair.server.session.ended()).await;
    within(pair.agent.session.ended()).await;
}

/// What comes of a stream whose reader is quick at first, and then stops.
async fn held_by_a_reader_that_stops(window_growth: usize) -> usize {
    let mut pair = Pair::with(MuxConfig { window_growth, ..CONFIG }, 256 * 1024);
    let (near, far) = pair.stream().await;
    let mut tasks = JoinSet::new();
    let source = tasks.spawn(async move { while write(&far, &[0; 64 * 1024]).await.is_ok() {} });
    for _ in 0..1000 {
        read(&near).await.unwrap();
    }
    // The clock moves only when everybody waits: the source, too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    source.abort();
    let mut held = 0;
    // At once, so that nothing more is asked for meanwhile.
    while let Poll::Ready(Some(piece)) = poll_fn(|cx| Poll::Ready(near.poll_read(cx))).await {
        held += piece.len();
    }
    held
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_holds_no_more_than_a_window_and_what_it_may_grow() {
    for window_growth in [0, 1024 * 1024] {
        let held = held_by_a_reader_that_stops(window_growth).await;
        assert!(held >= STREAM_WINDOW / 2 && held <= STREAM_WINDOW + window_growth, "{held}");
    }
}
