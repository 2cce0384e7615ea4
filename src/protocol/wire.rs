//! Reading and writing the little fields that heads and prefaces are made of.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The bytes do not follow the protocol. It ends the stream (or the login) they came on, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field reaches beyond the end of what contains it.
    #[error("a field is cut short")]
    Short,
    /// More than the limit that is named; the limit is in bytes unless it says otherwise.
    #[error("{0} is larger than the limit")]
    TooLarge(&'static str),
    /// A value that the field cannot have.
    #[error("{0} has a value that is not allowed")]
    Invalid(&'static str),
    /// A frame where the order of frames does not allow it.
    #[error("a {0} frame stands where it may not")]
    Order(&'static str),
}

/// Takes a `u8`.
pub(super) fn take_u8(input: &mut Bytes) -> Result<u8, WireError> {
    if input.has_remaining() { Ok(input.get_u8()) } else { Err(WireError::Short) }
}

/// Takes a big-endian `u16`.
pub(super) fn take_u16(input: &mut Bytes) -> Result<u16, WireError> {
    if input.remaining() >= 2 { Ok(input.get_u16()) } else { Err(WireError::Short) }
}

/// Takes a big-endian `u32`.
pub(super) fn take_u32(input: &mut Bytes) -> Result<u32, WireError> {
    if input.remaining() >= 4 { Ok(input.get_u32()) } else { Err(WireError::Short) }
}

/// Takes a big-endian `u64`.
pub(super) fn take_u64(input: &mut Bytes) -> Result<u64, WireError> {
    if input.remaining() >= 8 { Ok(input.get_u64()) } else { Err(WireError::Short) }
}

/// Takes a field behind its 16-bit length, without copying it.
pub(super) fn take_short(input: &mut Bytes) -> Result<Bytes, WireError> {
    let length = usize::from(take_u16(input)?);
    take(input, length)
}

/// Takes a field behind its 32-bit length, without copying it.
pub(super) fn take_long(input: &mut Bytes) -> Result<Bytes, WireError> {
    let length = take_u32(input)? as usize;
    take(input, length)
}

/// Takes exactly `length` bytes, without copying them.
pub(super) fn take(input: &mut Bytes, length: usize) -> Result<Bytes, WireError> {
    if length > input.len() { Err(WireError::Short) } else { Ok(input.split_to(length)) }
}

/// Puts a field behind its 16-bit length.
pub(super) fn put_short(out: &mut BytesMut, field: &[u8], what: &'static str) -> Result<(), WireError> {
    out.put_u16(u16::try_from(field.len()).map_err(|_| WireError::TooLarge(what))?);
    out.put_slice(field);
    Ok(())
}

/// Puts a field behind its 32-bit length.
pub(super) fn put_long(out: &mut BytesMut, field: &[u8], what: &'static str) -> Result<(), WireError> {
    out.put_u32(u32::try_from(field.len()).map_err(|_| WireError::TooLarge(what))?);
    out.put_slice(field);
    Ok(())
}
