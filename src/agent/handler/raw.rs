//! Connections that are carried to a local application byte for byte.

use std::time::Duration;

use super::request_log::RequestLog;
use super::{LAST_BYTES, StreamFailure, accept, failed};
use crate::agent::backend::Backend;
use crate::agent::backend::error::BackendError;
use crate::link::copy::both_ways;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::protocol::frame::Reset;
use crate::protocol::preface::Preface;

/// Carries a connection to the local application, until nothing has moved for `idle`.
pub(super) async fn serve(
    backend: &Backend,
    preface: &Preface,
    reader: FrameReader,
    writer: &mut FrameWriter,
    idle: Duration,
    log: &RequestLog,
) -> Result<(), StreamFailure> {
    accept(writer);
    writer.flush().await.map_err(|_| StreamFailure::PeerGone)?;
    let Some(local) = backend.as_local() else { return Err(StreamFailure::Reset(Reset::LocalUnreachable)) };
    let dialled = local.dialler.dial(Some((preface.visitor, preface.server))).await;
    let mut stream = dialled.map_err(|error| failed(backend, preface, &BackendError::dial(&error)))?;
    backend.report_success(&preface.service);
    let writer = FrameWriter::new(writer.stream().clone());
    // The other side has been told already how the connection ended.
    if both_ways(&mut stream, reader, writer, idle, log.meter()).await.is_err() {
        stream.reset(LAST_BYTES).await;
        return Err(StreamFailure::PeerGone);
    }
    Ok(())
}
