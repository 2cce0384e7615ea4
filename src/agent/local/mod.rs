//! The agent's side of the local applications: how each of them is spoken to.
//!
//! `dial` connects, `watched` looks at what is kept, `http1` and `http2` keep connections, `again` takes requests back that
//! were refused unseen, `switched` is what an exchange may become, `websocket` translates between the two versions,
//! `trouble` says what is wrong, and [`Local`] makes of a visitor's request the one that the application gets.

pub(super) mod dial;
mod http1;
mod http2;
mod only;
mod replay;
pub(super) mod switched;
mod upstream_health;
mod watched;
mod websocket;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use hyper::ext::Protocol;
use hyper::rt::Executor;
use rustls::ClientConfig;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub(super) use crate::agent::local::upstream_health::LocalError;
use crate::agent::local::upstream_health::{Hint, Troubles, in_words};
use crate::agent::options::{HeaderRules, HostHeader, LocalScheme, LocalUrl, Service};
use crate::link::body::{BodyError, FrameBody};
use crate::protocol::exchange::RequestHead;
use crate::protocol::fields::{clean_request_trailers, remove_identity, with_clean_trailers};
use crate::protocol::frame::Reset;
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use crate::telemetry::LOCAL_LOG;
use crate::transport::tls::LocalTrust;
use crate::transport::tls::{self, TlsError};
use crate::transport::whole::WholeBody;
use crate::values::Name;
use dial::Dialler;
pub(super) use http1::Sending;
use http1::{Http1, Http1Body};
pub(super) use http2::Slot;
use http2::{Failed, Http2};
use only::OnlyStream;
use websocket::Handshake;

/// The body of a request on its way to the local application.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// The request has none.
    Empty,
    /// What comes over the stream.
    Framed(Box<FrameBody>),
    /// The same, but not before somebody says so (RFC 9110, section 10.1.1).
    Held(oneshot::Receiver<()>, Box<FrameBody>),
    /// What was sent in vain, and what follows.
    Again(VecDeque<Bytes>, Box<RequestBody>),
}

/// The request body from the stream, without trailers that must not reach an application. Current servers remove them, too.
fn poll_clean(body: &mut FrameBody, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let frame = ready!(Pin::new(body).poll_frame(cx));
    Poll::Ready(frame.map(|frame| Ok(with_clean_trailers(frame?, clean_request_trailers))))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Framed(body) => poll_clean(body, cx),
            Self::Held(go, body) => {
                if !go.is_terminated() && ready!(Pin::new(go).poll(cx)).is_err() {
                    // The exchange is over.
                    return Poll::Ready(Some(Err(BodyError::Reset(Reset::Cancelled))));
                }
                poll_clean(body, cx)
            }
            Self::Again(sent, rest) => crate::agent::local::replay::poll_again(sent, rest, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Framed(body) | Self::Held(_, body) => body.is_end_stream(),
            Self::Again(sent, rest) => sent.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Empty => http_body::SizeHint::with_exact(0),
            Self::Framed(body) | Self::Held(_, body) => body.size_hint(),
            Self::Again(..) => http_body::SizeHint::default(),
        }
    }
}

/// Runs the connections' tasks where they can be counted and awaited.
#[derive(Debug, Clone)]
struct Tracked {
    tasks: TaskTracker,
    /// The one stream of the connection, if it is to become a connection itself.
    only: Option<Arc<OnlyStream>>,
}

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        match &self.only {
            None => drop(self.tasks.spawn(task)),
            Some(only) => drop(self.tasks.spawn(only.run(task))),
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AnswerBody {
    One(Http1Body),
    Two(WholeBody),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = LocalError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, LocalError>>> {
        match &mut *self {
            Self::One(body) => Pin::new(body).poll_frame(cx),
            Self::Two(body) => Pin::new(body).poll_frame(cx).map_err(LocalError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::One(body) => body.is_end_stream(),
            Self::Two(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::One(body) => body.size_hint(),
            Self::Two(body) => body.size_hint(),
        }
    }
}

/// A request out of the place where it was lent: whoever took it by value would hold it twice.
fn taken(request: &mut Request<RequestBody>) -> Request<RequestBody> {
    std::mem::replace(request, Request::new(RequestBody::Empty))
}

/// What is laid over connections to a service's application, prepared at the start, when it can still fail.
pub(super) type LocalTls = HashMap<Name, [Arc<ClientConfig>; 2]>;

/// Prepares TLS for those of `services` that need it: for HTTP/1.1 alone, and for either version.
///
/// # Errors
/// An authority's file, or the system's roots, cannot be used.
pub(super) fn prepare_tls(services: &[Service]) -> Result<LocalTls, TlsError> {
    let is_https = |service: &&Service| {
        service.kind == ServiceKind::Http && service.locals().any(|local| local.scheme() == LocalScheme::Https)
    };
    let prepare = |service: &Service| {
        if service.trust == LocalTrust::Anybody {
            let name = &service.name;
            tracing::warn!(service = %name, "certificates of the local applications of `{name}` are not checked");
        }
        let old = tls::local_client(&service.trust, &[tls::HTTP1])?;
        let either = tls::local_client(&service.trust, &[tls::HTTP2, tls::HTTP1])?;
        Ok((service.name.clone(), [old, either]))
    };
    services.iter().filter(is_https).map(prepare).collect()
}

/// How an application takes HTTP.
enum Http {
    One(Http1),
    Two(Box<Http2>),
    /// As the visitor asks: the application may speak both.
    Either(Http1, Box<Http2>),
}

/// One application of a service.
pub(super) struct Local {
    pub(super) dialler: Dialler,
    http: Http,
    authority: Authority,
    host_header: HostHeader,
    removes_identity: bool,
    request_headers: HeaderRules,
    response_headers: HeaderRules,
    pub(super) url: LocalUrl,
    /// Whether it was named on the command line.
    by_flags: bool,
    troubles: Troubles,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Local({})", self.url.text)
    }
}

/// How a request becomes a connection, if the application agrees.
#[derive(Debug)]
pub(super) enum Switching {
    /// It does not.
    No,
    /// By 101, whatever the protocol.
    Upgrade,
    /// By 2xx: asked for, and understood, as an extended CONNECT.
    Connect,
    /// Asked for as an extended CONNECT, of an application that knows upgrades.
    ConnectByUpgrade(Handshake),
    /// Asked for as an upgrade with this key, of an application that knows extended CONNECTs.
    UpgradeByConnect(Option<HeaderValue>),
}

/// An answer, and what belongs to it while it is read.
pub(super) struct Answer {
    pub(super) response: Response<AnswerBody>,
    /// What is left of the request: the application has answered before it had all of it.
    pub(super) rest: Option<Sending>,
    /// Its place on a connection.
    pub(super) _slot: Option<Slot>,
}

const MALFORMED: Reset = Reset::Protocol;

impl Local {
    /// For one application of a service; `None` if its address can be in no request. Connections' tasks run on `tasks`.
    pub(super) fn new(
        service: &Service,
        local: &LocalUrl,
        tls: Option<&[Arc<ClientConfig>; 2]>,
        connect_timeout: Duration,
        tasks: &TaskTracker,
    ) -> Option<Self> {
        let dialler = Dialler::new(local, service.proxy_protocol, connect_timeout)?;
        let one = |tls: Option<&Arc<ClientConfig>>| Http1::new(dialler.clone(), tls.cloned(), tasks.clone());
        let two = |tls: Option<&Arc<ClientConfig>>| Http2::new(dialler.clone(), tls.cloned(), tasks.clone());
        let http = match (local.scheme(), tls) {
            (LocalScheme::H2c, _) => Http::Two(Box::new(two(None))),
            (LocalScheme::Https, Some([old, either])) => Http::Either(one(Some(old)), Box::new(two(Some(either)))),
            _ => Http::One(one(None)),
        };
        Some(Self {
            http,
            dialler,
            authority: Authority::try_from(local.authority()).ok()?,
            host_header: service.host_header.clone(),
            removes_identity: service.remove_identity_headers,
            request_headers: service.request_headers.clone(),
            response_headers: service.response_headers.clone(),
            url: local.clone(),
            by_flags: service.by_flags,
            troubles: Troubles::default(),
        })
    }

    /// Whether the application gets the request over HTTP/2, as far as that is known now.
    fn takes_http2(&self, head: &RequestHead) -> bool {
        match &self.http {
            Http::One(_) => false,
            Http::Two(_) => true,
            Http::Either(..) => {
                head.version == Version::HTTP_2 && head.protocol.is_none() && !head.headers.contains_key(UPGRADE)
            }
        }
    }

    /// The request as the application gets it, and how it becomes a connection.
    pub(super) fn request(
        &self,
        mut head: RequestHead,
        body: RequestBody,
    ) -> Result<(Request<RequestBody>, Switching), Reset> {
        let over_http2 = self.takes_http2(&head);
        if self.removes_identity {
            remove_identity(&mut head.headers);
        }
        self.request_headers.apply(&mut head.headers);
        let host = self.host(&head)?;
        let RequestHead { mut method, target, protocol, mut headers, .. } = head;
        let mut extended = None;
        let switching = match (protocol, over_http2) {
            (Some(protocol), true) => {
                let protocol = std::str::from_utf8(&protocol).map_err(|_| MALFORMED)?;
                extended = Some(Protocol::from(protocol));
                Switching::Connect
            }
            (Some(protocol), false) if protocol.eq_ignore_ascii_case(websocket::WEBSOCKET.as_bytes()) => {
                method = Method::GET;
                Switching::ConnectByUpgrade(Handshake::ask(&mut headers).map_err(|_| Reset::LocalBroken)?)
            }
            // Only WebSockets are the same in both.
            (Some(_), false) => return Err(Reset::LocalBroken),
            (None, true) if websocket::is_asked_for(&headers) => {
                method = Method::CONNECT;
                extended = Some(Protocol::from_static(websocket::WEBSOCKET));
                Switching::UpgradeByConnect(websocket::take_key(&mut headers))
            }
            (None, true) => {
                headers.remove(UPGRADE);
                Switching::No
            }
            (None, false) if headers.contains_key(UPGRADE) => {
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                Switching::Upgrade
            }
            (None, false) => Switching::No,
        };
        headers.insert(HOST, host);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = PathAndQuery::from_maybe_shared(target).map_err(|_| MALFORMED)?.into();
        *request.headers_mut() = headers;
        if over_http2 {
            *request.version_mut() = Version::HTTP_2;
        }
        if let Some(protocol) = extended {
            request.extensions_mut().insert(protocol);
        }
        Ok((request, switching))
    }

    fn host(&self, head: &RequestHead) -> Result<HeaderValue, Reset> {
        let asked = || head.authority.clone().and_then(|asked| HeaderValue::from_maybe_shared(asked).ok());
        let own = || HeaderValue::from_str(self.authority.as_str()).map_err(|_| MALFORMED);
        match &self.host_header {
            HostHeader::Preserve => asked().map_or_else(own, Ok),
            HostHeader::Local => own(),
            HostHeader::Value(value) => HeaderValue::from_str(value).map_err(|_| MALFORMED),
        }
    }

    /// Takes the request, sends it and waits for the head of its answer. `asked` is told when the application asks for the
    /// body.
    pub(super) async fn send(
        &self,
        request: &mut Request<RequestBody>,
        preface: &Preface,
        asked: Option<&Arc<Notify>>,
    ) -> Result<Answer, LocalError> {
        let on_behalf_of = (preface.visitor, preface.server);
        let http1 = match &self.http {
            Http::One(http1) => http1,
            Http::Either(http1, _) if request.version() != Version::HTTP_2 => http1,
            Http::Two(http2) | Http::Either(_, http2) => {
                match (Box::pin(http2.send(taken(request), on_behalf_of, asked)).await, &self.http) {
                    (Ok((response, slot)), _) => {
                        let response = response.map(|body| AnswerBody::Two(WholeBody::http2(body)));
                        return Ok(Answer { response, rest: None, _slot: Some(slot) });
                    }
                    (Err(Failed::Local(error)), _) => return Err(error),
                    // It was meant for the other version, which the application turned out not to speak.
                    (Err(Failed::NotSpoken(back)), Http::Either(http1, _)) => {
                        *request = *back;
                        http1
                    }
                    (Err(Failed::NotSpoken(_)), _) => return Err(LocalError::broken("it does not speak HTTP/2")),
                }
            }
        };
        let (response, rest) = http1.send(request, on_behalf_of, asked.map(Arc::as_ref)).await?;
        Ok(Answer { response: response.map(AnswerBody::One), rest, _slot: None })
    }

    /// Makes of the application's answer the one that the visitor has to get. Says whether a connection begins.
    pub(super) fn answer(
        &self,
        response: &mut Response<AnswerBody>,
        switching: &Switching,
    ) -> Result<bool, LocalError> {
        let (status, headers) = (response.status(), response.headers_mut());
        self.response_headers.apply(headers);
        let switches = match switching {
            Switching::No if status == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(LocalError::broken("it upgrades the connection, which nobody has asked for"));
            }
            Switching::No => false,
            Switching::Upgrade => status == StatusCode::SWITCHING_PROTOCOLS,
            Switching::Connect => status.is_success(),
            Switching::ConnectByUpgrade(handshake) => {
                let agreed = status == StatusCode::SWITCHING_PROTOCOLS && handshake.is_agreed(headers);
                if !agreed && (status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS) {
                    return Err(LocalError::broken("it was asked for a WebSocket and answered with something else"));
                }
                if agreed {
                    *response.status_mut() = StatusCode::OK;
                }
                agreed
            }
            Switching::UpgradeByConnect(key) => {
                if status.is_success() {
                    websocket::agree(headers, key.as_ref());
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                }
                status.is_success()
            }
        };
        Ok(switches)
    }

    /// It answers. Logged if it did not before.
    pub(super) fn is_up(&self, name: &Name) {
        if self.troubles.ends() {
            tracing::info!(target: LOCAL_LOG, service = %name, "the local application at {} answers again", self.url.shown());
        }
    }

    /// It does not answer. Logged, but the same not again and again.
    pub(super) fn is_down(&self, name: &Name, error: &LocalError) {
        if !error.is_of_the_application() {
            return;
        }
        let words = error.words(&self.url, self.by_flags);
        if self.troubles.begins(&words, Instant::now()) {
            tracing::warn!(target: LOCAL_LOG, service = %name, "{words}");
        }
    }
}
