//! What is entry of a request for its line in the log, if anybody reads that.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use http::StatusCode;
use tokio::time::Instant;

use super::StreamFailure;
use crate::link::copy::Way;
use crate::protocol::exchange::RequestHead;
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use crate::telemetry::REQUEST_LOG;

/// The line of one request. Empty if the log is disabled: then a request costs a pointer.
#[derive(Default)]
pub(super) struct RequestLog(Option<Box<Entry>>);

struct Entry {
    started: Instant,
    method: String,
    /// Without the query, which may contain secrets.
    path: String,
    /// 0 if the backend has not answered.
    status: AtomicU16,
    sent: AtomicU64,
}

impl RequestLog {
    pub(super) fn start(preface: &Preface) -> Self {
        if !tracing::enabled!(target: REQUEST_LOG, tracing::Level::INFO) {
            return Self(None);
        }
        // A raw connection is logged by its kind and its visitor.
        let (method, path) = match preface.kind {
            ServiceKind::Http => (String::new(), String::new()),
            kind => (kind.word().to_uppercase(), preface.visitor.ip().to_string()),
        };
        let (status, sent) = Default::default();
        Self(Some(Box::new(Entry { started: Instant::now(), method, path, status, sent })))
    }

    /// Records what the visitor requests.
    pub(super) fn set_request(&mut self, head: &RequestHead) {
        if let Some(entry) = &mut self.0 {
            let path = head.target.split(|byte| *byte == b'?').next().unwrap_or_default();
            entry.path = String::from_utf8_lossy(path).into_owned();
            entry.method = head.method.to_string();
        }
    }

    /// Records the status of the response.
    pub(super) fn set_status(&self, status: StatusCode) {
        if let Some(entry) = &self.0 {
            entry.status.store(status.as_u16(), Ordering::Relaxed);
        }
    }

    /// Counts bytes of the response.
    pub(super) fn add_sent(&self, bytes: usize) {
        if let Some(entry) = &self.0 {
            entry.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Counts the bytes of a connection, in both directions.
    pub(super) fn meter(&self) -> impl Fn(Way, usize) {
        |_, bytes| self.add_sent(bytes)
    }

    /// Writes the line.
    pub(super) fn end(self, preface: &Preface, ended: &Result<(), StreamFailure>) {
        // Without a head there was no request.
        let Some(entry) = self.0.filter(|entry| !entry.method.is_empty()) else { return };
        let outcome = match ended {
            Ok(()) => "ok",
            Err(StreamFailure::Reset(reason)) => reason.word(),
            // The visitor has left, or the server has ended the stream.
            Err(StreamFailure::PeerGone | StreamFailure::Status(_)) => "cut",
        };
        tracing::info!(
            target: REQUEST_LOG,
            request = %preface.request_id,
            service = %preface.service,
            method = entry.method,
            path = entry.path,
            status = Some(entry.status.into_inner()).filter(|status| *status != 0),
            bytes = entry.sent.into_inner(),
            ms = u64::try_from(entry.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            outcome,
            "request"
        );
    }
}
