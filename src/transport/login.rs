//! The login's messages on a pipe, and control messages on a stream.

use std::future::poll_fn;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::mux::MuxStream;
use crate::protocol::control::Control;
use crate::protocol::json::{self, JsonError};

/// Why a message did not come or could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer closed the connection before a whole message had come.
    #[error("the other side closed the connection")]
    Closed,
    /// What came is not a message of this protocol.
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// Sends one message.
///
/// # Errors
/// The connection broke, or the message is larger than the protocol allows.
pub async fn send(pipe: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), MessageError> {
    pipe.write_all(&json::encode(message)?).await?;
    pipe.flush().await?;
    Ok(())
}

/// Receives one message and not a byte more: what follows belongs to the multiplexer. Allocates nothing for a message
/// that is too large.
///
/// # Errors
/// The connection broke or ended, or what came is no such message.
pub async fn receive<T: DeserializeOwned>(pipe: &mut (impl AsyncRead + Unpin)) -> Result<T, MessageError> {
    let mut input = BytesMut::zeroed(4);
    read_exact(pipe, &mut input).await?;
    let length = input.clone().get_u32() as usize;
    if length > json::MAX {
        return Err(JsonError::TooLarge(length).into());
    }
    input.resize(4 + length, 0);
    read_exact(pipe, &mut input[4..]).await?;
    json::decode(&mut input)?.ok_or(MessageError::Closed)
}

async fn read_exact(pipe: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Result<(), MessageError> {
    match pipe.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(MessageError::Closed),
        Err(error) => Err(error.into()),
    }
}

/// Receives control messages.
#[derive(Debug)]
pub struct ControlReader {
    stream: MuxStream,
    input: BytesMut,
}

impl ControlReader {
    /// Reads the control stream.
    pub fn new(stream: MuxStream) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// The lane is gone, or what came is no control message.
    pub async fn receive(&mut self) -> Result<Control, MessageError> {
        loop {
            if let Some(message) = json::decode(&mut self.input)? {
                return Ok(message);
            }
            let bytes: Option<Bytes> = poll_fn(|cx| self.stream.poll_read(cx)).await;
            // One message at most is ever incomplete: the buffer holds it and what came with it.
            self.input.extend_from_slice(&bytes.ok_or(MessageError::Closed)?);
        }
    }
}

/// Sends control messages.
#[derive(Debug)]
pub struct ControlWriter {
    stream: MuxStream,
}

impl ControlWriter {
    /// Writes the control stream.
    pub fn new(stream: MuxStream) -> Self {
        Self { stream }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The lane is gone.
    pub async fn send(&mut self, message: &Control) -> Result<(), MessageError> {
        let mut bytes = Bytes::from(json::encode(message)?);
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.stream.poll_write(cx, &bytes)).await?;
            bytes.advance(n);
        }
        Ok(())
    }
}
