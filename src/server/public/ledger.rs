//! Where every way out of a request ends: one value that lives as long as the exchange. When it is dropped, the
//! permits are free again and the access log has its line.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Instant;

use http::{Method, StatusCode};

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::answer::Failure;
use super::socket::Turn;
use crate::limits::Permit;
use crate::server::tunnel::StreamPermit;
use crate::telemetry::ACCESS_LOG;
use crate::values::{ClientId, Name, RequestId};

/// What is known of a request before it is forwarded.
#[derive(Debug)]
pub(super) struct About {
    pub(super) request_id: RequestId,
    pub(super) visitor: IpAddr,
    pub(super) client: ClientId,
    pub(super) name: Name,
    pub(super) method: Method,
    /// Without the query, which may hold what should not be logged.
    pub(super) path: String,
}

/// What one forwarded request holds, and what is known of it at its end.
#[derive(Debug)]
pub(super) struct Entry {
    about: About,
    started: Instant,
    status: AtomicU16,
    sent: AtomicU64,
    complete: AtomicBool,
    failure: OnceLock<Failure>,
    /// Its share of what the server can have open, and of its connection's time.
    _held: (Permit, Turn, TaskTrackerToken),
    tunnel: OnceLock<StreamPermit>,
}

impl Entry {
    /// Opens the entry. It holds the request's share of what the server can have open in all, and says that the
    /// connection is busy.
    pub(super) fn open(about: About, held: (Permit, Turn, TaskTrackerToken)) -> Self {
        Self {
            about,
            started: Instant::now(),
            status: AtomicU16::new(0),
            sent: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            failure: OnceLock::new(),
            _held: held,
            tunnel: OnceLock::new(),
        }
    }

    /// The stream's share of its tunnel and lane, held until the exchange ends.
    pub(super) fn hold(&self, permit: StreamPermit) {
        // Set once: one exchange has one stream.
        let _ = self.tunnel.set(permit);
    }

    /// The visitor gets this status.
    pub(super) fn status(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// So many bytes of the answer's body went to the visitor.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
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
        self.failure.get().copied()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let outcome = match (self.failure(), self.complete.load(Ordering::Relaxed)) {
            (Some(failure), _) => failure.code(),
            (None, true) => "ok",
            (None, false) => "cut",
        };
        tracing::info!(
            target: ACCESS_LOG,
            request = %self.about.request_id,
            visitor = %self.about.visitor,
            client = %self.about.client,
            name = %self.about.name,
            method = %self.about.method,
            path = self.about.path,
            status = self.status.load(Ordering::Relaxed),
            bytes = self.sent.load(Ordering::Relaxed),
            ms = self.started.elapsed().as_millis() as u64,
            outcome,
            "request"
        );
    }
}
