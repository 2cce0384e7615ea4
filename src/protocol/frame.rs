//! Frames: how a service stream is cut, in both directions.
//!
//! One byte says what it is, three (big-endian) say how long the payload is. A direction is complete with its
//! [`Kind::End`]; a stream that stops without one was cut, whatever the layers below say.

use bytes::{BufMut, BytesMut};

use super::WireError;

/// Bytes before each payload.
pub const HEADER: usize = 4;

/// The largest payload of a [`Kind::Data`] frame that is written. Readers take data as it comes and need no limit.
pub const MAX_DATA: usize = 64 * 1024;

/// The largest payload of a head or of trailers that any peer accepts, whatever its configuration says.
pub const MAX_HEAD: usize = 512 * 1024;

/// The largest head of a response and the largest trailers that are sent, in bytes as they cross the stream.
pub const MAX_RESPONSE_HEAD: usize = 128 * 1024;

/// The largest preface and the largest reset.
pub const MAX_SMALL: usize = 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// From the server only, once, first: which service the stream is for.
    Preface = 1,
    /// The head of the request, or the one final head of the response.
    Head = 2,
    /// A head with status 1xx; any number of them, before the final one.
    Informational = 3,
    /// A piece of the body, or of whatever an upgraded connection carries.
    Data = 4,
    /// Trailers (RFC 9110, section 6.5), after the last data.
    Trailers = 5,
    /// This direction is complete. No payload.
    End = 6,
    /// This exchange is broken off, and why ([`Reset`]).
    Reset = 7,
}

impl Kind {
    /// The kind a byte stands for.
    ///
    /// # Errors
    /// [`WireError::Invalid`] for a byte that stands for none.
    pub fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Self::Preface,
            2 => Self::Head,
            3 => Self::Informational,
            4 => Self::Data,
            5 => Self::Trailers,
            6 => Self::End,
            7 => Self::Reset,
            _ => return Err(WireError::Invalid("frame kind")),
        })
    }

    /// The word for it in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Preface => "preface",
            Self::Head => "head",
            Self::Informational => "informational",
            Self::Data => "data",
            Self::Trailers => "trailers",
            Self::End => "end",
            Self::Reset => "reset",
        }
    }
}

/// Why an exchange was broken off. The number is what crosses the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reset {
    /// Whoever asked is no longer interested: the visitor has left.
    Cancelled = 1,
    /// The local application cannot be reached (refused, no route, wrong address).
    LocalUnreachable = 2,
    /// The local application did not accept a connection in time.
    LocalTimeout = 3,
    /// The local application broke off, or spoke something that is not HTTP.
    LocalBroken = 4,
    /// Nothing moved for longer than the idle limit.
    Idle = 5,
    /// The peer read something that is not of this protocol.
    Protocol = 7,
    /// The body of the request broke off before its end.
    RequestBroken = 8,
    /// A head or a trailer larger than the limit.
    TooLarge = 9,
    /// The agent has no file descriptor left for a connection to the application.
    Exhausted = 10,
}

impl Reset {
    /// The reason a byte stands for; a reason this build does not know is [`Reset::Cancelled`].
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            2 => Self::LocalUnreachable,
            3 => Self::LocalTimeout,
            4 => Self::LocalBroken,
            5 => Self::Idle,
            7 => Self::Protocol,
            8 => Self::RequestBroken,
            9 => Self::TooLarge,
            10 => Self::Exhausted,
            _ => Self::Cancelled,
        }
    }

    /// The word for it in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::LocalUnreachable => "local_unreachable",
            Self::LocalTimeout => "local_timeout",
            Self::LocalBroken => "local_broken",
            Self::Idle => "idle",
            Self::Protocol => "protocol",
            Self::RequestBroken => "request_broken",
            Self::TooLarge => "too_large",
            Self::Exhausted => "exhausted",
        }
    }
}

/// The one byte an agent answers at once, before it has dialled anything. It also acknowledges the stream, without
/// which the multiplexer would soon refuse to open more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The exchange goes on.
    Accepted = 1,
    /// The agent offers no service of that name.
    UnknownService = 2,
    /// The agent serves as many streams as it may.
    TooManyStreams = 3,
    /// The agent is shutting down.
    Draining = 4,
    /// The agent does not understand the preface.
    Malformed = 5,
}

impl Status {
    /// The status a byte stands for.
    ///
    /// # Errors
    /// [`WireError::Invalid`] for a byte that stands for none.
    pub fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Self::Accepted,
            2 => Self::UnknownService,
            3 => Self::TooManyStreams,
            4 => Self::Draining,
            5 => Self::Malformed,
            _ => return Err(WireError::Invalid("status byte")),
        })
    }
}

/// Puts a whole frame whose payload `fill` writes, and sets its length.
///
/// # Errors
/// What `fill` says, or [`WireError::TooLarge`] for a payload beyond `limit`; `out` is then as it was.
pub(super) fn put_frame(
    out: &mut BytesMut,
    kind: Kind,
    limit: usize,
    fill: impl FnOnce(&mut BytesMut) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let start = out.len();
    out.put_slice(&[kind as u8, 0, 0, 0]);
    let filled = fill(out).and_then(|()| {
        let length = out.len() - start - HEADER;
        if length <= limit { Ok(length) } else { Err(WireError::TooLarge(kind.word())) }
    });
    match filled {
        Ok(length) => {
            out[start..start + HEADER].copy_from_slice(&header(kind, length));
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// The four bytes before a payload of `length` bytes.
#[allow(clippy::cast_possible_truncation, reason = "every caller keeps within the 24 bits: MAX_HEAD, MAX_DATA")]
fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    debug_assert!(length < 1 << 24);
    [kind as u8, (length >> 16) as u8, (length >> 8) as u8, length as u8]
}

/// The four bytes before `length` bytes of data. `length` must not exceed [`MAX_DATA`].
pub fn data_header(length: usize) -> [u8; HEADER] {
    header(Kind::Data, length)
}

/// Puts `data` as frames.
pub fn put_data(out: &mut BytesMut, data: &[u8]) {
    for piece in data.chunks(MAX_DATA) {
        out.extend_from_slice(&data_header(piece.len()));
        out.extend_from_slice(piece);
    }
}

/// Puts a [`Kind::End`] frame.
pub fn put_end(out: &mut BytesMut) {
    out.put_slice(&header(Kind::End, 0));
}

/// Puts a [`Kind::Reset`] frame.
pub fn put_reset(out: &mut BytesMut, reason: Reset) {
    out.put_slice(&header(Kind::Reset, 1));
    out.put_u8(reason as u8);
}
