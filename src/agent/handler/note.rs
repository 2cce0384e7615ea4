//! What is noted of a request for its line in the log, if anybody reads that.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use http::StatusCode;
use tokio::time::Instant;

use super::Refusal;
use crate::link::copy::Way;
use crate::protocol::exchange::RequestHead;
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use crate::telemetry::REQUEST_LOG;

/// Nothing, if nobody reads the log: then a request costs a pointer.
#[derive(Default)]
pub(super) struct Note(Option<Box<Noted>>);

struct Noted {
    started: Instant,
    method: String,
    /// As the visitor asked for it, without the query: secrets may be in that.
    path: String,
    /// 0: the application has not answered.
    status: AtomicU16,
    sent: AtomicU64,
}

impl Note {
    pub(super) fn begin(preface: &Preface) -> Self {
        if !tracing::enabled!(target: REQUEST_LOG, tracing::Level::INFO) {
            return Self(None);
        }
        // Of a connection that is no request, its kind and its visitor are known.
        let (method, path) = match preface.kind {
            ServiceKind::Http => (String::new(), String::new()),
            kind => (kind.word().to_uppercase(), preface.visitor.ip().to_string()),
        };
        let (status, sent) = Default::default();
        Self(Some(Box::new(Noted { started: Instant::now(), method, path, status, sent })))
    }

    /// What the visitor asks for.
    pub(super) fn asked(&mut self, head: &RequestHead) {
        if let Some(noted) = &mut self.0 {
            let path = head.target.split(|byte| *byte == b'?').next().unwrap_or_default();
            noted.path = String::from_utf8_lossy(path).into_owned();
            noted.method = head.method.to_string();
        }
    }

    /// The application answers.
    pub(super) fn answered(&self, status: StatusCode) {
        if let Some(noted) = &self.0 {
            noted.status.store(status.as_u16(), Ordering::Relaxed);
        }
    }

    /// So many bytes of its answer are on their way.
    pub(super) fn sent(&self, bytes: usize) {
        if let Some(noted) = &self.0 {
            noted.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// The same for a connection, both ways of which count.
    pub(super) fn meter(&self) -> impl Fn(Way, usize) {
        |_, bytes| self.sent(bytes)
    }

    /// It is over.
    pub(super) fn end(self, preface: &Preface, ended: &Result<(), Refusal>) {
        // Nothing was asked if the head has never come.
        let Some(noted) = self.0.filter(|noted| !noted.method.is_empty()) else { return };
        let outcome = match ended {
            Ok(()) => "ok",
            Err(Refusal::Reset(reason)) => reason.word(),
            // The visitor has left, or the server has ended it: nobody says which.
            Err(Refusal::Gone | Refusal::Status(_)) => "cut",
        };
        tracing::info!(
            target: REQUEST_LOG,
            request = %preface.request_id,
            service = %preface.service,
            method = noted.method,
            path = noted.path,
            status = Some(noted.status.into_inner()).filter(|status| *status != 0),
            bytes = noted.sent.into_inner(),
            ms = u64::try_from(noted.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            outcome,
            "request"
        );
    }
}
