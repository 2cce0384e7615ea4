//! The write layer alone: what it gathers, what it bounds, and whom it wakes.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::task::{ArcWake, waker};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::time::advance;

use super::budget::{OVERTAKING, RESERVE, SPARSE};
use super::rate::{MAX_LIMIT, MIN_LIMIT};
use super::segments::{HEADER_ROOM, SEGMENT};
use super::*;

const STREAMS: usize = 10;

fn layer(capacity: usize) -> (Layer, Drain, Arc<SendBudget>, DuplexStream) {
    let (near, far) = tokio::io::duplex(capacity);
    let budget = Arc::new(SendBudget::default());
    let (layer, drain) = over(Box::new(near), Arc::default(), Arc::clone(&budget), STREAMS);
    (layer, drain, budget, far)
}

fn noop() -> Context<'static> {
    Context::from_waker(futures_util::task::noop_waker_ref())
}

#[tokio::test]
async fn writes_leave_together_and_only_when_drained() {
    let (mut layer, drain, _, mut far) = layer(1024 * 1024);
    layer.push(&mut noop(), b"head", false).unwrap();
    layer.push(&mut noop(), b"body", false).unwrap();
    let mut got = [0; 16];
    let early = tokio::time::timeout(Duration::ZERO, far.read(&mut got)).await;
    assert!(early.is_err(), "nothing leaves before the drain");
    poll_fn(|cx| drain.poll_drain(cx)).await.unwrap();
    let n = far.read(&mut got).await.unwrap();
    assert_eq!(&got[..n], b"headbody");
}

#[tokio::test]
async fn everything_is_accepted_and_nothing_is_lost() {
    let (mut layer, drain, _, mut far) = layer(1000);
    let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    for piece in sent.chunks(7000) {
        layer.push(&mut noop(), piece, false).unwrap();
    }
    let mut got = Vec::new();
    let (ended, read) = tokio::join!(poll_fn(|cx| drain.poll_shutdown(cx)), far.read_to_end(&mut got));
    ended.unwrap();
    read.unwrap();
    assert!(got == sent);
}

#[test]
fn buffers_begin_with_free_bytes_and_little_is_kept_of_them() {
    let mut segments = Segments::default();
    segments.push(&[1; 3 * SEGMENT / 2], false);
    segments.push(&[2; 12], true);
    let first = segments.unsent().unwrap();
    assert_eq!((first.len(), first[0]), (SEGMENT, 1));
    assert_eq!((segments.taken(10), segments.unsent().unwrap().len()), (0, SEGMENT - 10));
    assert_eq!(segments.taken(SEGMENT - 10), SEGMENT, "all of a buffer is data");
    // What is added now does not join a buffer that is being sent.
    let second = segments.unsent().unwrap().len();
    assert_eq!(second, SEGMENT / 2 + 12);
    segments.push(&[3; 100], false);
    assert_eq!((segments.unsent().unwrap().len(), segments.control()), (second, 12));
    assert_eq!((segments.taken(second), segments.control()), (SEGMENT / 2, 0));
    assert_eq!(segments.unsent().unwrap(), [3; 100]);
    assert_eq!(segments.taken(100), 100);
    assert!(segments.unsent().is_none());
    assert!(segments.kept() <= HEADER_ROOM + 4096, "{}", segments.kept());
}

#[tokio::test]
async fn control_frames_have_a_bound_of_their_own_for_a_peer_that_takes_none() {
    let bound = MAX_CONTROL + STREAMS * FRAME_HEADER;
    for takes in [false, true] {
        let (mut layer, drain, _, mut far) = layer(if takes { 1024 * 1024 } else { FRAME_HEADER });
        layer.push(&mut noop(), &[0; 100_000], false).unwrap();
        for _ in 0..bound / FRAME_HEADER {
            layer.push(&mut noop(), &[1; FRAME_HEADER], true).unwrap();
        }
        let more = layer.push(&mut noop(), &[1; FRAME_HEADER], true);
        assert_eq!(more.is_ok(), takes);
        if takes {
            poll_fn(|cx| drain.poll_shutdown(cx)).await.unwrap();
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), 100_000 + (bound / FRAME_HEADER + 1) * FRAME_HEADER);
        }
    }
}

/// A writer, and how often it was woken.
#[derive(Default)]
struct Writer {
    sends: StreamSends,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl ArcWake for Woken {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Writer {
    fn write(&mut self, budget: &SendBudget, length: usize) -> Option<usize> {
        let waker = waker(Arc::clone(&self.woken));
        match budget.poll_admit(&mut self.sends, &mut Context::from_waker(&waker), length) {
            Poll::Ready(granted) => Some(granted),
            Poll::Pending => None,
        }
    }

    fn is_woken(&self) -> bool {
        self.woken.0.swap(0, Ordering::Relaxed) > 0
    }

    /// Writes as much as there is room for.
    fn fill(&mut self, budget: &SendBudget) -> usize {
        std::iter::from_fn(|| self.write(budget, MAX_PAYLOAD)).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_leaves_room_for_sparse_streams_and_both_for_messages_that_cannot_wait() {
    let budget = SendBudget::default();
    let (mut bulk, mut small, mut other) = (Writer::default(), Writer::default(), Writer::default());
    bulk.fill(&budget);
    assert!(budget.queued() <= budget.limit() && budget.queued() > budget.limit() - MAX_PAYLOAD);
    let before = budget.queued();
    assert_eq!(small.write(&budget, 1000), Some(1000));
    assert_eq!(budget.queued(), before + 1000 + FRAME_HEADER);
    let mut many: Vec<Writer> = (0..100).map(|_| Writer::default()).collect();
    let admitted = many.iter_mut().filter_map(|writer| writer.write(&budget, 1000)).count();
    assert!(admitted > 20 && admitted < 100, "{admitted}");
    assert!(budget.queued() <= budget.limit() + RESERVE);
    assert_eq!(other.write(&budget, 1000), None);
    assert_eq!(budget.admit_now(&mut bulk.sends, 10), Some(10), "a message that cannot wait");
    while budget.admit_now(&mut bulk.sends, MAX_PAYLOAD).is_some() {}
    assert!(budget.queued() <= budget.limit() + 2 * RESERVE);
}

#[tokio::test(start_paused = true)]
async fn a_sparse_stream_goes_before_those_that_wait_and_bulk_takes_turns() {
    let budget = SendBudget::default();
    let mut bulks: Vec<Writer> = (0..20).map(|_| Writer::default()).collect();
    bulks[0].fill(&budget);
    for bulk in &mut bulks {
        assert_eq!(bulk.fill(&budget), 0);
    }
    let mut small: Vec<Writer> = (0..40).map(|_| Writer::default()).collect();
    for writer in &mut small {
        writer.write(&budget, 1000);
    }
    assert!(small.last_mut().unwrap().write(&budget, 1000).is_none());
    let mut turns = vec![0; bulks.len()];
    while turns.iter().any(|turns| *turns < 3) {
        let bytes = budget.queued() / 2;
        budget.sent(bytes);
        for (turns, bulk) in turns.iter_mut().zip(&mut bulks) {
            if bulk.is_woken() && bulk.fill(&budget) > 0 {
                *turns += 1;
            }
        }
        assert!(turns.iter().max().unwrap() - turns.iter().min().unwrap() <= 1, "{turns:?}");
        assert!(budget.queued() <= budget.limit() + RESERVE);
    }
    assert!(small.last_mut().unwrap().is_woken() && small[39].write(&budget, 1000).is_some());
}

#[tokio::test(start_paused = true)]
async fn sparse_streams_do_not_starve_bulk() {
    let budget = SendBudget::default();
    let mut bulk = Writer::default();
    bulk.fill(&budget);
    bulk.is_woken();
    let mut overtaken = 0;
    while !bulk.is_woken() {
        // Another new stream each time: all of them are sparse.
        let mut small = Writer::default();
        if small.write(&budget, 1000).is_some() {
            overtaken += 1000;
        } else {
            budget.sent(2000);
        }
        assert!(overtaken <= OVERTAKING + RESERVE + MAX_LIMIT, "{overtaken}");
    }
    assert!(bulk.write(&budget, MAX_PAYLOAD).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_pauses_is_sparse_again() {
    let budget = SendBudget::default();
    let (mut bulk, mut chat) = (Writer::default(), Writer::default());
    bulk.fill(&budget);
    let said = std::iter::from_fn(|| chat.write(&budget, 1000)).sum::<usize>();
    assert_eq!(said, SPARSE / 1000 * 1000, "then it counts as bulk");
    // It has its turn, and then pauses while the other goes on.
    for _ in 0..40 {
        budget.sent(20_000);
        if chat.is_woken() {
            assert!(chat.write(&budget, 1000).is_some());
        }
        if bulk.is_woken() {
            bulk.fill(&budget);
        }
    }
    assert!(bulk.write(&budget, 1000).is_none(), "the queue is full");
    assert_eq!(chat.write(&budget, 1000), Some(1000));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_does_not_come_back_holds_up_no_other() {
    let budget = SendBudget::default();
    let mut first = Writer::default();
    first.fill(&budget);
    let mut gone: Vec<Writer> = (0..100).map(|_| Writer::default()).collect();
    for writer in &mut gone {
        assert_eq!(writer.write(&budget, MAX_PAYLOAD), None);
    }
    let mut last = Writer::default();
    assert_eq!(last.write(&budget, MAX_PAYLOAD), None);
    let mut again = budget.sent(budget.queued());
    for _ in 0..100 {
        if again {
            again = budget.sent(0);
        }
    }
    assert!(!again && last.is_woken() && last.write(&budget, MAX_PAYLOAD).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_queued_comes_back_and_the_end_wakes_everybody() {
    let budget = SendBudget::default();
    let (mut first, mut second, mut third) = (Writer::default(), Writer::default(), Writer::default());
    first.fill(&budget);
    assert!(second.write(&budget, MAX_PAYLOAD).is_none() && third.write(&budget, MAX_PAYLOAD).is_none());
    budget.forget(&mut second.sends);
    assert!(second.is_woken() && !third.is_woken());
    let before = budget.queued();
    budget.give_back(&mut first.sends, 50_000, 10_000);
    assert_eq!(budget.queued(), before - 40_000);
    budget.give_back(&mut first.sends, 1000, 0);
    assert_eq!(budget.queued(), before - 41_000 - FRAME_HEADER);
    assert!(third.is_woken());
    budget.sent(budget.queued());
    assert!(third.fill(&budget) > 0);
    first.fill(&budget);
    first.is_woken();
    budget.close();
    assert!(first.is_woken() && first.write(&budget, MAX_PAYLOAD) == Some(MAX_PAYLOAD));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_what_the_link_takes_in_a_tenth_of_a_second() {
    let budget = SendBudget::default();
    let mut bulk = Writer::default();
    for (per_second, expected) in [(125_000, MIN_LIMIT), (1_000_000, 100_000), (50_000_000, MAX_LIMIT), (0, MIN_LIMIT)]
    {
        for _ in 0..100 {
            bulk.fill(&budget);
            advance(Duration::from_millis(10)).await;
            budget.sent((per_second / 100).min(budget.queued()));
        }
        let limit = budget.limit();
        assert!(limit.abs_diff(expected) <= expected / 50, "{per_second}: {limit}");
    }
    // Without demand the link tells nothing about itself.
    budget.sent(budget.queued());
    let limit = budget.limit();
    for _ in 0..100 {
        advance(Duration::from_millis(100)).await;
        budget.sent(10);
    }
    assert_eq!(budget.limit(), limit);
}
