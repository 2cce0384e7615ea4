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
        assert!(matches!(encode(&(largest + "x")), Err(JsonError::TooLarge(length)) if length == MAX + 1));
        let announced = u32::try_from(MAX + 1).unwrap().to_be_bytes();
        let refused = decode::<String>(&mut BytesMut::from(&announced[..]));
        assert!(matches!(refused, Err(JsonError::TooLarge(length)) if length == MAX + 1));
        let refused = decode::<String>(&mut BytesMut::from(&[255; 4][..]));
        assert!(matches!(refused, Err(JsonError::TooLarge(_))));
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
