//! Two sessions that are connected, for the tests of this room.
//!
//! The tests pause the clock: it moves only when every task waits, so that a deadline that passes proves that nothing
//! else can happen any more, and no test waits for real.

use std::future::{Future, poll_fn};
use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use http::{HeaderMap, Method, StatusCode, Version};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::carriers::in_process;
use super::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH, session};
use super::framed::{FrameReader, FrameWriter};
use super::session::{Driver, Ended, Session, Stream};
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::exchange::{RequestHead, ResponseHead, Scheme};
use crate::protocol::frame::{MAX_HEAD, Status};
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use crate::transport::Pipe;
use crate::values::{Name, RequestId};

/// How long a goodbye may take.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);

pub(crate) const CONFIG: MuxConfig = MuxConfig { max_streams: 1000, yield_first: false, window_growth: WINDOW_GROWTH };

/// One end of two connected sessions.
pub(crate) struct End {
    pub(crate) session: Session,
    pub(crate) driver: AbortHandle,
    inbound: mpsc::UnboundedReceiver<Stream>,
}

/// Both ends, and the tasks that drive them.
pub(crate) struct Pair {
    pub(crate) server: End,
    pub(crate) agent: End,
    pub(crate) drivers: JoinSet<Ended>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(CONFIG, 256 * 1024)
    }

    /// Over a pipe that holds `capacity` bytes.
    pub(crate) fn with(config: MuxConfig, capacity: usize) -> Self {
        let (near, far) = tokio::io::duplex(capacity);
        let mut drivers = JoinSet::new();
        let server = End::new(Box::new(near), Side::Server, config, &mut drivers);
        let agent = End::new(Box::new(far), Side::Agent, config, &mut drivers);
        Self { server, agent, drivers }
    }

    /// Without a multiplexer.
    fn in_process() -> Self {
        let (near, far) = in_process::pair();
        let mut drivers = JoinSet::new();
        let (server, agent) = (End::over(near, &mut drivers), End::over(far, &mut drivers));
        Self { server, agent, drivers }
    }

    /// A pair over each carrier: what holds for one holds for all.
    pub(crate) fn of_each_carrier() -> [Self; 2] {
        [Self::new(), Self::in_process()]
    }

    /// A stream that the server has opened: its end, and the agent's.
    pub(crate) async fn stream(&mut self) -> (Stream, Stream) {
        let near = within(self.server.session.open(b"!")).await.unwrap();
        let far = self.agent.accept().await;
        assert_eq!(read(&far).await.as_deref(), Some(&b"!"[..]));
        (near, far)
    }
}

impl End {
    pub(crate) fn new(pipe: Box<dyn Pipe>, side: Side, config: MuxConfig, drivers: &mut JoinSet<Ended>) -> Self {
        Self::over(session(pipe, side, config), drivers)
    }

    fn over((session, driver): (Session, Driver), drivers: &mut JoinSet<Ended>) -> Self {
        let (sender, inbound) = mpsc::unbounded_channel();
        // Whoever drops the receiver wants no streams.
        let driver = drivers.spawn(driver.run(GOODBYE, move |stream| drop(sender.send(stream))));
        Self { session, driver, inbound }
    }

    /// The next stream that the other end has opened.
    pub(crate) async fn accept(&mut self) -> Stream {
        within(self.inbound.recv()).await.unwrap()
    }
}

/// What must happen before everything stands still.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("everything stands still")
}

/// Lets everything happen that can, and says that `future` is not among it.
pub(crate) async fn stays_pending<T>(future: impl Future<Output = T>) {
    let late = tokio::time::timeout(Duration::from_millis(1), future).await;
    assert!(late.is_err(), "it did not wait");
}

pub(crate) async fn read(stream: &Stream) -> Option<Bytes> {
    within(poll_fn(|cx| stream.poll_read(cx))).await
}

pub(crate) async fn read_to_end(stream: &Stream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = read(stream).await {
        all.extend_from_slice(&bytes);
    }
    all
}

pub(crate) async fn write(stream: &Stream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = poll_fn(|cx| stream.poll_write(cx, bytes)).await?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Puts status and head of an answer.
pub(crate) fn put_answer(writer: &mut FrameWriter) {
    writer.gather().put_u8(Status::Accepted as u8);
    let status = StatusCode::SWITCHING_PROTOCOLS;
    ResponseHead { status, version: Version::HTTP_11, headers: HeaderMap::new(), local: None, reason: None }
        .put(writer.gather())
        .unwrap();
}

/// The server's end of a stream, past the head of the answer.
pub(crate) async fn past_answer(near: Stream) -> FrameReader {
    let mut reader = FrameReader::new(near, Decoder::response(MAX_HEAD));
    assert_eq!(within(reader.event()).await, Ok(Event::Status(Status::Accepted)));
    assert!(matches!(within(reader.event()).await, Ok(Event::Response(_))));
    reader
}

/// A stream past the head of the answer: what the agent writes, and the server reads.
pub(crate) async fn answer(pair: &mut Pair) -> (FrameWriter, FrameReader) {
    let (near, far) = pair.stream().await;
    let mut writer = FrameWriter::new(far);
    put_answer(&mut writer);
    writer.flush().await.unwrap();
    (writer, past_answer(near).await)
}

/// A stream past both heads: the server's two directions, and the agent's.
pub(crate) async fn upgraded(pair: &mut Pair) -> [(FrameReader, FrameWriter); 2] {
    let (near, far) = pair.stream().await;
    let (mut asking, mut answering) = (FrameWriter::new(near.clone()), FrameWriter::new(far.clone()));
    let address = "192.0.2.1:80".parse().unwrap();
    let service = Name::new("alice").unwrap();
    let (kind, request_id) = (ServiceKind::Http, RequestId(1));
    Preface { service, visitor: address, server: address, kind, request_id }.put(asking.gather()).unwrap();
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: None,
        target: Bytes::from_static(b"/"),
        protocol: None,
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        has_body: false,
    }
    .put(asking.gather())
    .unwrap();
    asking.flush().await.unwrap();
    let mut asked = FrameReader::new(far, Decoder::request(MAX_HEAD));
    assert!(matches!(within(asked.event()).await, Ok(Event::Preface(_))));
    assert!(matches!(within(asked.event()).await, Ok(Event::Request(_))));
    put_answer(&mut answering);
    answering.flush().await.unwrap();
    [(past_answer(near).await, asking), (asked, answering)]
}

/// Bytes that show when some are missing or out of place.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}
