//! An exchange that a tunnel carries. While it lives, it holds its permits and its stream; when it is dropped, it ends.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use crate::link::copy::Way;
use crate::link::session::Stream;
use crate::server::directory::tunnel::StreamPermit;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::observe::exchange::HeldPermits;
use crate::server::ingress::observe::record::{ExchangeRecord, Outcome};
use crate::server::ingress::observe::{Observer, Observers};
use crate::values::RequestId;

/// A forwarded request or connection.
#[derive(Debug)]
pub(crate) struct ForwardedExchange {
    record: ExchangeRecord,
    progress: Progress,
    /// The stream that carries it, with its share of tunnel and lane. Released before `_permits`: when no exchange is
    /// open, no stream is in use.
    stream: Mutex<Option<(Stream, StreamPermit)>>,
    observers: Arc<Observers>,
    _permits: HeldPermits,
}

/// What changes while an exchange is forwarded.
#[derive(Debug, Default)]
struct Progress {
    status: AtomicU16,
    /// Microseconds until the application began to answer; 0 before.
    waited: AtomicU64,
    /// How many of them the application itself took, as its agent reports; 0 if it does not.
    local: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    is_complete: AtomicBool,
    failure: OnceLock<Failure>,
    /// Set when the operator ends the exchange.
    is_cut: AtomicBool,
}

impl ForwardedExchange {
    /// Begins to forward the exchange of `record`, and tells the observers.
    pub(super) fn open(mut record: ExchangeRecord, permits: HeldPermits, observers: &Arc<Observers>) -> Arc<Self> {
        record.started = Some(Instant::now());
        record.end.was_forwarded = true;
        let exchange = Arc::new(Self {
            record,
            progress: Progress::default(),
            stream: Mutex::default(),
            observers: Arc::clone(observers),
            _permits: permits,
        });
        observers.forwarded(&exchange);
        exchange
    }

    /// Returns what is known of the exchange. Its end is recorded when the exchange is dropped.
    pub(crate) fn record(&self) -> &ExchangeRecord {
        &self.record
    }

    pub(crate) fn request_id(&self) -> RequestId {
        self.record.request_id
    }

    /// Makes the application's spans children of this exchange's.
    pub(crate) fn propagate_trace(&self, headers: &mut HeaderMap) {
        self.record.span.pass_on(headers);
    }

    /// Holds the stream and its share of tunnel and lane until the exchange ends or another stream replaces it.
    pub(crate) fn hold(&self, stream: &Stream, permit: StreamPermit) {
        *self.stream.lock() = Some((stream.clone(), permit));
        // An earlier `cut` has found no stream.
        if self.is_cut() {
            self.release();
        }
    }

    /// Ends the exchange for the operator: resets its stream and releases its share of tunnel and lane. The visitor's side
    /// notices at its next read or write.
    pub(crate) fn cut(&self) {
        self.fail(Failure::CutByOperator);
        self.progress.is_cut.store(true, Ordering::Release);
        self.release();
    }

    /// Resets the stream and releases its share of tunnel and lane.
    pub(crate) fn release(&self) {
        let held = self.stream.lock().take();
        if let Some((stream, _permit)) = held {
            stream.abort();
        }
    }

    /// Returns whether the operator has ended it.
    pub(crate) fn is_cut(&self) -> bool {
        self.progress.is_cut.load(Ordering::Acquire)
    }

    /// Returns the status that the visitor gets, if known, and the bytes received from and sent to the visitor.
    pub(crate) fn so_far(&self) -> (Option<StatusCode>, u64, u64) {
        let Progress { status, received, sent, .. } = &self.progress;
        let status = StatusCode::from_u16(status.load(Ordering::Relaxed)).ok();
        (status, received.load(Ordering::Relaxed), sent.load(Ordering::Relaxed))
    }

    /// Records the status that the visitor gets.
    pub(crate) fn set_status(&self, status: StatusCode) {
        self.progress.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// Records that the application has begun to answer with `status`. `local` is how long the application itself took, if
    /// its agent reports it.
    pub(crate) fn response_began(&self, status: StatusCode, local: Option<Duration>) {
        self.set_status(status);
        let waited = self.record.elapsed();
        // The agent is not trusted.
        let local = local.map(|local| local.min(waited));
        if let Some(service) = &self.record.service {
            service.answered(waited, local);
        }
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        self.progress.waited.store(micros(waited), Ordering::Relaxed);
        self.progress.local.store(local.map_or(0, micros), Ordering::Relaxed);
    }

    /// Counts bytes of the response body.
    pub(crate) fn sent(&self, bytes: usize) {
        self.moved(Way::Out, bytes);
    }

    /// Counts bytes of a page of the server's own, which no lane has carried.
    pub(crate) fn sent_page(&self, bytes: usize) {
        self.progress.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(service) = &self.record.service {
            service.sent(bytes);
        }
    }

    /// Counts bytes of a connection, or of a request body.
    pub(crate) fn moved(&self, way: Way, bytes: usize) {
        let counted = match way {
            Way::In => &self.progress.received,
            Way::Out => &self.progress.sent,
        };
        counted.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(service) = &self.record.service {
            match way {
                Way::In => service.received(bytes),
                Way::Out => service.sent(bytes),
            }
        }
        if let Some((_, permit)) = &*self.stream.lock() {
            permit.moved(bytes);
        }
    }

    /// Records that the whole response was sent.
    pub(crate) fn complete(&self) {
        self.progress.is_complete.store(true, Ordering::Relaxed);
    }

    /// Records that the exchange failed. The first failure counts.
    pub(crate) fn fail(&self, failure: Failure) {
        let _ = self.progress.failure.set(failure);
    }

    /// Records that the request failed. A visitor that already has the whole response may omit the rest of its request.
    pub(crate) fn fail_unless_complete(&self, failure: Failure) {
        if !self.progress.is_complete.load(Ordering::Relaxed) {
            self.fail(failure);
        }
    }

    /// Returns why the exchange failed, if it did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.progress.failure.get().cloned()
    }
}

impl Drop for ForwardedExchange {
    fn drop(&mut self) {
        let (record, progress) = (&mut self.record, &mut self.progress);
        let time = |micros: u64| (micros > 0).then(|| Duration::from_micros(micros));
        let end = &mut record.end;
        end.outcome = match progress.failure.take() {
            Some(failure) => Outcome::Failed(failure),
            None if *progress.is_complete.get_mut() => Outcome::Complete,
            None => Outcome::Cut,
        };
        end.status = *progress.status.get_mut();
        end.sent = *progress.sent.get_mut();
        end.received = *progress.received.get_mut();
        end.waited = time(*progress.waited.get_mut());
        end.local = time(*progress.local.get_mut());
        self.observers.ended(record);
    }
}
