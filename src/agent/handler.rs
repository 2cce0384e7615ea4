//! One stream, from its preface to its end: the exchange as the local application sees it.

mod note;
mod visitor;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BufMut;
use http::header::{EXPECT, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::local::{Answer, AnswerBody, Local, LocalError, RequestBody, Sending, Slot, Switching, switched};
use crate::agent::routes::{AllLeads, Leads};
use crate::limits::{HeldHeads, Holder, Permits, head_memory};
use crate::link::body::{SendError, send_body};
use crate::link::copy::both_ways;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::link::mux::MuxStream;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::exchange::{RequestHead, ResponseHead};
use crate::protocol::frame::{MAX_HEAD, Reset, Status};
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use note::Note;
use visitor::Visitor;

/// How long the status byte may wait for the first bytes of the answer.
const HOLD_BACK: Duration = Duration::from_millis(5);

/// How long preface and head may take to arrive; the server sends them at once.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// How long an application may take to ask for a body that waits to be asked for. Many never do.
const ASK_ANYWAY: Duration = Duration::from_secs(1);

/// An upgraded connection without a byte for so long is given up. The server's own limit comes sooner.
const UPGRADED_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long to wait for an application that does not read the data before an abort.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// Serves streams.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) leads: AllLeads,
    permits: Permits,
    heads: HeldHeads,
    draining: AtomicBool,
}

impl Handler {
    /// Serves up to `max_streams` streams at once and charges their heads to `heads`.
    pub(super) fn new(leads: AllLeads, max_streams: usize, heads: HeldHeads) -> Self {
        Self { leads, permits: Permits::new(max_streams), heads, draining: AtomicBool::new(false) }
    }

    /// Refuses new streams from now on; open ones go on.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Serves one stream to its end, whatever happens.
    pub(super) async fn serve(self: Arc<Self>, stream: MuxStream) {
        let reader = FrameReader::new(stream.clone(), Decoder::request(MAX_HEAD));
        let mut writer = FrameWriter::new(stream);
        if let Err(refusal) = self.exchange(reader, &mut writer).await {
            match refusal {
                Refusal::Status(status) => {
                    writer.gather().put_u8(status as u8);
                    // Nobody to tell, if it fails: the stream is gone.
                    let _ = writer.flush().await;
                }
                Refusal::Reset(reason) => writer.reset(reason),
                Refusal::Gone => {}
            }
        }
    }

    async fn exchange(&self, mut reader: FrameReader, writer: &mut FrameWriter) -> Result<(), Refusal> {
        let preface = match tokio::time::timeout(HEAD_DEADLINE, reader.event()).await {
            Ok(Ok(Event::Preface(preface))) => preface,
            Ok(Err(_)) => return Err(Refusal::Gone),
            Ok(Ok(_)) | Err(_) => return Err(Refusal::Status(Status::Malformed)),
        };
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refusal::Status(Status::Draining));
        }
        let leads = self.leads.get(&preface.service).filter(|leads| leads.kind() == preface.kind);
        let leads = leads.ok_or(Refusal::Status(Status::UnknownService))?;
        let _permit = self.permits.try_acquire().ok_or(Refusal::Status(Status::TooManyStreams))?;
        let mut note = Note::begin(&preface);
        let ended = match preface.kind {
            ServiceKind::Http => http((&leads, &self.heads), &preface, reader, writer, &mut note).await,
            ServiceKind::Tcp | ServiceKind::Tls => Box::pin(raw(leads.own(), &preface, reader, writer, &note)).await,
        };
        note.end(&preface, &ended);
        ended
    }
}

/// Carries a connection to the local application, byte for byte.
async fn raw(
    local: &Local,
    preface: &Preface,
    reader: FrameReader,
    writer: &mut FrameWriter,
    note: &Note,
) -> Result<(), Refusal> {
    accept(writer);
    writer.flush().await.map_err(|_| Refusal::Gone)?;
    let dialled = local.dialler.dial(Some((preface.visitor, preface.server))).await;
    let mut stream = dialled.map_err(|error| unanswered(local, preface, &LocalError::dial(&error)))?;
    local.is_up(&preface.service);
    let writer = FrameWriter::new(writer.stream().clone());
    // How it ended was told to the other side already.
    if both_ways(&mut stream, reader, writer, UPGRADED_IDLE, note.meter()).await.is_err() {
        stream.reset(LAST_BYTES).await;
        return Err(Refusal::Gone);
    }
    Ok(())
}

/// Writes the status byte that accepts a stream.
fn accept(writer: &mut FrameWriter) {
    writer.gather().put_u8(Status::Accepted as u8);
}

/// Takes a request to the local application, and its answer back.
async fn http(
    (leads, heads): (&Leads, &HeldHeads),
    preface: &Preface,
    mut reader: FrameReader,
    writer: &mut FrameWriter,
    note: &mut Note,
) -> Result<(), Refusal> {
    let event = tokio::time::timeout(HEAD_DEADLINE, reader.event()).await;
    let (mut asking, held) = match event {
        Ok(Ok(Event::Request(head))) => {
            note.asked(&head);
            let memory = head_memory(&head.headers, head.target.len());
            let held = heads.hold(memory, || Holder::Service(preface.service.clone()));
            let held = held.map_err(|_| Refusal::Status(Status::TooManyStreams))?;
            accept(writer);
            (Asking::new(leads, head, reader)?, held)
        }
        Ok(Err(_)) => return Err(Refusal::Gone),
        Ok(Ok(_)) | Err(_) => {
            accept(writer);
            return Err(Refusal::Reset(Reset::Protocol));
        }
    };
    // What an await does not need is gone before it: each of ten thousand requests that wait would hold it.
    let mut answered = {
        let answer = tokio::select! {
            biased;
            answer = ask((asking.local, asking.began), preface, &mut asking.request, &mut asking.held, writer) => answer?,
            () = asking.visitor.gone() => return Err(Refusal::Gone),
        };
        asking.answered(answer, preface, writer, note)?
    };
    // The request's head is no longer in memory.
    drop(held);
    match answered {
        Answered::Switches(response, _slot) => {
            let local = asking.began.elapsed();
            Box::pin(switch(response, local, asking.visitor, writer, note)).await
        }
        Answered::Body(ref mut answer) => deliver(answer, &mut asking.visitor, preface, writer, note).await,
    }
}

/// A request on its way to an application.
struct Asking<'a> {
    local: &'a Local,
    /// When all of the request's head was here: from then on the time is the application's.
    began: Instant,
    request: Request<RequestBody>,
    switching: Switching,
    /// Lets the body go, if it waits to be asked for.
    held: Option<oneshot::Sender<()>>,
    visitor: Visitor,
}

/// What becomes of an exchange with its answer's head.
enum Answered {
    /// It is a connection from here on, which keeps the place of its request.
    Switches(Response<AnswerBody>, Option<Slot>),
    /// The head waits in the writer for what comes.
    Body(Delivery),
}

/// What is left of an answer, and of its request.
struct Delivery {
    body: AnswerBody,
    rest: Option<Sending>,
    _slot: Option<Slot>,
}

impl<'a> Asking<'a> {
    fn new(leads: &'a Leads, mut head: RequestHead, reader: FrameReader) -> Result<Self, Refusal> {
        let began = Instant::now();
        let may_switch = head.headers.contains_key(UPGRADE) || head.protocol.is_some();
        let mut visitor = Visitor::Listened(reader);
        let mut held = None;
        let body = if head.has_body {
            let body = Box::new(visitor.lend()?);
            if expects_continue(&head.headers) {
                let (go, wait) = oneshot::channel();
                held = Some(go);
                RequestBody::Held(wait, body)
            } else {
                RequestBody::Framed(body)
            }
        } else {
            visitor.read_end(may_switch)?;
            RequestBody::Empty
        };
        let local = leads.choose(&mut head);
        let (request, switching) = local.request(head, body).map_err(Refusal::Reset)?;
        Ok(Self { local, began, request, switching, held, visitor })
    }

    /// Takes the head of the answer; it leaves with the first of its body.
    fn answered(
        &self,
        answer: Answer,
        preface: &Preface,
        writer: &mut FrameWriter,
        note: &Note,
    ) -> Result<Answered, Refusal> {
        let Answer { mut response, rest, _slot } = answer;
        let switches = self.local.answer(&mut response, &self.switching);
        let switches = switches.map_err(|error| unanswered(self.local, preface, &error))?;
        note.answered(response.status());
        if switches {
            return Ok(Answered::Switches(response, _slot));
        }
        let (status, body) = respond(response, self.began.elapsed(), writer)?;
        tracing::trace!(request = %preface.request_id, %status, "the local application answered");
        Ok(Answered::Body(Delivery { body, rest, _slot }))
    }
}

/// Takes the body of an answer to the visitor.
async fn deliver(
    answer: &mut Delivery,
    visitor: &mut Visitor,
    preface: &Preface,
    writer: &mut FrameWriter,
    note: &Note,
) -> Result<(), Refusal> {
    let sent = {
        let mut sent = pin!(send_body(Pin::new(&mut answer.body), writer, None, |bytes| note.sent(bytes)));
        loop {
            tokio::select! {
                biased;
                sent = sent.as_mut() => break sent,
                () = visitor.gone() => return Err(Refusal::Gone),
                () = go_on(&mut answer.rest), if answer.rest.is_some() => {}
            }
        }
    };
    if let Err(error) = sent {
        let refusal = unsent(error, preface);
        if let Refusal::Reset(reason) = refusal {
            // After what came before. Who waits for it takes it, or is gone.
            tokio::select! {
                biased;
                () = writer.break_off(reason) => {}
                () = visitor.gone() => {}
            }
        }
        return Err(refusal);
    }
    if let Some(mut sending) = answer.rest.take() {
        // The visitor has its answer; the application takes what still comes of the request, or closes.
        tokio::select! {
            biased;
            () = visitor.gone() => {}
            () = sending.finish() => {}
        }
    }
    Ok(())
}

/// Drives what is left of a request. Cancel-safe.
async fn go_on(rest: &mut Option<Sending>) {
    if let Some(sending) = rest {
        sending.go_on().await;
    }
    *rest = None;
}

/// What becomes of an exchange whose answer was not sent to its end.
fn unsent(error: SendError<LocalError>, preface: &Preface) -> Refusal {
    match error {
        SendError::Stream(_) => Refusal::Gone,
        SendError::Trailers => Refusal::Reset(Reset::TooLarge),
        SendError::Idle => Refusal::Reset(Reset::LocalBroken),
        SendError::Body(error) => {
            tracing::debug!(request = %preface.request_id, "an answer broke off: {}", error.text);
            Refusal::Reset(Reset::LocalBroken)
        }
    }
}

/// Asks the local application. The status byte does not wait for it, but may travel with a quick answer. A body that is
/// `held` is let go when the application asks for it, or has not answered for [`ASK_ANYWAY`].
async fn ask(
    (local, began): (&Local, Instant),
    preface: &Preface,
    request: &mut Request<RequestBody>,
    held: &mut Option<oneshot::Sender<()>>,
    writer: &mut FrameWriter,
) -> Result<Answer, Refusal> {
    let asks = held.is_some().then(|| Arc::new(Notify::new()));
    let mut answer = pin!(local.send(request, preface, asks.as_ref()));
    let answer = match tokio::time::timeout_at(began + HOLD_BACK, answer.as_mut()).await {
        Ok(answer) => answer,
        Err(_) => {
            writer.flush().await.map_err(|_| Refusal::Gone)?;
            if let Some(asks) = &asks {
                tokio::select! {
                    biased;
                    answer = answer.as_mut() => return answered(local, preface, answer, held),
                    // Whether asked or not.
                    _ = tokio::time::timeout(ASK_ANYWAY, asks.notified()) => {}
                }
                let (status, version) = (StatusCode::CONTINUE, Version::HTTP_11);
                let head = ResponseHead { status, version, headers: HeaderMap::new(), local: None };
                head.put(writer.gather()).map_err(|_| Refusal::Reset(Reset::TooLarge))?;
                writer.flush().await.map_err(|_| Refusal::Gone)?;
                let_go(held);
            }
            answer.await
        }
    };
    answered(local, preface, answer, held)
}

/// Lets a body go that was held back.
fn let_go(held: &mut Option<oneshot::Sender<()>>) {
    if let Some(go) = held.take() {
        // Nobody holds it any more if the exchange is over.
        let _ = go.send(());
    }
}

fn answered(
    local: &Local,
    preface: &Preface,
    answer: Result<Answer, LocalError>,
    held: &mut Option<oneshot::Sender<()>>,
) -> Result<Answer, Refusal> {
    match answer {
        Ok(answer) => {
            local.is_up(&preface.service);
            let status = answer.response.status();
            // One that refuses does not want it; others answer while they read.
            if !status.is_client_error() && !status.is_server_error() {
                let_go(held);
            }
            Ok(answer)
        }
        Err(error) => Err(unanswered(local, preface, &error)),
    }
}

/// What becomes of an exchange that the local application has not answered.
fn unanswered(local: &Local, preface: &Preface, error: &LocalError) -> Refusal {
    local.is_down(&preface.service, error);
    let (reason, why) = (error.reason.word(), &error.text);
    tracing::debug!(request = %preface.request_id, reason, "a request failed: {why}");
    Refusal::Reset(error.reason)
}

/// Whether a request's body waits for a word of the application (RFC 9110, section 10.1.1).
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// What was an exchange is a connection from here on.
async fn switch(
    response: Response<AnswerBody>,
    local: Duration,
    visitor: Visitor,
    writer: &mut FrameWriter,
    note: &Note,
) -> Result<(), Refusal> {
    let (response, switch) = switched::of(response);
    respond(response, local, writer)?;
    writer.flush().await.map_err(|_| Refusal::Gone)?;
    let Visitor::Listened(reader) = visitor else { return Err(Refusal::Reset(Reset::Protocol)) };
    let mut connection = switch.connection().await.map_err(|error| Refusal::Reset(error.reason))?;
    let writer = FrameWriter::new(writer.stream().clone());
    // How it ended was told to the other side already.
    if both_ways(&mut connection, reader, writer, UPGRADED_IDLE, note.meter()).await.is_err() {
        connection.reset(LAST_BYTES).await;
        return Err(Refusal::Gone);
    }
    connection.ended();
    Ok(())
}

/// Why a stream ends without a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Nothing was begun.
    Status(Status),
    /// The exchange is broken off.
    Reset(Reset),
    /// The visitor, the server or the lane is gone: nobody to tell.
    Gone,
}

/// Puts the head of the answer, for which the application took so long; it leaves with the first of its body.
fn respond<B>(response: Response<B>, local: Duration, writer: &mut FrameWriter) -> Result<(StatusCode, B), Refusal> {
    let (head, body) = response.into_parts();
    let status = head.status;
    let head = ResponseHead { status, version: head.version, headers: head.headers, local: Some(local) };
    head.put(writer.gather()).map_err(|_| Refusal::Reset(Reset::TooLarge))?;
    Ok((status, body))
}
