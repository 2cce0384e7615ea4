//! HTTP/1.1 to a local application: connections that are kept and used again, or one for each visitor.
//!
//! Nothing runs beside the exchange itself: the task that carries a visitor's request writes it, reads its answer and gives
//! the connection back. What HTTP/1.1 says is in `codec` and `chunked`, which know no connections.

mod answer;
mod chunked;
mod codec;
mod pool;
mod sending;
#[cfg(test)]
mod tests;
mod wire;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::dial::{Dialler, OnBehalfOf};
use crate::agent::backend::body::{RequestBody, take_request};
use crate::agent::backend::error::{BackendError, Hint, in_words};
use crate::agent::backend::local::replay::is_idempotent;
use crate::telemetry::LOCAL_LOG;
use answer::poll_first;
pub(in crate::agent) use answer::{Connection, Http1Body};
use codec::{NotHttp, Repair, answer_framing, keeps_alive, take_head};
use pool::Pool;
pub(in crate::agent) use sending::Sending;
use sending::Unsent;
use wire::Wire;

/// How long an application that takes nothing any more may still answer: it may refuse a request that it does not want to
/// read, and close.
const LAST_ANSWER: Duration = Duration::from_secs(10);

impl From<NotHttp> for BackendError {
    fn from(error: NotHttp) -> Self {
        Self::broken(error.0)
    }
}

/// The connections of one service.
///
/// A request on a kept connection that turns out to be closed is sent again on another one if nothing of it was sent. If the
/// connection ends after that and before the first byte of a response, an idempotent request is sent once more on a new
/// connection, as long as all of it is still in memory (RFC 9110, section 9.2.2).
pub(super) struct Http1 {
    dialler: Dialler,
    tls: Option<Arc<ClientConfig>>,
    /// The idle connections; `None` if each request has a connection of its own.
    pool: Option<Arc<Pool>>,
    /// It speaks HTTP: it did before.
    has_answered: AtomicBool,
    /// It answered on a new connection only when its idle one was closed. Until there are two idle ones: then it has served
    /// two.
    serves_one: AtomicBool,
    /// The log has said that its responses are malformed.
    has_told: AtomicBool,
}

/// How long a new connection may wait for its response before the first idle one is closed.
const FIRST_WAIT: Duration = Duration::from_millis(100);

impl Http1 {
    /// Keeps connections if `keep_alive` is set; what looks after idle ones runs on `tasks`.
    pub(super) fn new(dialler: Dialler, tls: Option<Arc<ClientConfig>>, keep_alive: bool, tasks: TaskTracker) -> Self {
        // What the PROXY protocol says at the beginning of a connection is true for one visitor only.
        let pool = (keep_alive && !dialler.tells_the_visitor()).then(|| Pool::new(tasks));
        Self {
            dialler,
            tls,
            pool,
            has_answered: AtomicBool::new(false),
            serves_one: AtomicBool::new(false),
            has_told: AtomicBool::new(false),
        }
    }

    /// Takes the request, sends it and waits for the head of its answer; `asked` is told when the application asks for the
    /// body. What is left of the request then has to be driven on.
    pub(super) async fn send(
        &self,
        request: &mut Request<RequestBody>,
        on_behalf_of: OnBehalfOf,
        asked: Option<&Notify>,
    ) -> Result<(Response<Http1Body>, Option<Sending>), BackendError> {
        let mut exchange = Exchange::of(request, asked)?;
        let Some(pool) = &self.pool else {
            let wire = self.connect(on_behalf_of, Weak::new()).await?;
            return self.judge(exchange.over(wire, false).await);
        };
        while let Some(idle) = pool.take(on_behalf_of.0) {
            match exchange.over(idle.wire, true).await {
                Err(Failed::Nothing(_)) => pool.was_closed(idle.since),
                Err(Failed::Unanswered(error)) => {
                    pool.was_closed(idle.since);
                    if !exchange.can_send_again() {
                        return self.judge(Err(Failed::Unanswered(error)));
                    }
                    break;
                }
                answered => {
                    pool.was_reused();
                    return self.judge(answered);
                }
            }
        }
        let wire = self.connect(on_behalf_of, Arc::downgrade(pool)).await?;
        self.judge(self.make_room(pool, exchange.over(wire, false)).await)
    }

    /// Waits for the response on a new connection. An application that serves one connection after the other may be waiting
    /// for a request on an idle one: while it does not answer, idle connections are closed, at growing intervals; at once,
    /// if that has helped before and still may.
    async fn make_room<T>(&self, pool: &Pool, answered: impl Future<Output = T>) -> T {
        let mut answered = pin!(answered);
        let serves_one = self.serves_one.load(Ordering::Relaxed) && pool.len() <= 1;
        if !serves_one {
            self.serves_one.store(false, Ordering::Relaxed);
        }
        let mut wait = if serves_one { Duration::ZERO } else { FIRST_WAIT };
        let mut emptied: Option<Instant> = None;
        loop {
            match timeout(wait, answered.as_mut()).await {
                Ok(answered) => {
                    if emptied.is_some_and(|emptied| emptied.elapsed() < FIRST_WAIT) {
                        self.serves_one.store(true, Ordering::Relaxed);
                    }
                    return answered;
                }
                Err(_) if pool.close_oldest() == Some(0) => emptied = Some(Instant::now()),
                Err(_) => {}
            }
            wait = (wait * 2).max(FIRST_WAIT);
        }
    }

    /// What has answered before is not asked whether it speaks something else.
    fn judge<B, U>(&self, answered: Result<(Response<B>, U), Failed>) -> Result<(Response<B>, U), BackendError> {
        let has_answered = self.has_answered.load(Ordering::Relaxed);
        match answered {
            Ok(answer) => {
                if let Some(repair) = answer.0.extensions().get() {
                    self.tell(repair);
                }
                if !has_answered {
                    self.has_answered.store(true, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Err(failed) if has_answered => Err(failed.into_local().with(Hint::None)),
            Err(failed) => Err(failed.into_local()),
        }
    }

    /// Says once that the application sends malformed responses.
    fn tell(&self, Repair(what): &Repair) {
        if !self.has_told.swap(true, Ordering::Relaxed) {
            let at = self.dialler.shown();
            tracing::warn!(target: LOCAL_LOG, "the local application at {at} sends malformed responses, which are repaired: {what}");
        }
    }

    async fn connect(&self, on_behalf_of: OnBehalfOf, pool: Weak<Pool>) -> Result<Arc<Wire>, BackendError> {
        let dialled = match &self.tls {
            Some(tls) => Box::pin(self.dialler.dial_tls(Some(on_behalf_of), tls)).await,
            None => Box::pin(self.dialler.dial(Some(on_behalf_of))).await,
        };
        let stream = dialled.map_err(|error| BackendError::dial(&error))?;
        Ok(Wire::new(stream, on_behalf_of.0, pool, self.dialler.expiry()))
    }
}

/// Why an exchange over one connection failed.
enum Failed {
    /// The application has not received the request's head, so the request can use another connection.
    Nothing(io::Error),
    /// A kept connection ended after the request's head was sent, and before the first byte of a response.
    Unanswered(BackendError),
    Local(BackendError),
}

impl Failed {
    fn into_local(self) -> BackendError {
        match self {
            Self::Nothing(error) => BackendError::broken(&error.to_string()),
            Self::Unanswered(error) | Self::Local(error) => error,
        }
    }

    fn broken(text: &str) -> Self {
        Self::Local(BackendError::broken(text))
    }
}

impl From<NotHttp> for Failed {
    fn from(error: NotHttp) -> Self {
        Self::Local(error.into())
    }
}

/// It ends the connection and has said nothing.
fn silent(how: &str, wire: &Wire) -> BackendError {
    let error = BackendError::broken(how);
    if wire.is_tls() { error } else { error.with(Hint::MaySpeakTls) }
}

/// One request, up to the head of its answer.
struct Exchange<'a> {
    method: Method,
    /// Kept until the first byte of the response, if it may have to be sent again.
    sending: Option<Sending>,
    /// Whether anything of a response has come.
    has_begun: bool,
    /// What has come of the answer.
    input: Bytes,
    asked: Option<&'a Notify>,
    /// The application takes nothing more: why, and how long it may still answer.
    deaf: Option<(io::Error, Pin<Box<Sleep>>)>,
}

impl<'a> Exchange<'a> {
    fn of(request: &mut Request<RequestBody>, asked: Option<&'a Notify>) -> Result<Self, BackendError> {
        let (mut head, body) = take_request(request).into_parts();
        let sending = Sending::new(&mut head, body)?;
        Ok(Self {
            method: head.method,
            sending: Some(sending),
            has_begun: false,
            input: Bytes::new(),
            asked,
            deaf: None,
        })
    }

    /// Sends it over `wire`, which may have been kept, and waits for the head of the answer.
    async fn over(&mut self, wire: Arc<Wire>, is_kept: bool) -> Result<(Response<Http1Body>, Option<Sending>), Failed> {
        if let Some(sending) = &mut self.sending {
            sending.go_over(&wire, is_kept && is_idempotent(&self.method));
        }
        let mut head = poll_fn(|cx| self.poll_head(&wire, is_kept, cx)).await?;
        let framing = answer_framing(&self.method, &mut head)?;
        let mut body = Http1Body::new(wire, std::mem::take(&mut self.input), framing, keeps_alive(&head));
        if head.status() != StatusCode::SWITCHING_PROTOCOLS {
            body.settle();
        }
        let mut unsent = self.sending.take().filter(|sending| !sending.is_over());
        if let Some(sending) = &mut unsent {
            sending.discard_kept();
        }
        Ok((head.map(|()| body), unsent))
    }

    /// Returns whether the request can be sent from its beginning once more.
    fn can_send_again(&mut self) -> bool {
        // Why the last connection took nothing more does not concern the next one.
        self.deaf = None;
        self.sending.as_ref().is_some_and(Sending::is_kept)
    }

    fn poll_head(&mut self, wire: &Wire, is_kept: bool, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Failed>> {
        self.poll_sending(is_kept, cx)?;
        loop {
            while let Some(head) = take_head(&mut self.input).map_err(|error| self.not_http(error, wire))? {
                if !head.status().is_informational() || head.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                if let Some(asked) = self.asked.filter(|_| head.status() == StatusCode::CONTINUE) {
                    asked.notify_one();
                }
            }
            let read = poll_first(wire, &mut self.input, cx);
            if is_kept && read.is_ready() && self.sending.as_ref().is_some_and(|sending| !sending.has_sent_head()) {
                // These bytes cannot be the response to this request.
                self.input.clear();
                return Poll::Ready(Err(Failed::Nothing(io::ErrorKind::ConnectionAborted.into())));
            }
            match read {
                Poll::Ready(Ok(0)) if self.input.is_empty() => {
                    let error = silent("it closed the connection without an answer", wire);
                    return Poll::Ready(Err(self.unanswered(is_kept, error)));
                }
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Failed::broken("it closed in the middle of its answer's head")));
                }
                Poll::Ready(Ok(_)) => self.has_begun = true,
                Poll::Ready(Err(error)) if self.input.is_empty() => {
                    let error = silent(&in_words(&error), wire);
                    return Poll::Ready(Err(self.unanswered(is_kept, error)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::broken(&in_words(&error)))),
                Poll::Pending => {
                    let Some((error, last)) = &mut self.deaf else { return Poll::Pending };
                    ready!(last.as_mut().poll(cx));
                    return Poll::Ready(Err(Failed::broken(&in_words(error))));
                }
            }
        }
    }

    /// The connection has ended without a response.
    fn unanswered(&self, is_kept: bool, error: BackendError) -> Failed {
        if is_kept && !self.has_begun { Failed::Unanswered(error) } else { Failed::Local(error) }
    }

    fn not_http(&self, error: NotHttp, wire: &Wire) -> Failed {
        let error = BackendError::from(error);
        // The alert by which TLS refuses what is none (RFC 8446, section 5.1).
        let is_alert = self.input.starts_with(&[0x15, 0x03]) && !wire.is_tls();
        Failed::Local(if is_alert { error.with(Hint::SpeaksTls) } else { error })
    }

    fn poll_sending(&mut self, is_kept: bool, cx: &mut Context<'_>) -> Result<(), Failed> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        match sending.poll(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) if sending.is_kept() => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Unsent::Nothing(error))) if is_kept => return Err(Failed::Nothing(error)),
            Poll::Ready(Err(Unsent::Nothing(error) | Unsent::Rest(error))) => {
                self.deaf.get_or_insert_with(|| (error, Box::pin(sleep(LAST_ANSWER))));
                if sending.is_kept() {
                    return Ok(());
                }
            }
            Poll::Ready(Err(Unsent::Broken(error))) => return Err(Failed::Local(error)),
        }
        self.sending = None;
        Ok(())
    }
}
