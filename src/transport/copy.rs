//! Raw bytes between a connection and a stream: what an upgraded exchange becomes.
//!
//! Each direction is copied to its own end: a connection that has said everything may still be listening.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::body::Idle;
use super::framed::{FrameReader, FrameWriter};
use crate::protocol::decode::Event;
use crate::protocol::frame::Reset;

/// Read from the connection at once.
const PIECE: usize = 16 * 1024;

/// Copies both ways until both have ended, one has broken, or nothing has moved for `idle` in either direction.
///
/// # Errors
/// One side broke off; the other side has been told.
pub async fn both_ways<C>(
    connection: C,
    mut reader: FrameReader,
    mut writer: FrameWriter,
    idle: Duration,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
{
    let (mut read, mut write) = tokio::io::split(connection);
    let stream = writer.stream().clone();
    let moved = tokio::sync::Notify::new();
    let out = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            if read.read_buf(&mut buffer).await? == 0 {
                return writer.end().await;
            }
            writer.data(buffer.split().freeze()).await?;
            writer.flush().await?;
            moved.notify_one();
        }
    };
    let back = async {
        loop {
            match reader.event().await {
                Ok(Event::Data(data)) => write.write_all(&data).await?,
                Ok(Event::End) => return write.shutdown().await,
                Ok(_) | Err(_) => return Err(io::ErrorKind::ConnectionReset.into()),
            }
            moved.notify_one();
        }
    };
    let quiet = async {
        let mut idle = Idle::new(idle);
        while idle.watch(moved.notified()).await.is_some() {}
    };
    let result = tokio::select! {
        result = async { tokio::try_join!(out, back).map(|_| ()) } => result,
        () = quiet => Err(io::ErrorKind::TimedOut.into()),
    };
    if result.is_err() && !stream.is_complete() {
        writer_reset(stream);
    }
    result
}

/// The peer learns that this was no proper end.
fn writer_reset(stream: super::mux::MuxStream) {
    FrameWriter::new(stream).reset(Reset::Cancelled);
}
