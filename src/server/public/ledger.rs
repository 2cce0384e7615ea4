//! Where every way out of a request ends: one value that lives as long as the exchange. When it is dropped, the
//! permits are free again, the operator sees it no more, and the access log has its line.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{Method, StatusCode};
use parking_lot::Mutex;

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::answer::Failure;
use super::live::LiveRequests;
use super::socket::Turn;
use crate::limits::Permit;
use crate::protocol::login::ServiceKind;
use crate::server::tunnel::StreamPermit;
use crate::telemetry::ACCESS_LOG;
use crate::transport::copy::Way;
use crate::transport::mux::MuxStream;
use crate::values::{ClientId, Name, RequestId};

/// What is known of a request before it is forwarded.
#[derive(Debug)]
pub(super) struct About {
    pub(super) request_id: RequestId,
    pub(super) visitor: IpAddr,
    pub(super) client: ClientId,
    pub(super) name: Name,
    pub(super) asked: Asked,
}

/// What a visitor asked for.
#[derive(Debug)]
pub(super) enum Asked {
    /// A request. The path is without the query, which may hold what should not be logged.
    Request(Method, String),
    /// A connection, to be carried as it is.
    Connection(ServiceKind),
}

impl Asked {
    /// The method, or the kind of a connection; and the path.
    pub(super) fn words(&self) -> (&str, &str) {
        match self {
            Self::Request(method, path) => (method.as_str(), path),
            Self::Connection(kind) => (kind.word(), ""),
        }
    }
}

/// What an entry holds for as long as it lives.
type Held = (Permit, Option<Permit>, Option<Turn>, TaskTrackerToken);

/// What one forwarded request or connection holds, and what is known of it at its end.
#[derive(Debug)]
pub(super) struct Entry {
    about: About,
    started: Instant,
    status: AtomicU16,
    sent: AtomicU64,
    received: AtomicU64,
    complete: AtomicBool,
    failure: OnceLock<Failure>,
    /// Its share of what the server, and its address, can have open, and of its connection's time, if that has more
    /// requests.
    _held: Held,
    /// The stream that carries it, with its share of tunnel and lane.
    tunnel: Mutex<Option<(MuxStream, StreamPermit)>>,
    /// Where the operator finds it.
    live: Arc<LiveRequests>,
    /// The operator has ended it.
    cut: AtomicBool,
}

impl Entry {
    /// Opens the entry, for the operator to see. It holds the request's share of what server and address can have open
    /// in all, and says that the connection is busy.
    pub(super) fn open(about: About, held: Held, live: &Arc<LiveRequests>) -> Arc<Self> {
        let entry = Arc::new(Self {
            about,
            started: Instant::now(),
            status: AtomicU16::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            failure: OnceLock::new(),
            _held: held,
            tunnel: Mutex::default(),
            live: Arc::clone(live),
            cut: AtomicBool::new(false),
        });
        live.add(&entry);
        entry
    }

    /// The stream and its share of tunnel and lane, held until the exchange ends or another stream takes its place.
    pub(super) fn hold(&self, stream: &MuxStream, permit: StreamPermit) {
        *self.tunnel.lock() = Some((stream.clone(), permit));
        // Whoever has cut it before has found no stream.
        if self.is_cut() {
            self.let_go();
        }
    }

    /// The operator ends the exchange: its stream is cut now, its share of tunnel and lane is free. The visitor's side
    /// finds out when it reads or writes next.
    pub(super) fn cut(&self) {
        self.fail(Failure::CutByOperator);
        self.cut.store(true, Ordering::Release);
        self.let_go();
    }

    /// The stream is cut, and its share of tunnel and lane is free.
    pub(super) fn let_go(&self) {
        let held = self.tunnel.lock().take();
        if let Some((stream, _permit)) = held {
            stream.abort();
        }
    }

    /// Whether the operator has ended it.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// What is known of the request.
    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// When it was opened.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The status that the visitor gets, the bytes that it has sent, and those that went to it.
    pub(super) fn so_far(&self) -> (Option<StatusCode>, u64, u64) {
        let status = StatusCode::from_u16(self.status.load(Ordering::Relaxed)).ok();
        (status, self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    /// The visitor gets this status.
    pub(super) fn status(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// So many bytes of the answer's body went to the visitor.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.weigh(bytes);
    }

    /// So many bytes of a connection, or of a request's body, went to the visitor or came from it.
    pub(super) fn moved(&self, way: Way, bytes: usize) {
        let counter = if way == Way::In { &self.received } else { &self.sent };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        self.weigh(bytes);
    }

    /// Its lane should know what it carries.
    fn weigh(&self, bytes: usize) {
        if let Some((_, permit)) = &*self.tunnel.lock() {
            permit.moved(bytes);
        }
    }

    /// The answer was sent whole.
    pub(super) fn complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// The exchange failed; the first reason counts.
    pub(super) fn fail(&self, failure: Failure) {
        let _ = self.failure.set(failure);
    }

    /// Why the exchange failed, if it did.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.get().cloned()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.live.remove(self.about.request_id);
        let outcome = match (self.failure(), self.complete.load(Ordering::Relaxed)) {
            (Some(failure), _) => failure.code(),
            (None, true) => "ok",
            (None, false) => "cut",
        };
        let (method, path) = self.about.asked.words();
        tracing::info!(
            target: ACCESS_LOG,
            request = %self.about.request_id,
            visitor = %self.about.visitor,
            client = %self.about.client,
            name = %self.about.name,
            method,
            path,
            status = self.status.load(Ordering::Relaxed),
            bytes = self.sent.load(Ordering::Relaxed),
            received = self.received.load(Ordering::Relaxed),
            ms = self.started.elapsed().as_millis() as u64,
            outcome,
            "request"
        );
    }
}
