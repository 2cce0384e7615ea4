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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// Reads a body that comes in these pieces: its data, its trailers, and what is left behind it.
    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<HeaderMap>, Bytes, bool), NotHttp> {
        let (mut chunked, mut input) = (Chunked::default(), Bytes::new());
        let (mut data, mut trailers) = (Vec::new(), None);
        for piece in pieces {
            input = [&input[..], piece].concat().into();
            loop {
                match chunked.next(&mut input)? {
                    Some(Part::Data(piece)) => data.extend_from_slice(&piece),
                    Some(Part::Trailers(fields)) => trailers = Some(fields),
                    Some(Part::End) => return Ok((data, trailers, input, true)),
                    None => break,
                }
            }
        }
        Ok((data, trailers, input, false))
    }

    #[test]
    fn pieces_trailers_and_what_follows_are_told_apart() {
        let body = b"5;name=\"x\"\r\nhello\r\n00a\r\n, world!!\n\r\n0\r\nX-Sum: 1\r\n\r\nHTTP/1.1";
        let (data, trailers, left, ended) = read(&[body]).unwrap();
        assert_eq!((&data[..], &left[..], ended), (&b"hello, world!!\n"[..], &b"HTTP/1.1"[..], true));
        assert_eq!(trailers.unwrap()["x-sum"], "1");
        assert_eq!(read(&[b"0\r\n\r\n"]).unwrap().1, None);
    }

    #[test]
    fn what_are_no_pieces_is_refused() {
        for wrong in [
            &b"x\r\n"[..],
            b"-1\r\n",
            b"5\nhello\r\n",
            b"5\r\nhello!\r\n",
            b"5\r\nhello\n",
            b"fffffffffffffffff\r\n",
            b"0\r\nno colon\r\n\r\n",
            b" 5\r\nhello\r\n",
        ] {
            assert!(read(&[wrong]).is_err(), "{}", wrong.escape_ascii());
        }
        let endless = [&b"5;"[..], &[b'x'; MAX_LINE]].concat();
        assert!(read(&[&endless]).is_err());
    }

    #[test]
    fn an_end_that_is_missing_is_none() {
        for cut in [&b"5\r\nhel"[..], b"5\r\nhello", b"5\r\nhello\r\n", b"0\r\n", b"0\r\nX: 1\r\n"] {
            assert!(!read(&[cut]).unwrap().3, "{}", cut.escape_ascii());
        }
    }

    proptest! {
        /// What is written is read as it was, wherever it is cut on its way.
        #[test]
        fn a_body_survives(bodies: Vec<Vec<u8>>, has_trailers: bool, cuts: Vec<prop::sample::Index>) {
            let mut out = BytesMut::new();
            for body in bodies.iter().filter(|body| !body.is_empty()) {
                put_length(&mut out, body.len());
                out.extend_from_slice(body);
                out.extend_from_slice(b"\r\n");
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("1"));
            put_end(&mut out, has_trailers.then_some(&trailers));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(out.len())).chain([0, out.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &out[cut[0]..cut[1]]).collect();
            let (data, got, left, ended) = read(&pieces).unwrap();
            prop_assert!(ended && left.is_empty());
            prop_assert_eq!(data, bodies.concat());
            prop_assert_eq!(got, has_trailers.then_some(trailers));
        }
    }
}
