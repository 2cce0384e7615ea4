//! One stream, from its preface to its end: the exchange as the local application sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BufMut;
use http::header::{EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::sync::{Notify, oneshot};

use super::leads::{AllLeads, Leads};
use super::local::{Answer, AnswerBody, Local, LocalError, RequestBody, Sending, switched};
use crate::limits::Permits;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::exchange::ResponseHead;
use crate::protocol::frame::{MAX_HEAD, Reset, Status};
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use crate::transport::body::{FrameBody, SendError, send_body};
use crate::transport::copy::both_ways;
use crate::transport::framed::{FrameReader, FrameWriter};
use crate::transport::mux::MuxStream;

/// How long the status byte may wait for the first bytes of the answer.
const HOLD_BACK: Duration = Duration::from_millis(5);

/// How long preface and head may take to arrive; the server sends them at once.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// How often a request whose body is not being read looks whether anybody still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long an application may take to ask for a body that waits to be asked for. Many never do.
const ASK_ANYWAY: Duration = Duration::from_secs(1);

/// An upgraded connection without a byte for so long is given up. The server's own limit comes sooner.
const UPGRADED_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// Serves streams.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) leads: AllLeads,
    permits: Permits,
    draining: AtomicBool,
}

impl Handler {
    /// Serves `max_streams` streams at once.
    pub(super) fn new(leads: AllLeads, max_streams: usize) -> Self {
        Self { leads, permits: Permits::new(max_streams), draining: AtomicBool::new(false) }
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
        writer.gather().put_u8(Status::Accepted as u8);
        match preface.kind {
            ServiceKind::Http => http(&leads, &preface, reader, writer).await,
            ServiceKind::Tcp | ServiceKind::Tls => Box::pin(raw(leads.own(), &preface, reader, writer)).await,
        }
    }
}

/// Carries a connection to the local application, byte for byte.
async fn raw(local: &Local, preface: &Preface, reader: FrameReader, writer: &mut FrameWriter) -> Result<(), Refusal> {
    writer.flush().await.map_err(|_| Refusal::Gone)?;
    let dialled = local.dialler.dial(Some((preface.visitor, preface.server))).await;
    let mut stream = dialled.map_err(|error| unanswered(local, preface, &LocalError::dial(&error)))?;
    local.is_up(&preface.service);
    let writer = FrameWriter::new(writer.stream().clone());
    // How it ended was told to the other side already.
    both_ways(&mut stream, reader, writer, UPGRADED_IDLE, |_, _| {}).await.map_err(|_| {
        stream.reset();
        Refusal::Gone
    })
}

/// Takes a request to the local application, and its answer back.
async fn http(
    leads: &Leads,
    preface: &Preface,
    mut reader: FrameReader,
    writer: &mut FrameWriter,
) -> Result<(), Refusal> {
    let mut head = match tokio::time::timeout(HEAD_DEADLINE, reader.event()).await {
        Ok(Ok(Event::Request(head))) => head,
        Ok(Err(_)) => return Err(Refusal::Gone),
        Ok(Ok(_)) | Err(_) => return Err(Refusal::Reset(Reset::Protocol)),
    };
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
    let answer = tokio::select! {
        biased;
        answer = ask(local, preface, request, &mut held, writer) => answer?,
        () = visitor.gone() => return Err(Refusal::Gone),
    };
    let Answer { mut response, mut rest, _slot } = answer;
    let switches = local.answer(&mut response, &switching);
    if switches.map_err(|error| unanswered(local, preface, &error))? {
        return Box::pin(switch(response, visitor, writer)).await;
    }
    if has_other_coding(response.headers()) && !response.body().is_end_stream() {
        let at = &local.text;
        tracing::warn!(service = %preface.service, "the local application at {at} sent a body in a transfer coding other than `chunked`");
        return Err(Refusal::Reset(Reset::LocalBroken));
    }
    let (head, body) = respond(response, writer)?;
    tracing::trace!(request = %preface.request_id, status = %head, "the local application answered");
    let mut body = std::pin::pin!(body);
    let mut sent = std::pin::pin!(send_body(body.as_mut(), writer, None, |_| {}));
    loop {
        tokio::select! {
            biased;
            sent = sent.as_mut() => break sent.map_err(|error| unsent(error, preface))?,
            () = visitor.gone() => return Err(Refusal::Gone),
            () = go_on(&mut rest), if rest.is_some() => {}
        }
    }
    if let Some(mut sending) = rest {
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
    local: &Local,
    preface: &Preface,
    request: Request<RequestBody>,
    held: &mut Option<oneshot::Sender<()>>,
    writer: &mut FrameWriter,
) -> Result<Answer, Refusal> {
    let asks = held.is_some().then(|| Arc::new(Notify::new()));
    let mut answer = std::pin::pin!(local.send(request, preface, asks.as_ref()));
    let answer = match tokio::time::timeout(HOLD_BACK, answer.as_mut()).await {
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
                let head = ResponseHead { status, version, headers: HeaderMap::new() };
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
async fn switch(response: Response<AnswerBody>, visitor: Visitor, writer: &mut FrameWriter) -> Result<(), Refusal> {
    let (response, switch) = switched::of(response);
    respond(response, writer)?;
    writer.flush().await.map_err(|_| Refusal::Gone)?;
    let Visitor::Listened(reader) = visitor else { return Err(Refusal::Reset(Reset::Protocol)) };
    let mut connection = switch.connection().await.map_err(|error| Refusal::Reset(error.reason))?;
    let writer = FrameWriter::new(writer.stream().clone());
    // How it ended was told to the other side already.
    both_ways(&mut connection, reader, writer, UPGRADED_IDLE, |_, _| {}).await.map_err(|_| {
        connection.reset();
        Refusal::Gone
    })
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

/// Puts the head of the answer; it leaves with the first of its body.
fn respond<B>(response: Response<B>, writer: &mut FrameWriter) -> Result<(StatusCode, B), Refusal> {
    let (head, body) = response.into_parts();
    let status = head.status;
    let head = ResponseHead { status, version: head.version, headers: head.headers };
    head.put(writer.gather()).map_err(|_| Refusal::Reset(Reset::TooLarge))?;
    Ok((status, body))
}

/// Whether the body of an answer is coded otherwise than by `chunked`, which is taken off when it is read. The field
/// does not cross to the visitor, who would take the coded body for the plain one (RFC 9112, section 6.1). `identity`
/// is no coding (RFC 2616, section 3.6), and a `chunked` said twice is done once.
fn has_other_coding(headers: &HeaderMap) -> bool {
    let all = |known: &[u8]| {
        let mut codings =
            headers.get_all(TRANSFER_ENCODING).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
        codings.all(|coding| coding.trim_ascii().eq_ignore_ascii_case(known))
    };
    !all(b"chunked") && !all(b"identity")
}

/// The visitor's side of an exchange, listened to for the whole of it: a visitor that leaves must not be served on.
#[derive(Debug)]
enum Visitor {
    /// Nobody else reads the stream.
    Listened(FrameReader),
    /// The request's body is being read, and gives the reader back at its end.
    Lent(oneshot::Receiver<FrameReader>, MuxStream),
    /// The request broke off.
    Gone,
}

impl Visitor {
    /// Lends the reader to the body of the request.
    fn lend(&mut self) -> Result<FrameBody, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let Self::Listened(reader) = self else { return Err(Refusal::Reset(Reset::Protocol)) };
        let stream = reader.stream().clone();
        match std::mem::replace(self, Self::Lent(receiver, stream)) {
            Self::Listened(reader) => Ok(FrameBody::lent(reader, sender)),
            Self::Lent(..) | Self::Gone => Err(Refusal::Reset(Reset::Protocol)),
        }
    }

    /// Reads the end of a request that has no body: it came with the head.
    fn read_end(&mut self, upgrades: bool) -> Result<(), Refusal> {
        match self {
            Self::Listened(reader) if !upgrades => match reader.buffered() {
                Ok(Some(Event::End) | None) => Ok(()),
                _ => Err(Refusal::Reset(Reset::Protocol)),
            },
            _ => Ok(()),
        }
    }

    /// Resolves when nobody waits for the answer any more. Cancel-safe.
    async fn gone(&mut self) {
        loop {
            match self {
                Self::Listened(reader) => match reader.event().await {
                    // What the application did not want of the body, and its end.
                    Ok(Event::Data(_) | Event::Trailers(_) | Event::End) => {}
                    // Cut, reset, or something that has no place here.
                    _ => return,
                },
                // While the application does not read the body, nobody hears of a reset: look again from time to time.
                Self::Lent(back, stream) => match tokio::time::timeout(LOOK_AGAIN, back).await {
                    Ok(Ok(reader)) => *self = Self::Listened(reader),
                    // The body broke off.
                    Ok(Err(_)) => *self = Self::Gone,
                    Err(_) if stream.is_closed() => *self = Self::Gone,
                    Err(_) => {}
                },
                Self::Gone => return,
            }
        }
    }
}
