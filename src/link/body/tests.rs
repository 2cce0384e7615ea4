use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::testing::{Pair, answer, past_answer, pattern, put_answer, stays_pending, within};
use super::*;
use crate::protocol::WireError;
use crate::protocol::frame;

const IDLE: Duration = Duration::from_secs(5);

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))])
}

async fn next(body: &mut FrameBody) -> Option<Result<Frame<Bytes>, BodyError>> {
    within(body.frame()).await
}

async fn next_data(body: &mut FrameBody) -> Bytes {
    next(body).await.unwrap().unwrap().into_data().unwrap()
}

async fn send(writer: &mut FrameWriter, data: &'static [u8]) {
    writer.data(Bytes::from_static(data)).await.unwrap();
    writer.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_is_data_trailers_and_an_end() {
    let mut pair = Pair::new();
    let (mut writer, reader) = answer(&mut pair).await;
    let stream = reader.stream().clone();
    let mut body = FrameBody::new(reader, None);
    send(&mut writer, b"one").await;
    assert_eq!(next_data(&mut body).await, "one");
    send(&mut writer, b"two").await;
    assert_eq!(next_data(&mut body).await, "two");
    assert!(!body.is_end_stream());
    exchange::put_trailers(writer.gather(), &trailers()).unwrap();
    writer.flush().await.unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap().into_trailers().unwrap(), trailers());
    assert!(!body.is_end_stream());
    writer.end().await.unwrap();
    assert!(next(&mut body).await.is_none());
    assert!(body.is_end_stream() && stream.is_read_ended());
    assert!(next(&mut body).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_came_along_is_seen_early() {
    let mut pair = Pair::new();
    let (mut writer, reader) = answer(&mut pair).await;
    let mut body = FrameBody::new(reader, None);
    writer.data(Bytes::from_static(b"all")).await.unwrap();
    writer.end().await.unwrap();
    assert!(!body.is_end_stream());
    assert_eq!(next_data(&mut body).await, "all");
    assert!(body.is_end_stream());

    let (near, far) = pair.stream().await;
    let mut writer = FrameWriter::new(far);
    put_answer(&mut writer);
    writer.end().await.unwrap();
    assert!(FrameBody::new(past_answer(near).await, None).is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_cut_or_reset_is_an_error() {
    let mut pair = Pair::new();
    for (reset, error) in
        [(None, BodyError::Read(ReadError::Cut)), (Some(Reset::LocalBroken), BodyError::Reset(Reset::LocalBroken))]
    {
        let (mut writer, reader) = answer(&mut pair).await;
        let mut body = FrameBody::new(reader, None);
        send(&mut writer, b"some").await;
        if let Some(reason) = reset {
            writer.reset(reason);
        }
        drop(writer);
        assert_eq!(next_data(&mut body).await, "some");
        // It stays an error, whoever asks again.
        for _ in 0..2 {
            assert_eq!(next(&mut body).await.unwrap().unwrap_err(), error);
            assert!(!body.is_end_stream());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_was_read_ahead_is_not_forgotten() {
    let mut pair = Pair::new();
    let (mut writer, reader) = answer(&mut pair).await;
    let mut body = FrameBody::new(reader, None);
    // Trailers that announce a field too many, and a proper end in the same piece.
    writer.gather().extend_from_slice(&[4, 0, 0, 1, b'x', 5, 0, 0, 2, 0, 1]);
    frame::put_end(writer.gather());
    writer.flush().await.unwrap();
    assert_eq!(next_data(&mut body).await, "x");
    assert!(!body.is_end_stream());
    assert_eq!(next(&mut body).await.unwrap().unwrap_err(), BodyError::Read(WireError::Short.into()));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_body_at_its_limit_and_not_before() {
    let mut pair = Pair::new();
    let (mut writer, reader) = answer(&mut pair).await;
    let mut body = FrameBody::new(reader, Some(IDLE));
    for _ in 0..3 {
        let mut waiting = Box::pin(body.frame());
        assert!(tokio::time::timeout(IDLE - Duration::from_millis(1), &mut waiting).await.is_err());
        send(&mut writer, b"alive").await;
        assert!(within(waiting).await.unwrap().is_ok());
    }
    // Whoever does not wait is not kept waiting.
    tokio::time::advance(IDLE * 3).await;
    let before = Instant::now();
    assert_eq!(next(&mut body).await.unwrap().unwrap_err(), BodyError::Idle);
    assert_eq!(before.elapsed(), IDLE);
    assert_eq!(next(&mut body).await.unwrap().unwrap_err(), BodyError::Idle);
    stays_pending(std::future::pending::<()>()).await;
    assert!(writer.stream().is_closed(), "the other side is told");
}

#[tokio::test(start_paused = true)]
async fn a_lent_reader_comes_back_and_hears_a_reset() {
    let mut pair = Pair::new();
    let (mut writer, reader) = answer(&mut pair).await;
    let (sender, mut back) = oneshot::channel();
    let mut body = FrameBody::lent(reader, sender);
    send(&mut writer, b"x").await;
    assert_eq!(next_data(&mut body).await, "x");
    assert!(back.try_recv().is_err());
    writer.end().await.unwrap();
    assert!(next(&mut body).await.is_none());
    let mut reader = within(back).await.unwrap();
    writer.reset(Reset::Cancelled);
    assert_eq!(within(reader.event()).await, Ok(Event::Reset(Reset::Cancelled)));
}

type Piece = Result<Frame<Bytes>, &'static str>;

/// A body that is made while it is sent.
fn made() -> (mpsc::UnboundedSender<Piece>, impl Body<Data = Bytes, Error = &'static str> + Send + 'static) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (sender, StreamBody::new(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))))
}

type Sent = (Result<(), SendError<&'static str>>, FrameWriter);

/// Sends a body in a task of its own.
fn spawn_sending(mut writer: FrameWriter, idle: Option<Duration>) -> (mpsc::UnboundedSender<Piece>, JoinSet<Sent>) {
    let (pieces, body) = made();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut body = std::pin::pin!(body);
        (send_body(body.as_mut(), &mut writer, idle, |_| {}).await, writer)
    });
    (pieces, tasks)
}

#[tokio::test(start_paused = true)]
async fn pieces_leave_as_soon_as_they_are_there() {
    let mut pair = Pair::new();
    let (near, far) = pair.stream().await;
    let mut writer = FrameWriter::new(far);
    put_answer(&mut writer);
    let (pieces, mut tasks) = spawn_sending(writer, Some(IDLE));
    // The head does not wait for the body.
    let mut reader = past_answer(near).await;
    for text in ["one", "two", "three"] {
        pieces.send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).unwrap();
        assert_eq!(within(reader.event()).await, Ok(Event::Data(Bytes::from_static(text.as_bytes()))));
    }
    let large = Bytes::from(pattern(300_000));
    pieces.send(Ok(Frame::data(large.clone()))).unwrap();
    let mut got = Vec::new();
    while got.len() < large.len() {
        let Ok(Event::Data(data)) = within(reader.event()).await else { panic!("no data") };
        got.extend_from_slice(&data);
    }
    assert!(got == large);
    pieces.send(Ok(Frame::trailers(trailers()))).unwrap();
    assert_eq!(within(reader.event()).await, Ok(Event::Trailers(Box::new(trailers()))));
    assert_eq!(within(reader.event()).await, Ok(Event::End));
    assert!(within(tasks.join_next()).await.unwrap().unwrap().0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_or_falls_silent_is_never_ended() {
    let mut pair = Pair::new();
    for breaks in [true, false] {
        let (writer, mut reader) = answer(&mut pair).await;
        let (pieces, mut tasks) = spawn_sending(writer, Some(IDLE));
        pieces.send(Ok(Frame::data(Bytes::from_static(b"some")))).unwrap();
        if breaks {
            pieces.send(Err("broke")).unwrap();
        }
        let before = Instant::now();
        let (result, mut writer) = within(tasks.join_next()).await.unwrap().unwrap();
        match result {
            Err(SendError::Body("broke")) if breaks => {}
            Err(SendError::Idle) if !breaks => assert_eq!(before.elapsed(), IDLE),
            other => panic!("{other:?}"),
        }
        writer.reset(Reset::RequestBroken);
        assert_eq!(within(reader.event()).await, Ok(Event::Data(Bytes::from_static(b"some"))));
        assert_eq!(within(reader.event()).await, Ok(Event::Reset(Reset::RequestBroken)));
    }
}

#[tokio::test(start_paused = true)]
async fn sending_to_nobody_ends() {
    let mut pair = Pair::new();
    let (writer, reader) = answer(&mut pair).await;
    let (pieces, mut tasks) = spawn_sending(writer, Some(IDLE));
    pieces.send(Ok(Frame::data(Bytes::from(pattern(1 << 20))))).unwrap();
    stays_pending(tasks.join_next()).await;
    drop(reader);
    let (result, _) = within(tasks.join_next()).await.unwrap().unwrap();
    assert!(matches!(result, Err(SendError::Stream(_))), "{result:?}");
}
