//! Serves one stream from its preface to its end.
//!
//! [`http`] carries a request to the backend and its response back; [`raw`] carries a connection byte for byte.

mod http;
mod raw;
mod request_log;
mod visitor;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BufMut;

use crate::agent::backend::Backend;
use crate::agent::backend::error::BackendError;
use crate::agent::routes::Routes;
use crate::limits::{HeldHeads, Permits};
use crate::link::framed::{FrameReader, FrameWriter};
use crate::link::session::Stream;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::frame::{MAX_HEAD, Reset, Status};
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use request_log::RequestLog;

/// How long preface and head may take to arrive; the server sends them immediately.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// The idle timeout of an upgraded connection. The server's own limit is shorter.
const UPGRADED_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long to wait for an application that does not read the last data before an abort.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// Serves the streams of one tunnel.
#[derive(Debug)]
pub(in crate::agent) struct Handler {
    pub(in crate::agent) routes: Routes,
    permits: Permits,
    heads: HeldHeads,
    draining: AtomicBool,
}

impl Handler {
    /// Serves up to `max_streams` streams at once and charges their heads to `heads`.
    pub(in crate::agent) fn new(routes: Routes, max_streams: usize, heads: HeldHeads) -> Self {
        Self { routes, permits: Permits::new(max_streams), heads, draining: AtomicBool::new(false) }
    }

    /// Refuses new streams from now on; open ones go on.
    pub(in crate::agent) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Serves one stream to its end.
    pub(in crate::agent) async fn serve(self: Arc<Self>, stream: Stream) {
        let reader = FrameReader::new(stream.clone(), Decoder::request(MAX_HEAD));
        let mut writer = FrameWriter::new(stream);
        if let Err(failure) = self.exchange(reader, &mut writer).await {
            match failure {
                StreamFailure::Status(status) => {
                    writer.gather().put_u8(status as u8);
                    // If this fails, the stream is gone.
                    let _ = writer.flush().await;
                }
                StreamFailure::Reset(reason) => writer.reset(reason),
                StreamFailure::PeerGone => {}
            }
        }
    }

    async fn exchange(&self, mut reader: FrameReader, writer: &mut FrameWriter) -> Result<(), StreamFailure> {
        let preface = match tokio::time::timeout(HEAD_DEADLINE, reader.event()).await {
            Ok(Ok(Event::Preface(preface))) => preface,
            Ok(Err(_)) => return Err(StreamFailure::PeerGone),
            Ok(Ok(_)) | Err(_) => return Err(StreamFailure::Status(Status::Malformed)),
        };
        if self.draining.load(Ordering::Relaxed) {
            return Err(StreamFailure::Status(Status::Draining));
        }
        let route = self.routes.get(&preface.service).filter(|route| route.kind() == preface.kind);
        let route = route.ok_or(StreamFailure::Status(Status::UnknownService))?;
        let _permit = self.permits.try_acquire().ok_or(StreamFailure::Status(Status::TooManyStreams))?;
        let mut log = RequestLog::start(&preface);
        let ended = match preface.kind {
            ServiceKind::Http => {
                let exchange = http::Exchange { route: &route, heads: &self.heads, preface: &preface };
                exchange.serve(reader, writer, &mut log).await
            }
            ServiceKind::Tcp | ServiceKind::Tls => {
                let idle = route.quiet_timeout().unwrap_or(UPGRADED_IDLE);
                Box::pin(raw::serve(route.default_backend(), &preface, reader, writer, idle, &log)).await
            }
        };
        log.end(&preface, &ended);
        ended
    }
}

/// Writes the status byte that accepts a stream.
fn accept(writer: &mut FrameWriter) {
    writer.gather().put_u8(Status::Accepted as u8);
}

/// Why a stream ends without a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamFailure {
    /// Refused before anything was sent.
    Status(Status),
    /// Aborted.
    Reset(Reset),
    /// The visitor, the server or the lane is gone.
    PeerGone,
}

/// Returns how a stream ends whose backend failed, and reports that.
fn failed(backend: &Backend, preface: &Preface, error: &BackendError) -> StreamFailure {
    backend.report_failure(&preface.service, error);
    let (reason, why) = (error.reason.word(), &error.text);
    tracing::debug!(request = %preface.request_id, reason, "a request failed: {why}");
    StreamFailure::Reset(error.reason)
}
