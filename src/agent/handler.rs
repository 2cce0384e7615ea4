//! One stream, from its preface to its end: the exchange as the local application sees it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BufMut;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::pool::{Pool, RequestBody, reason};
use crate::config::{AgentConfig, HostHeader, Service};
use crate::limits::Permits;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::exchange::{RequestHead, ResponseHead};
use crate::protocol::frame::{MAX_HEAD, Reset, Status};
use crate::protocol::preface::Preface;
use crate::transport::body::{FrameBody, SendError, send_body};
use crate::transport::copy::both_ways;
use crate::transport::framed::{FrameReader, FrameWriter};
use crate::transport::mux::MuxStream;
use crate::values::Name;

/// How long the status byte may wait for the first bytes of the answer.
const HOLD_BACK: Duration = Duration::from_millis(5);

/// How long preface and head may take to arrive; the server sends them at once.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// How often a request whose body is not being read looks whether anybody still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// An upgraded connection without a byte for so long is given up. The server's own limit comes sooner.
const UPGRADED_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where one service leads.
#[derive(Debug)]
struct Local {
    authority: Authority,
    host_header: HostHeader,
    /// As the configuration says it, for messages.
    text: String,
    /// Whether the last attempt failed, so that a change is logged and not each request.
    down: AtomicBool,
}

/// Serves streams.
#[derive(Debug)]
pub(super) struct Handler {
    services: HashMap<Name, Local>,
    permits: Permits,
    pool: Pool,
    draining: AtomicBool,
}

impl Handler {
    /// For the services of `config`. Connections to local applications run on `tasks`.
    pub(super) fn new(config: &AgentConfig, connect_timeout: Duration, tasks: TaskTracker) -> Self {
        let local = |service: &Service| {
            let local = Local {
                authority: Authority::try_from(service.local.authority()).ok()?,
                host_header: service.host_header.clone(),
                text: service.local.text.clone(),
                down: AtomicBool::new(false),
            };
            Some((service.name.clone(), local))
        };
        Self {
            services: config.services.iter().filter_map(local).collect(),
            permits: Permits::new(config.max_streams),
            pool: Pool::new(tasks, connect_timeout),
            draining: AtomicBool::new(false),
        }
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
        let local = self.services.get(&preface.service).ok_or(Refusal::Status(Status::UnknownService))?;
        let _permit = self.permits.try_acquire().ok_or(Refusal::Status(Status::TooManyStreams))?;
        writer.gather().put_u8(Status::Accepted as u8);
        let head = match tokio::time::timeout(HEAD_DEADLINE, reader.event()).await {
            Ok(Ok(Event::Request(head))) => head,
            Ok(Err(_)) => return Err(Refusal::Gone),
            Ok(Ok(_)) | Err(_) => return Err(Refusal::Reset(Reset::Protocol)),
        };
        let upgrades = head.headers.contains_key(UPGRADE);
        let has_body = head.has_body;
        let mut visitor = Visitor::Listened(reader);
        let body = if has_body {
            let body = visitor.lend()?;
            RequestBody::Framed(Box::new(body))
        } else {
            visitor.read_end(upgrades)?;
            RequestBody::Empty
        };
        let request = local.request(head, body)?;
        let response = tokio::select! {
            biased;
            response = self.ask(local, &preface, request, writer) => response?,
            () = visitor.gone() => return Err(Refusal::Gone),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.upgrade(response, visitor, writer).await;
        }
        if has_other_coding(response.headers()) && !response.body().is_end_stream() {
            let at = &local.text;
            tracing::warn!(service = %preface.service, "the local application at {at} sent a body in a transfer coding other than `chunked`");
            return Err(Refusal::Reset(Reset::LocalBroken));
        }
        let (head, body) = respond(response, writer)?;
        tracing::trace!(request = %preface.request_id, status = %head, "the local application answered");
        let mut body = std::pin::pin!(body);
        tokio::select! {
            biased;
            sent = send_body(body.as_mut(), writer, None) => match sent {
                Ok(()) => Ok(()),
                Err(SendError::Stream(_)) => Err(Refusal::Gone),
                Err(SendError::Trailers) => Err(Refusal::Reset(Reset::TooLarge)),
                Err(SendError::Body(_) | SendError::Idle) => Err(Refusal::Reset(Reset::LocalBroken)),
            },
            () = visitor.gone() => Err(Refusal::Gone),
        }
    }

    /// Asks the local application. The status byte does not wait for it, but may travel with a quick answer.
    async fn ask(
        &self,
        local: &Local,
        preface: &Preface,
        request: Request<RequestBody>,
        writer: &mut FrameWriter,
    ) -> Result<Response<Incoming>, Refusal> {
        let mut answer = std::pin::pin!(self.pool.request(request));
        let answer = match tokio::time::timeout(HOLD_BACK, answer.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                writer.flush().await.map_err(|_| Refusal::Gone)?;
                answer.await
            }
        };
        match answer {
            Ok(answer) => {
                if local.down.swap(false, Ordering::Relaxed) {
                    tracing::info!(service = %preface.service, "the local application at {} answers again", local.text);
                }
                Ok(answer)
            }
            Err(error) => {
                let reason = reason(&error);
                if reason != Reset::Cancelled && !local.down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(service = %preface.service, "{}", local.explain(reason));
                }
                tracing::debug!(request = %preface.request_id, %error, reason = reason.word(), "a request failed");
                Err(Refusal::Reset(reason))
            }
        }
    }

    async fn upgrade(
        &self,
        mut response: Response<Incoming>,
        visitor: Visitor,
        writer: &mut FrameWriter,
    ) -> Result<(), Refusal> {
        let upgraded = hyper::upgrade::on(&mut response);
        let (_, body) = respond(response, writer)?;
        drop(body);
        writer.flush().await.map_err(|_| Refusal::Gone)?;
        let Visitor::Listened(reader) = visitor else { return Err(Refusal::Reset(Reset::Protocol)) };
        let upgraded = upgraded.await.map_err(|_| Refusal::Reset(Reset::LocalBroken))?;
        let writer = FrameWriter::new(writer.stream().clone());
        // How it ended was told to the other side already.
        both_ways(TokioIo::new(upgraded), reader, writer, UPGRADED_IDLE, |_, _| {}).await.map_err(|_| Refusal::Gone)
    }
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
fn respond(response: Response<Incoming>, writer: &mut FrameWriter) -> Result<(StatusCode, Incoming), Refusal> {
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

impl Local {
    /// The request as the local application gets it.
    fn request(&self, head: RequestHead, body: RequestBody) -> Result<Request<RequestBody>, Refusal> {
        let RequestHead { method, authority, target, headers, has_body, .. } = head;
        let malformed = Refusal::Reset(Reset::Protocol);
        let target = PathAndQuery::from_maybe_shared(target).map_err(|_| malformed)?;
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(UriScheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(target);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| malformed)?;
        *request.headers_mut() = headers;
        let asked = authority.and_then(|authority| HeaderValue::from_maybe_shared(authority).ok());
        let own = || HeaderValue::from_str(self.authority.as_str());
        let host = match (&self.host_header, asked) {
            (HostHeader::Preserve, Some(asked)) => asked,
            (HostHeader::Preserve, None) | (HostHeader::Local, _) => own().map_err(|_| malformed)?,
            (HostHeader::Value(value), _) => HeaderValue::from_str(value).map_err(|_| malformed)?,
        };
        request.headers_mut().insert(HOST, host);
        if has_body && !request.headers().contains_key(CONTENT_LENGTH) {
            // Unsaid, it would be done for a POST, but a GET would lose its body without a word.
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if request.headers().contains_key(UPGRADE) {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        Ok(request)
    }

    fn explain(&self, reason: Reset) -> String {
        let at = &self.text;
        match reason {
            Reset::LocalUnreachable => format!("the local application at {at} refuses connections; is it running?"),
            Reset::LocalTimeout => format!("the local application at {at} does not accept connections in time"),
            _ => format!("the local application at {at} broke off, or does not speak HTTP"),
        }
    }
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
