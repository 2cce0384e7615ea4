//! The login's messages on a pipe, and control messages on a stream.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::session::Stream;
use crate::protocol::control::Control;
use crate::protocol::json::{self, JsonError};
use crate::protocol::later::{read_control, read_hello};
use crate::protocol::login::{Answer, Hello, Refused};
use crate::values::without_link;

/// Why a message did not come or could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The connection broke.
    #[error("the connection broke: {}", without_link(.0))]
    Io(#[from] io::Error),
    /// The peer closed the connection before a whole message had come.
    #[error("the other side closed the connection")]
    Closed,
    /// What came is not a message of this protocol.
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// Sends one message of up to [`json::MAX`] bytes.
///
/// # Errors
/// The connection broke, or the message is larger than the protocol allows.
pub async fn send(pipe: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), MessageError> {
    Ok(send_encoded(pipe, &json::encode(message)?).await?)
}

/// Sends one message that is encoded already.
///
/// # Errors
/// The connection broke.
pub async fn send_encoded(pipe: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    pipe.write_all(message).await?;
    pipe.flush().await
}

/// Receives one message of up to [`json::MAX`] bytes and not a byte more: what follows belongs to the multiplexer.
/// Allocates nothing for a message that is too large.
///
/// # Errors
/// The connection broke or ended, or what came is no such message.
pub async fn receive<T: DeserializeOwned>(pipe: &mut (impl AsyncRead + Unpin)) -> Result<T, MessageError> {
    receive_within(json::MAX, pipe).await
}

/// As [`receive`], for the answer to a login: it may have [`json::MAX_ANSWER`] bytes.
///
/// # Errors
/// As for [`receive`].
pub async fn receive_answer(pipe: &mut (impl AsyncRead + Unpin)) -> Result<Answer, MessageError> {
    receive_within(json::MAX_ANSWER, pipe).await
}

/// Receives an agent's hello, or the refusal to send if it is of a later version.
///
/// # Errors
/// As for [`receive`].
pub async fn receive_hello(pipe: &mut (impl AsyncRead + Unpin)) -> Result<Result<Hello, Refused>, MessageError> {
    Ok(read_hello(&receive_bytes(json::MAX, pipe).await?)?)
}

async fn receive_within<T: DeserializeOwned>(
    limit: usize,
    pipe: &mut (impl AsyncRead + Unpin),
) -> Result<T, MessageError> {
    Ok(json::parse(&receive_bytes(limit, pipe).await?)?)
}

async fn receive_bytes(limit: usize, pipe: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, MessageError> {
    let mut length = [0; 4];
    read_exact(pipe, &mut length).await?;
    let mut message = vec![0; json::length_of(length, limit)?];
    read_exact(pipe, &mut message).await?;
    Ok(message)
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
    stream: Stream,
    limit: usize,
    input: BytesMut,
}

impl ControlReader {
    /// Reads the control stream of an agent.
    pub fn new(stream: Stream) -> Self {
        Self { stream, limit: json::MAX, input: BytesMut::new() }
    }

    /// Reads what a server says, which may list all that is offered, as its answer to a login does.
    pub fn of_server(stream: Stream) -> Self {
        Self { limit: json::MAX_ANSWER, ..Self::new(stream) }
    }

    /// The next message. Cancel-safe, and counted by the runtime: a peer that never pauses does not keep others waiting.
    ///
    /// # Errors
    /// The lane is gone, or what came is no control message.
    pub async fn receive(&mut self) -> Result<Control, MessageError> {
        tokio::task::consume_budget().await;
        loop {
            if let Some(message) = json::decode_with(self.limit, &mut self.input, read_control)? {
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
    stream: Stream,
    /// The unsent rest of the last message.
    rest: Bytes,
}

impl ControlWriter {
    /// Writes the control stream.
    pub fn new(stream: Stream) -> Self {
        Self { stream, rest: Bytes::new() }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The lane is gone.
    pub async fn send(&mut self, message: &Control) -> Result<(), MessageError> {
        let bytes = Bytes::from(json::encode_within(json::MAX_ANSWER, message)?);
        poll_fn(|cx| self.poll_rest(cx)).await?;
        self.rest = bytes;
        Ok(poll_fn(|cx| self.poll_rest(cx)).await?)
    }

    /// Sends a heartbeat, unless earlier messages are still waiting to be sent: they show the peer as much.
    ///
    /// # Errors
    /// The lane is gone.
    pub fn beat(&mut self) -> Result<(), MessageError> {
        if self.send_rest_now()? {
            self.rest = Bytes::from(json::encode(&Control::Heartbeat)?);
            self.send_rest_now()?;
        }
        Ok(())
    }

    /// Sends what there is room for of the last message, and returns whether that is all.
    fn send_rest_now(&mut self) -> io::Result<bool> {
        while !self.rest.is_empty()
            && let n @ 1.. = self.stream.write_now(&self.rest)?
        {
            self.rest.advance(n);
        }
        Ok(self.rest.is_empty())
    }

    /// Sends the rest of the last message.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let n = ready!(self.stream.poll_write(cx, &self.rest))?;
            self.rest.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::super::testing::{Pair, pattern, stays_pending, within, write};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_follows_a_message_is_left_alone() {
        let (mut near, mut far) = duplex(100_000);
        send(&mut near, &"first").await.unwrap();
        send(&mut near, &vec![1, 2]).await.unwrap();
        near.write_all(b"raw").await.unwrap();
        assert_eq!(within(receive::<String>(&mut far)).await.unwrap(), "first");
        assert_eq!(within(receive::<Vec<u8>>(&mut far)).await.unwrap(), [1, 2]);
        let mut raw = [0; 3];
        within(far.read_exact(&mut raw)).await.unwrap();
        assert_eq!(&raw, b"raw");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_may_come_byte_by_byte() {
        let (mut near, mut far) = duplex(1);
        let (sent, got) = within(async { tokio::join!(send(&mut near, &"slow"), receive::<String>(&mut far)) }).await;
        sent.unwrap();
        assert_eq!(got.unwrap(), "slow");
    }

    #[tokio::test(start_paused = true)]
    async fn too_much_is_refused_before_it_comes() {
        let (mut near, mut far) = duplex(100);
        near.write_all(&[0, 0, 0x80, 1]).await.unwrap();
        let refused = within(receive::<String>(&mut far)).await;
        assert!(matches!(refused, Err(MessageError::Json(JsonError::TooLarge { length: 0x8001, .. }))), "{refused:?}");
        let refused = send(&mut near, &"x".repeat(json::MAX)).await;
        assert!(matches!(refused, Err(MessageError::Json(JsonError::TooLarge { .. }))), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_message_is_none_and_another_one_is_malformed() {
        for half in [&[0, 0][..], &[0, 0, 0, 9, b'"']] {
            let (mut near, mut far) = duplex(100);
            near.write_all(half).await.unwrap();
            drop(near);
            assert!(matches!(within(receive::<String>(&mut far)).await, Err(MessageError::Closed)));
        }
        let (mut near, mut far) = duplex(100);
        send(&mut near, &7).await.unwrap();
        let refused = within(receive::<String>(&mut far)).await;
        assert!(matches!(refused, Err(MessageError::Json(JsonError::Malformed(_)))), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn control_messages_cross_a_stream_in_any_pieces() {
        let mut pair = Pair::new();
        let (near, far) = pair.stream().await;
        let (mut reader, mut writer) = (ControlReader::new(near), ControlWriter::new(far.clone()));
        writer.send(&Control::Heartbeat).await.unwrap();
        writer.send(&Control::Replaced { by: "x".repeat(10_000) }).await.unwrap();
        assert!(matches!(within(reader.receive()).await, Ok(Control::Heartbeat)));
        assert!(matches!(within(reader.receive()).await, Ok(Control::Replaced { by }) if by.len() == 10_000));
        for byte in json::encode(&Control::Rollover).unwrap() {
            // Given up and begun again: nothing that has come is lost.
            stays_pending(reader.receive()).await;
            write(&far, &[byte]).await.unwrap();
        }
        assert!(matches!(within(reader.receive()).await, Ok(Control::Rollover)));
        drop((writer, far));
        assert!(matches!(within(reader.receive()).await, Err(MessageError::Closed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_control_messages_lets_others_run() {
        let mut pair = Pair::new();
        let (near, far) = pair.stream().await;
        let flood = json::encode(&Control::Heartbeat).unwrap().repeat(1000);
        write(&far, &flood).await.unwrap();
        let (mut reader, mut received) = (ControlReader::new(near), 0);
        let mut read_all = Box::pin(async {
            while reader.receive().await.is_ok() {
                received += 1;
            }
        });
        // All of it has come, and it is not read in one go.
        stays_pending(std::future::pending::<()>()).await;
        assert!(futures_util::poll!(&mut read_all).is_pending());
        drop(read_all);
        assert!((1..1000).contains(&received), "{received}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_message_too_large_is_refused() {
        let mut pair = Pair::new();
        let (near, far) = pair.stream().await;
        write(&far, &[255; 4]).await.unwrap();
        write(&far, &pattern(100)).await.unwrap();
        let refused = within(ControlReader::new(near).receive()).await;
        assert!(matches!(refused, Err(MessageError::Json(JsonError::TooLarge { .. }))), "{refused:?}");
    }
}
