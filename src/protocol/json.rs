//! JSON behind a length: the form of the login and of the control stream. Rare messages that must be easy to extend;
//! fields a reader does not know are ignored.

use bytes::{Buf, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest message, in bytes, without its length. Also what a stranger may say at most.
pub const MAX: usize = 32 * 1024;

/// The largest answer to a login, in bytes, without its length: 64 services with all their public addresses fit in.
pub const MAX_ANSWER: usize = 128 * 1024;

/// A message that is not one.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Longer than its kind may be; nothing of it has been read.
    #[error("a message of {length} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Not the JSON that was expected.
    #[error("a message is not what was expected: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// `message` with its length before it, ready to be sent.
///
/// # Errors
/// [`JsonError::TooLarge`] if the peer would refuse it.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, JsonError> {
    encode_within(MAX, message)
}

/// As [`encode`], for a message of up to `limit` bytes.
///
/// # Errors
/// [`JsonError::TooLarge`] if it is longer.
pub fn encode_within(limit: usize, message: &impl Serialize) -> Result<Vec<u8>, JsonError> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, message)?;
    let length = out.len() - 4;
    check(length, limit)?;
    let length = u32::try_from(length).map_err(|_| JsonError::TooLarge { length, limit })?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

fn check(length: usize, limit: usize) -> Result<(), JsonError> {
    if length > limit { Err(JsonError::TooLarge { length, limit }) } else { Ok(()) }
}

/// The length of a message of up to `limit` bytes, as it is said before the message.
///
/// # Errors
/// [`JsonError::TooLarge`] if it is longer.
pub fn length_of(said: [u8; 4], limit: usize) -> Result<usize, JsonError> {
    let length = u32::from_be_bytes(said) as usize;
    check(length, limit).map(|()| length)
}

/// What a message says, without its length.
///
/// # Errors
/// [`JsonError::Malformed`] if it is not the JSON that was expected.
pub fn parse<T: DeserializeOwned>(message: &[u8]) -> Result<T, JsonError> {
    Ok(serde_json::from_slice(message)?)
}

/// Takes one whole message of up to [`MAX`] bytes off the front of `input`; `None` means that more is needed.
///
/// # Errors
/// The message is too large or malformed; what follows it cannot be trusted.
pub fn decode<T: DeserializeOwned>(input: &mut BytesMut) -> Result<Option<T>, JsonError> {
    decode_within(MAX, input)
}

/// As [`decode`], for a message of up to `limit` bytes.
///
/// # Errors
/// As for [`decode`].
pub fn decode_within<T: DeserializeOwned>(limit: usize, input: &mut BytesMut) -> Result<Option<T>, JsonError> {
    decode_with(limit, input, parse)
}

/// Like [`decode_within`], with `read` as the parser of the message.
///
/// # Errors
/// As for [`decode`].
pub fn decode_with<T>(
    limit: usize,
    input: &mut BytesMut,
    read: impl FnOnce(&[u8]) -> Result<T, JsonError>,
) -> Result<Option<T>, JsonError> {
    let Some(length) = input.first_chunk::<4>() else { return Ok(None) };
    let length = length_of(*length, limit)?;
    if input.len() < 4 + length {
        return Ok(None);
    }
    input.advance(4);
    let message = read(&input[..length]);
    input.advance(length);
    message.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_pieces_of_any_size_and_back_to_back() {
        let mut wire = encode(&"first").unwrap();
        wire.extend(encode(&vec![1, 2, 3]).unwrap());
        let mut input = BytesMut::new();
        let (first, second) = wire.split_at(4 + 7);
        for (at, byte) in first.iter().enumerate() {
            input.extend_from_slice(&[*byte]);
            let message = decode::<String>(&mut input).unwrap();
            assert_eq!(message.as_deref(), (at + 1 == first.len()).then_some("first"));
        }
        assert!(input.is_empty());
        for (at, byte) in second.iter().enumerate() {
            input.extend_from_slice(&[*byte]);
            let message = decode::<Vec<u8>>(&mut input).unwrap();
            assert_eq!(message, (at + 1 == second.len()).then(|| vec![1, 2, 3]));
        }
        let mut input = BytesMut::from(&*wire);
        assert_eq!(decode::<String>(&mut input).unwrap().unwrap(), "first");
        assert_eq!(decode::<Vec<u8>>(&mut input).unwrap().unwrap(), [1, 2, 3]);
        assert!(decode::<String>(&mut input).unwrap().is_none());
    }

    #[test]
    fn the_limit_counts_both_ways_and_before_anything_is_read() {
        let largest = "x".repeat(MAX - 2);
        let mut input = BytesMut::from(&*encode(&largest).unwrap());
        assert_eq!(input.len(), 4 + MAX);
        assert_eq!(decode::<String>(&mut input).unwrap().unwrap(), largest);
        assert!(matches!(encode(&(largest + "x")), Err(JsonError::TooLarge { length, .. }) if length == MAX + 1));
        let announced = u32::try_from(MAX + 1).unwrap().to_be_bytes();
        let refused = decode::<String>(&mut BytesMut::from(&announced[..]));
        assert!(matches!(refused, Err(JsonError::TooLarge { length, .. }) if length == MAX + 1));
        let refused = decode::<String>(&mut BytesMut::from(&[255; 4][..]));
        assert!(matches!(refused, Err(JsonError::TooLarge { .. })));
    }

    #[test]
    fn what_is_no_such_message_is_malformed() {
        for body in ["", "{", "7", "\"a\"\"b\"", "\"\u{fffd}"] {
            let mut input = BytesMut::from(&u32::try_from(body.len()).unwrap().to_be_bytes()[..]);
            input.extend_from_slice(body.as_bytes());
            assert!(matches!(decode::<String>(&mut input), Err(JsonError::Malformed(_))), "{body}");
        }
    }
}
