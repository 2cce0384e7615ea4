//! A peer that speaks in frames of its own, against a session.

use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::{Driver, Ended, MuxConfig, Session, session_within};
use super::frame::GO_AWAY;
use super::ledger::{FRAME_COST, MAX_SMALL};
use super::*;
use crate::link::session::Stream;
use crate::link::testing::{CONFIG, GOODBYE, pattern, read, read_to_end, stays_pending, within, write};
use crate::link::write::MAX_CONTROL;

fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut frame = vec![0, kind];
    frame.extend(flags.to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame
}

fn data(flags: u16, stream: u32, body: &[u8]) -> Vec<u8> {
    [frame(DATA, flags, stream, body.len() as u32), body.to_vec()].concat()
}

/// A session, and the peer's end of its pipe.
struct Case {
    session: Session,
    drivers: JoinSet<Ended>,
    peer: DuplexStream,
    unread: Arc<Unread>,
    /// Streams that the peer has opened.
    inbound: tokio::sync::mpsc::UnboundedReceiver<Stream>,
}

impl Case {
    fn new(side: Side, config: MuxConfig, limit: usize, pipe: usize) -> Self {
        let (near, peer) = tokio::io::duplex(pipe);
        let unread = Unread::new(limit);
        let (session, driver): (Session, Driver) = session_within(Box::new(near), side, config, Arc::clone(&unread));
        let (sender, inbound) = tokio::sync::mpsc::unbounded_channel();
        let mut drivers = JoinSet::new();
        drivers.spawn(driver.run(GOODBYE, move |stream| drop(sender.send(stream))));
        Self { session, drivers, peer, unread, inbound }
    }

    fn server() -> Self {
        Self::new(Side::Server, CONFIG, usize::MAX, 16 * 1024 * 1024)
    }

    async fn say(&mut self, bytes: &[u8]) {
        within(self.peer.write_all(bytes)).await.unwrap();
    }

    /// Everything that can happen has happened.
    async fn settle(&self) {
        stays_pending(std::future::pending::<()>()).await;
    }

    async fn open(&self) -> Stream {
        within(self.session.open(b"!")).await.unwrap()
    }

    async fn broken(mut self) -> String {
        match within(self.drivers.join_next()).await.unwrap().unwrap() {
            Ended::Broken(why) => why,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_full_of_tiny_frames_is_cut_and_no_other() {
    let mut case = Case::server();
    let (flooded, other) = (case.open().await, case.open().await);
    let tiny = data(ACK, 2, b"x");
    case.say(&tiny.repeat(MAX_SMALL)).await;
    case.settle().await;
    assert_eq!(case.unread.bytes(), MAX_SMALL * (1 + FRAME_COST));
    assert!(!flooded.is_closed(), "as many as may wait");
    assert_eq!(read(&flooded).await.unwrap(), "x");
    case.say(&tiny).await;
    case.settle().await;
    assert!(!flooded.is_closed(), "one was read, one has come");
    case.say(&tiny).await;
    case.settle().await;
    assert!(flooded.is_closed());
    assert_eq!((read(&flooded).await, case.unread.bytes()), (None, 0));
    // More of it goes nowhere, and the session goes on.
    case.say(&tiny.repeat(1000)).await;
    case.say(&data(ACK, 4, b"fine")).await;
    assert_eq!(read(&other).await.unwrap(), "fine");
    assert_eq!(case.unread.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn frames_that_carry_something_are_limited_by_the_window_alone() {
    let mut case = Case::server();
    let stream = case.open().await;
    case.say(&data(ACK, 2, &[7; 16]).repeat(super::super::STREAM_WINDOW / 16)).await;
    case.settle().await;
    assert!(!stream.is_closed());
    case.say(&frame(DATA, 1 << 2, 2, 0)).await;
    assert_eq!(read_to_end(&stream).await.len(), super::super::STREAM_WINDOW);
    assert_eq!(case.unread.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn beyond_what_may_wait_in_all_the_streams_that_hold_much_are_cut() {
    let limit = 300_000;
    let mut case = Case::new(Side::Server, CONFIG, limit, 16 * 1024 * 1024);
    let (first, second, third) = (case.open().await, case.open().await, case.open().await);
    let piece = |stream| data(ACK, stream, &[7; 50_000]);
    for stream in [2, 4, 2, 4, 2] {
        case.say(&piece(stream)).await;
    }
    case.settle().await;
    assert_eq!(case.unread.bytes(), 5 * (50_000 + FRAME_COST));
    // Whoever has little goes on; whoever has much and gets more does not.
    case.say(&piece(6)).await;
    case.settle().await;
    assert!(!first.is_closed() && !second.is_closed() && !third.is_closed());
    case.say(&piece(4)).await;
    case.settle().await;
    assert!(!first.is_closed() && second.is_closed() && !third.is_closed());
    assert_eq!(case.unread.bytes(), 4 * (50_000 + FRAME_COST));
    drop((first, third));
    assert_eq!(case.unread.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn another_limit_of_what_may_wait_counts_from_the_next_frame_on() {
    let mut case = Case::new(Side::Server, CONFIG, usize::MAX, 16 * 1024 * 1024);
    let (first, second) = (case.open().await, case.open().await);
    let piece = |stream| data(ACK, stream, &[7; 50_000]);
    for stream in [2, 4, 2, 4] {
        case.say(&piece(stream)).await;
    }
    case.settle().await;
    case.unread.set_limit(100_000);
    case.settle().await;
    assert!(!first.is_closed() && !second.is_closed(), "what waits already is not cut");
    case.say(&piece(2)).await;
    case.settle().await;
    assert!(first.is_closed() && !second.is_closed());
    case.unread.set_limit(300_000);
    case.say(&piece(4)).await;
    case.settle().await;
    assert!(!second.is_closed());
    assert_eq!(case.unread.bytes(), 3 * (50_000 + FRAME_COST));
}

#[tokio::test(start_paused = true)]
async fn what_comes_for_a_stream_that_is_gone_is_kept_by_nobody() {
    // The peer takes nothing at all, not even that streams are gone.
    let mut case = Case::new(Side::Server, CONFIG, usize::MAX, 64);
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(within(case.session.open(&[7; 500])).await.unwrap());
    }
    for at in 0..100 {
        case.say(&data(ACK, 2 + 2 * at, &[7; 1000])).await;
    }
    case.settle().await;
    assert_eq!(case.unread.bytes(), 100 * (1000 + FRAME_COST));
    let weak: Vec<_> = streams.iter().map(|stream| Arc::downgrade(&stream.mux().0)).collect();
    drop(streams);
    assert!(weak.iter().all(|stream| stream.upgrade().is_none()));
    for at in 0..100 {
        case.say(&data(0, 2 + 2 * at, &[7; 1000])).await;
    }
    case.settle().await;
    assert_eq!(case.unread.bytes(), 0);
    assert!(!case.session.is_closed());
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_the_rules_of_yamux_ends_the_session() {
    let window = super::super::STREAM_WINDOW;
    let too_much = data(ACK, 2, &[7; 1024]).repeat(window / 1024 + 1);
    let cases: [(&str, Vec<u8>); 9] = [
        ("no such version", vec![9; 100]),
        ("no such kind", frame(9, 0, 2, 0)),
        ("a giant frame", frame(DATA, ACK, 2, u32::MAX)),
        ("a frame larger than agreed", frame(DATA, ACK, 2, SPLIT_SEND as u32 + 1)),
        ("more than the window", too_much),
        ("a window that overflows", frame(WINDOW_UPDATE, ACK, 2, u32::MAX).repeat(2)),
        ("a stream with a number of ours", frame(WINDOW_UPDATE, SYN, 8, 0)),
        ("a stream that is open", frame(WINDOW_UPDATE, SYN, 1, 0).repeat(2)),
        ("thousands of streams", (0..5000).flat_map(|at| frame(WINDOW_UPDATE, SYN, 1 + 2 * at, 0)).collect()),
    ];
    for (what, bytes) in cases {
        let mut case = Case::server();
        let stream = case.open().await;
        case.say(&bytes).await;
        within(case.session.ended()).await;
        assert!(stream.is_closed(), "{what}");
        drop(stream);
        assert_eq!(case.unread.bytes(), 0, "{what}");
        assert!(!case.broken().await.is_empty(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn frames_for_nobody_harm_nobody() {
    let mut case = Case::server();
    let stream = case.open().await;
    for bytes in [
        data(0, 1000, &[7; 1000]),
        frame(WINDOW_UPDATE, 0, 1000, u32::MAX),
        frame(DATA, RST, 1000, 0),
        data(RST, 1000, &[7; 1000]),
        frame(2, SYN, 0, 77).repeat(10_000),
        frame(DATA, ACK, 2, 0).repeat(10_000),
    ] {
        case.say(&bytes).await;
    }
    case.say(&data(ACK, 2, b"fine")).await;
    assert_eq!(read(&stream).await.unwrap(), "fine");
    assert_eq!(case.unread.bytes(), 0);
    // What comes along with a reset is not counted either.
    case.say(&data(RST, 2, &[7; 1000])).await;
    assert_eq!(read(&stream).await, None);
    assert_eq!(case.unread.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_begin_with_data() {
    for side in [Side::Server, Side::Agent] {
        let mut case = Case::new(side, CONFIG, usize::MAX, 1 << 20);
        let id = if side == Side::Server { 1 } else { 2 };
        case.say(&data(SYN, id, &[7; 1000])).await;
        let stream = within(case.inbound.recv()).await.unwrap();
        assert_eq!(case.unread.bytes(), 1000 + FRAME_COST);
        assert_eq!(read(&stream).await.unwrap().len(), 1000);
        assert_eq!(case.unread.bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_takes_as_many_streams_as_were_agreed() {
    let config = MuxConfig { max_streams: 100, ..CONFIG };
    let mut case = Case::new(Side::Agent, config, usize::MAX, 1 << 20);
    for at in 0..2 * 100 + 16 {
        case.say(&frame(WINDOW_UPDATE, SYN, 2 + 2 * at, 0)).await;
    }
    case.settle().await;
    assert!(!case.session.is_closed());
    case.say(&frame(WINDOW_UPDATE, SYN, 5000, 0)).await;
    case.broken().await;
}

/// A session that has more to say than its pipe takes, from the middle of a frame on.
async fn stuffed(side: Side, pipe: usize) -> (Case, Stream, Stream, JoinSet<()>) {
    let case = Case::new(side, CONFIG, usize::MAX, pipe);
    let (stream, other) = (case.open().await, case.open().await);
    let mut tasks = JoinSet::new();
    let writer = stream.clone();
    tasks.spawn(async move { drop(write(&writer, &pattern(200_000)).await) });
    case.settle().await;
    assert!(!case.session.is_closed());
    // Whoever writes more than the window waits, too.
    let writer = other.clone();
    tasks.spawn(async move { drop(write(&writer, &pattern(2_000_000)).await) });
    case.settle().await;
    (case, stream, other, tasks)
}

/// The number of the first stream that each side opens.
fn first_of(side: Side) -> u32 {
    if side == Side::Server { 2 } else { 1 }
}

#[tokio::test(start_paused = true)]
async fn data_behind_a_ping_arrives_although_nothing_is_taken() {
    for side in [Side::Server, Side::Agent] {
        let (mut case, stream, _other, _tasks) = stuffed(side, 1024).await;
        case.say(&frame(PING, SYN, 0, 7)).await;
        case.say(&data(ACK, first_of(side), b"behind a ping")).await;
        assert_eq!(read(&stream).await.unwrap(), "behind a ping");
        // However many there are.
        for _ in 0..100 {
            case.say(&frame(PING, SYN, 0, 8)).await;
            case.say(&data(0, first_of(side), b"behind more")).await;
            assert_eq!(read(&stream).await.unwrap(), "behind more");
        }
        assert!(!case.session.is_closed());
    }
}

/// The next frame that leaves.
async fn next_frame(peer: &mut DuplexStream) -> (Frame, Vec<u8>) {
    let mut header = [0; HEADER];
    within(peer.read_exact(&mut header)).await.unwrap();
    let frame = Frame::of(&header);
    let mut body = vec![0; if frame.kind == DATA { frame.length } else { 0 }];
    within(peer.read_exact(&mut body)).await.unwrap();
    (frame, body)
}

/// The pings that are answered until nothing more leaves.
async fn answered(case: &mut Case) -> Vec<usize> {
    let mut answers = Vec::new();
    while let Ok((frame, _)) = tokio::time::timeout(Duration::from_millis(1), next_frame(&mut case.peer)).await {
        if frame.kind == PING && frame.flags & ACK != 0 {
            assert_eq!((frame.flags, frame.stream), (ACK, 0));
            answers.push(frame.length);
        }
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_in_order() {
    let mut case = Case::server();
    for ping in [7, 8, u32::MAX] {
        case.say(&frame(PING, SYN, 0, ping)).await;
    }
    // One about a stream is no ping of yamux's, one of another version no ping at all.
    case.say(&frame(PING, SYN, 2, 9)).await;
    assert_eq!(answered(&mut case).await, [7, 8, u32::MAX as usize]);

    let (mut case, _stream, _other, _tasks) = stuffed(Side::Server, 1024).await;
    for ping in 0..1000 {
        case.say(&frame(PING, SYN, 0, ping)).await;
    }
    case.settle().await;
    assert_eq!(answered(&mut case).await, Vec::from_iter(0..1000));
    case.say(&frame(PING, SYN, 0, 4000)).await;
    assert_eq!(answered(&mut case).await, [4000]);
}

#[tokio::test(start_paused = true)]
async fn pings_beyond_the_bound_on_control_frames_end_the_session() {
    let pipe = 64;
    let config = MuxConfig { max_streams: 8, ..CONFIG };
    let mut case = Case::new(Side::Server, config, usize::MAX, pipe);
    let stream = case.open().await;
    // Until its buffer is full, nothing says how many of the answers the pipe has taken.
    let bound = (MAX_CONTROL + (2 * 8 + 16) * HEADER) / HEADER;
    for ping in 0..bound as u32 - 1 {
        case.say(&frame(PING, SYN, 0, ping)).await;
    }
    case.settle().await;
    assert!(!case.session.is_closed(), "as many as may wait");
    let since = Instant::now();
    let _ = within(case.peer.write_all(&frame(PING, SYN, 0, 5).repeat(2 + pipe / HEADER))).await;
    within(case.session.ended()).await;
    assert!(stream.is_closed() && since.elapsed() < Duration::from_millis(1), "{:?}", since.elapsed());
    let why = case.broken().await;
    assert!(why.contains("too many answers"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_leaves_when_the_pipe_takes_bytes_again_and_there_is_nothing_else_to_say() {
    let mut case = Case::new(Side::Server, CONFIG, usize::MAX, 64);
    // More than one buffer of them.
    let many = 64 * 1024 / HEADER + 100;
    for ping in 0..many as u32 {
        case.say(&frame(PING, SYN, 0, ping)).await;
    }
    case.settle().await;
    assert_eq!(answered(&mut case).await, Vec::from_iter(0..many));
    case.say(&frame(PING, SYN, 0, 5)).await;
    assert_eq!(answered(&mut case).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_the_rules_ends_the_session_even_if_it_takes_nothing() {
    let window = super::super::STREAM_WINDOW;
    for (what, bytes) in [
        ("more than the window", data(ACK, 2, &[7; 1024]).repeat(window / 1024 + 1)),
        ("a window that overflows", frame(WINDOW_UPDATE, ACK, 2, u32::MAX).repeat(2)),
        ("a stream with a number of ours", frame(WINDOW_UPDATE, SYN, 8, 0)),
        ("a stream that is open", frame(WINDOW_UPDATE, SYN, 1, 0).repeat(2)),
        ("an answer to no ping", frame(PING, ACK, 0, 12_345)),
    ] {
        let (mut case, stream, _other, _tasks) = stuffed(Side::Server, 1024).await;
        let since = Instant::now();
        // It may end before all of it was taken.
        let _ = within(case.peer.write_all(&bytes)).await;
        within(case.session.ended()).await;
        assert!(stream.is_closed() && since.elapsed() < Duration::from_millis(1), "{what}: {:?}", since.elapsed());
        assert_eq!(case.broken().await, BROKEN, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_heard_although_nothing_is_taken() {
    let (mut case, stream, _other, mut tasks) = stuffed(Side::Server, 1024).await;
    case.say(&frame(PING, SYN, 0, 7)).await;
    case.say(&data(ACK, 2, b"the last of it")).await;
    case.say(&frame(GO_AWAY, 0, 0, 0)).await;
    assert_eq!(read_to_end(&stream).await, b"the last of it");
    while let Some(ended) = within(tasks.join_next()).await {
        ended.unwrap();
    }
    assert_eq!(within(case.drivers.join_next()).await.unwrap().unwrap(), Ended::ByPeer);
}

#[tokio::test(start_paused = true)]
async fn our_own_pings_reach_the_peer_and_its_answers_yamux() {
    let mut case = Case::server();
    let _stream = case.open().await;
    let (frame_of_ours, _) = next_frame(&mut case.peer).await;
    assert_eq!((frame_of_ours.kind, frame_of_ours.flags), (PING, SYN));
    case.say(&frame(PING, ACK, 0, frame_of_ours.length as u32)).await;
    case.settle().await;
    assert!(!case.session.is_closed());
    // yamux knows the answer: it has no ping under way any more, and a second answer is one to none.
    case.say(&frame(PING, ACK, 0, frame_of_ours.length as u32)).await;
    assert!(case.broken().await.contains(BROKEN));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the peer takes meanwhile, in whatever pieces its pings and data come: all data arrives, and every ping is
    /// answered.
    #[test]
    fn pings_between_data_are_answered_and_all_data_arrives(
        parts in prop::collection::vec(prop_oneof![Just(None), (0..500_usize).prop_map(Some)], 1..40),
        piece in 1..40_usize,
        pipe in 1..2000_usize,
        takes in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (mut case, stream, _other, _tasks) = stuffed(Side::Server, pipe).await;
            let (mut bytes, mut sent, mut pings) = (Vec::new(), Vec::new(), 0);
            for part in parts {
                match part {
                    None => {
                        bytes.extend(frame(PING, SYN, 0, pings));
                        pings += 1;
                    }
                    Some(length) => {
                        let body = &pattern(1000)[sent.len() % 251..][..length];
                        bytes.extend(data(ACK, 2, body));
                        sent.extend_from_slice(body);
                    }
                }
            }
            let mut scratch = [0; 100];
            for piece in bytes.chunks(piece) {
                case.say(piece).await;
                if takes {
                    let _ = case.peer.read(&mut scratch).now_or_never();
                }
            }
            let mut got = Vec::new();
            while got.len() < sent.len() {
                got.extend_from_slice(&read(&stream).await.unwrap());
            }
            assert!(got == sent);
            if !takes {
                assert_eq!(answered(&mut case).await, Vec::from_iter(0..pings as usize));
            }
            assert!(!case.session.is_closed());
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, in whatever pieces: the session ends or goes on, nothing hangs and nothing stays counted.
    #[test]
    fn any_frames_end_or_go_on(
        frames in prop::collection::vec((0..4_u8, 0..16_u16, 0..10_u32, 0..300_u32), 0..200),
        piece in 1..64_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut case = Case::server();
            let streams = [case.open().await, case.open().await, case.open().await];
            let mut bytes = Vec::new();
            for (kind, flags, stream, length) in frames {
                bytes.extend(frame(kind, flags, stream, length));
                if kind == DATA {
                    bytes.resize(bytes.len() + length as usize, 7);
                }
            }
            for piece in bytes.chunks(piece) {
                if case.peer.write_all(piece).await.is_err() {
                    break;
                }
            }
            case.settle().await;
            while case.inbound.try_recv().is_ok() {}
            drop(streams);
            assert_eq!(case.unread.bytes(), 0);
            let Case { session, mut drivers, mut peer, .. } = case;
            session.close();
            let mut rest = Vec::new();
            let (ended, _) = within(async { tokio::join!(drivers.join_next(), peer.read_to_end(&mut rest)) }).await;
            ended.unwrap().unwrap();
        });
    }
}
