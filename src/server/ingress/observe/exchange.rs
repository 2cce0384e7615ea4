//! Where every way out of a request ends: one value that lives as long as the exchange. When it is dropped, the
//! permits are free again, the operator sees it no more, it is counted, and the access log has its line. What never became
//! an exchange has its line by [`note`].

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::HOST;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use parking_lot::Mutex;

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::span::End;
use crate::limits::Permit;
use crate::link::copy::Way;
use crate::link::mux::MuxStream;
use crate::protocol::login::ServiceKind;
use crate::server::directory::tunnel::StreamPermit;
use crate::server::ingress::entry::visitor_socket::Turn;
use crate::server::ingress::error_page::{Failure, code_number};
use crate::server::ingress::observe::live_requests::LiveRequests;
use crate::server::metrics::{Meter, Outcome};
use crate::telemetry::{ACCESS_LOG, RequestSpan};
use crate::values::RequestId;

/// What is known of a request before it is forwarded.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) request_id: RequestId,
    pub(crate) visitor: IpAddr,
    /// Whose service it is, and what counts it.
    pub(crate) meter: Arc<Meter>,
    pub(crate) asked: Asked,
    /// What is traced of it. Of a connection nothing is.
    pub(crate) span: RequestSpan,
}

/// What a visitor asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A request.
    Request(Method, Path),
    /// A connection, to be carried as it is.
    Connection(ServiceKind),
}

impl Asked {
    /// The method, or the kind of a connection; and the path.
    pub(crate) fn words(&self) -> (&str, &str) {
        match self {
            Self::Request(method, path) => (method.as_str(), path.plain()),
            Self::Connection(kind) => (kind.word(), ""),
        }
    }

    /// As the access log has it.
    fn logged_path(&self) -> &str {
        match self {
            Self::Request(_, path) => &path.logged,
            Self::Connection(_) => "",
        }
    }
}

/// What a request asked for below its host.
#[derive(Debug)]
pub(crate) struct Path {
    logged: String,
    /// Where the query begins, if there is one.
    plain: usize,
}

impl Path {
    /// The query may hold what should not be seen: it is left out unless the operator wants it in the log.
    pub(crate) fn of(uri: &Uri, with_query: bool) -> Self {
        let path = uri.path();
        let logged = match uri.query() {
            Some(query) if with_query => format!("{path}?{query}"),
            _ => path.to_owned(),
        };
        Self { plain: path.len(), logged }
    }

    fn plain(&self) -> &str {
        &self.logged[..self.plain]
    }
}

/// For whom a request was that did not become an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose<'a> {
    /// For this service.
    Service(&'a Meter),
    /// For none: this host was asked for, in [`harmless_host`]'s form, if any.
    Nobody(Option<&'a str>),
}

/// Writes a line of the access log for a request that did not become an exchange: one that was refused, or that the
/// server has answered itself, with so many bytes. `asked` is not even looked at if nobody reads the log.
pub(crate) fn note(
    (request_id, visitor): (RequestId, IpAddr),
    whose: Whose<'_>,
    asked: &Asked,
    (status, outcome, took): (u16, &str, Duration),
    sent: usize,
) {
    let (meter, host) = match whose {
        Whose::Service(meter) => (Some(meter), None),
        Whose::Nobody(host) => (None, host),
    };
    let (waited, local, sent) = (None, None, sent as u64);
    Line { request_id, visitor, meter, host, asked, status, outcome, took, waited, local, sent, received: 0 }.write();
}

/// Bytes of a host that a line repeats: the longest name (RFC 1035, section 2.3.4) and a port.
const MOST_OF_A_HOST: usize = 253 + 6;

/// The host that a request names, as a line may repeat it: bounded, and what is in no host is `?`.
pub(crate) fn harmless_host<B>(request: &Request<B>) -> Option<String> {
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let host = target.or_else(|| request.headers().get(HOST).map(HeaderValue::as_bytes))?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]*%".contains(&byte);
    let plain = |byte: &u8| if is_plain(*byte) { char::from(*byte) } else { '?' };
    Some(host.iter().take(MOST_OF_A_HOST).map(plain).collect())
}

/// Whether anybody reads the access log.
pub(crate) fn is_read() -> bool {
    tracing::enabled!(target: ACCESS_LOG, tracing::Level::INFO)
}

/// A line of the access log.
struct Line<'a> {
    request_id: RequestId,
    visitor: IpAddr,
    meter: Option<&'a Meter>,
    /// What was asked for, where that is no service.
    host: Option<&'a str>,
    asked: &'a Asked,
    status: u16,
    outcome: &'a str,
    took: Duration,
    waited: Option<Duration>,
    local: Option<Duration>,
    sent: u64,
    received: u64,
}

impl Line<'_> {
    fn write(&self) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            target: ACCESS_LOG,
            request = %self.request_id,
            visitor = %self.visitor,
            client = self.meter.map_or("", |meter| meter.client().as_str()),
            name = self.meter.map_or("", |meter| meter.name().as_str()),
            host = self.host,
            method = self.asked.words().0,
            path = self.asked.logged_path(),
            status = self.status,
            bytes = self.sent,
            received = self.received,
            wait_ms = self.waited.map(millis),
            local_ms = self.local.map(millis),
            ms = millis(self.took),
            outcome = self.outcome,
            "request"
        );
    }
}

/// What an entry holds for as long as it lives. Let go in this order, last of all that it counts as open.
type Held = (Permit, Option<Permit>, Option<Turn>, TaskTrackerToken);

/// What one forwarded request or connection holds, and what is known of it at its end.
#[derive(Debug)]
pub(crate) struct Entry {
    about: About,
    started: Instant,
    status: AtomicU16,
    /// After how many microseconds the application has begun to answer; 0: not yet.
    waited: AtomicU64,
    /// How many of them were the application's own, as its agent tells; 0: it does not.
    local: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    complete: AtomicBool,
    failure: OnceLock<Failure>,
    /// The stream that carries it, with its share of tunnel and lane. Above what counts the exchange, and so free before
    /// it: where nothing is open any more, nothing is in use.
    tunnel: Mutex<Option<(MuxStream, StreamPermit)>>,
    /// Its share of what the server, and its address, can have open, and of its connection's time, if that has more
    /// requests.
    _held: Held,
    /// Where the operator finds it.
    live: Arc<LiveRequests>,
    /// The operator has ended it.
    cut: AtomicBool,
}

impl Entry {
    /// Opens the entry, for the operator to see. It holds the request's share of what server and address can have open
    /// in all, and says that the connection is busy.
    pub(crate) fn open(about: About, held: Held, live: &Arc<LiveRequests>) -> Arc<Self> {
        let entry = Arc::new(Self {
            about,
            started: Instant::now(),
            status: AtomicU16::new(0),
            waited: AtomicU64::new(0),
            local: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            failure: OnceLock::new(),
            tunnel: Mutex::default(),
            _held: held,
            live: Arc::clone(live),
            cut: AtomicBool::new(false),
        });
        live.add(&entry);
        entry
    }

    /// The stream and its share of tunnel and lane, held until the exchange ends or another stream takes its place.
    pub(crate) fn hold(&self, stream: &MuxStream, permit: StreamPermit) {
        *self.tunnel.lock() = Some((stream.clone(), permit));
        // Whoever has cut it before has found no stream.
        if self.is_cut() {
            self.let_go();
        }
    }

    /// The operator ends the exchange: its stream is cut now, its share of tunnel and lane is free. The visitor's side
    /// finds out when it reads or writes next.
    pub(crate) fn cut(&self) {
        self.fail(Failure::CutByOperator);
        self.cut.store(true, Ordering::Release);
        self.let_go();
    }

    /// The stream is cut, and its share of tunnel and lane is free.
    pub(crate) fn let_go(&self) {
        let held = self.tunnel.lock().take();
        if let Some((stream, _permit)) = held {
            stream.abort();
        }
    }

    /// Whether the operator has ended it.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// What is known of the request.
    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    /// When it was opened.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The status that the visitor gets, the bytes that it has sent, and those that went to it.
    pub(crate) fn so_far(&self) -> (Option<StatusCode>, u64, u64) {
        let status = StatusCode::from_u16(self.status.load(Ordering::Relaxed)).ok();
        (status, self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    /// The visitor gets this status.
    pub(crate) fn status(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// The application has begun to answer, with this status. It took so long for that itself, if its agent tells.
    pub(crate) fn answered(&self, status: StatusCode, local: Option<Duration>) {
        self.status(status);
        let waited = self.started.elapsed();
        // An agent may say what it likes.
        let local = local.map(|local| local.min(waited));
        self.about.meter.answered(waited, local);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        self.waited.store(micros(waited), Ordering::Relaxed);
        self.local.store(local.map_or(0, micros), Ordering::Relaxed);
    }

    /// After how long the application has begun to answer, if it has, and what it took of that itself, if that is known.
    fn waited(&self) -> (Option<Duration>, Option<Duration>) {
        let of = |micros: &AtomicU64| match micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        };
        (of(&self.waited), of(&self.local))
    }

    /// So many bytes of the answer's body went to the visitor.
    pub(crate) fn sent(&self, bytes: usize) {
        self.moved(Way::Out, bytes);
    }

    /// So many bytes of the server's own page went to the visitor: nothing that a lane has carried.
    pub(crate) fn sent_page(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.about.meter.sent(bytes);
    }

    /// So many bytes of a connection, or of a request's body, went to the visitor or came from it.
    pub(crate) fn moved(&self, way: Way, bytes: usize) {
        let meter = &self.about.meter;
        match way {
            Way::In => {
                self.received.fetch_add(bytes as u64, Ordering::Relaxed);
                meter.received(bytes);
            }
            Way::Out => {
                self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
                meter.sent(bytes);
            }
        }
        self.weigh(bytes);
    }

    /// Its lane should know what it carries.
    fn weigh(&self, bytes: usize) {
        if let Some((_, permit)) = &*self.tunnel.lock() {
            permit.moved(bytes);
        }
    }

    /// The answer was sent whole.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// The exchange failed; the first reason counts.
    pub(crate) fn fail(&self, failure: Failure) {
        let _ = self.failure.set(failure);
    }

    /// Records that the request failed. A visitor that already has the whole response may omit the rest of its request.
    pub(crate) fn fail_unless_complete(&self, failure: Failure) {
        if !self.complete.load(Ordering::Relaxed) {
            self.fail(failure);
        }
    }

    /// Why the exchange failed, if it did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.get().cloned()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.live.remove(self.about.request_id);
        let took = self.started.elapsed();
        let failure = self.failure.get();
        let (outcome, word) = match (failure, self.complete.load(Ordering::Relaxed)) {
            (Some(failure), _) => (Outcome::Failed(code_number(failure.code())), failure.code()),
            (None, true) => (Outcome::Whole, "ok"),
            (None, false) => (Outcome::Cut, "cut"),
        };
        let span = std::mem::take(&mut self.about.span);
        let About { request_id, visitor, meter, asked, .. } = &self.about;
        let (status, received, sent) = self.so_far();
        match asked {
            Asked::Request(method, _) => {
                let is_connection = method == Method::CONNECT || status == Some(StatusCode::SWITCHING_PROTOCOLS);
                meter.request_ended(status, (!is_connection).then_some(took), outcome);
            }
            Asked::Connection(_) => meter.connection_ended(outcome),
        }
        let number = status.map_or(0, |status| status.as_u16());
        span.end(|facts| {
            let (waited, local) = self.waited();
            let answered = waited.map(|waited| took.saturating_sub(waited));
            End { meter: Some(meter), status: number, outcome: word, answered, local }.tell(facts);
        });
        if !is_read() {
            return;
        }
        let (waited, local) = self.waited();
        let line = Line {
            request_id: *request_id,
            visitor: *visitor,
            meter: Some(meter),
            host: None,
            asked,
            status: number,
            outcome: word,
            took,
            waited,
            local,
            sent,
            received,
        };
        line.write();
    }
}

#[cfg(test)]
mod tests;
