//! Bodies in pieces that say how long they are (RFC 9112, section 7.1). No I/O.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use httparse::Status;

use super::codec::{NotHttp, put_field, take_trailers};

/// Bytes of the line before a piece: its length and its extensions, which nobody uses.
const MAX_LINE: usize = 16 * 1024;

/// Part of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// Where a body is that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Chunked {
    /// Before the length of a piece.
    #[default]
    Length,
    /// So many bytes before the end of a piece.
    Data(u64),
    /// Before the line's end behind a piece.
    Behind,
    /// Behind the last piece.
    Trailers,
    Ended,
}

impl Chunked {
    /// The next part, if it is there; it is taken off `input` then.
    ///
    /// # Errors
    /// These are no such pieces.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Part>, NotHttp> {
        loop {
            match *self {
                Self::Length => match httparse::parse_chunk_size(input) {
                    Ok(Status::Complete((end, length))) => {
                        input.advance(end);
                        *self = if length == 0 { Self::Trailers } else { Self::Data(length) };
                    }
                    Ok(Status::Partial) if input.len() <= MAX_LINE => return Ok(None),
                    Ok(Status::Partial) | Err(_) => return Err(NotHttp("a piece of its answer has no length")),
                },
                Self::Data(rest) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let length = usize::try_from(rest).map_or(input.len(), |rest| rest.min(input.len()));
                    let rest = rest - length as u64;
                    *self = if rest == 0 { Self::Behind } else { Self::Data(rest) };
                    return Ok(Some(Part::Data(input.split_to(length))));
                }
                Self::Behind => match input.as_ref() {
                    [] | [b'\r'] => return Ok(None),
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        *self = Self::Length;
                    }
                    _ => return Err(NotHttp("a piece of its answer is longer than it says")),
                },
                Self::Trailers => {
                    let Some(trailers) = take_trailers(input)? else { return Ok(None) };
                    *self = Self::Ended;
                    if !trailers.is_empty() {
                        return Ok(Some(Part::Trailers(trailers)));
                    }
                }
                Self::Ended => return Ok(Some(Part::End)),
            }
        }
    }
}

/// Puts what stands before a piece of so many bytes.
pub(super) fn put_length(out: &mut BytesMut, length: usize) {
    let mut digits = [0; 16];
    let mut from = digits.len();
    let mut rest = length;
    while rest > 0 || from == digits.len() {
        from -= 1;
        digits[from] = b"0123456789abcdef"[rest % 16];
        rest /= 16;
    }
    out.put_slice(&digits[from..]);
    out.put_slice(b"\r\n");
}

/// Puts the end of a body.
pub(super) fn put_end(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        put_field(out, name, value);
    }
    out.put_slice(b"\r\n");
}
