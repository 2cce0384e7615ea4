//! JSON behind a length: the form of the login and of the control stream. Rare messages that must be easy to extend;
//! fields a reader does not know are ignored.

use bytes::{Buf, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest message, in bytes, without its length.
pub const MAX: usize = 16 * 1024;

/// A message that is not one.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Longer than [`MAX`]; nothing of it has been read.
    #[error("a message of {0} bytes is larger than the limit of {MAX}")]
    TooLarge(usize),
    /// Not the JSON that was expected.
    #[error("a message is not what was expected: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// `message` with its length before it, ready to be sent.
///
/// # Errors
/// [`JsonError::TooLarge`] if the peer would refuse it.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, JsonError> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, message)?;
    let length = out.len() - 4;
    if length > MAX {
        return Err(JsonError::TooLarge(length));
    }
    let length = u32::try_from(length).map_err(|_| JsonError::TooLarge(length))?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

/// Takes one whole message off the front of `input`; `None` means that more is needed.
///
/// # Errors
/// The message is too large or malformed; what follows it cannot be trusted.
pub fn decode<T: DeserializeOwned>(input: &mut BytesMut) -> Result<Option<T>, JsonError> {
    let Some(length) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX {
        return Err(JsonError::TooLarge(length));
    }
    if input.len() < 4 + length {
        return Ok(None);
    }
    input.advance(4);
    let message = serde_json::from_slice(&input[..length]);
    input.advance(length);
    Ok(Some(message?))
}
