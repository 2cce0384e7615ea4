//! An exchange: one HTTP request and its answer, in the form that crosses a stream.
//!
//! Heads carry what RFC 9110 calls the semantics (method, target, fields) and none of HTTP/1's syntax, so there is no
//! second parser between server and agent to disagree with the first. HTTP/2 and gRPC fit in the same form.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Version};

use super::WireError;
use super::frame::{self, Kind};
use super::wire::{put_long, put_short, take_long, take_short, take_u8, take_u16, take_u32};

/// The most fields (header lines) a head or trailers may have.
pub const MAX_FIELDS: usize = 512;

/// A field with an empty value and a name of one letter, behind their lengths.
const LEAST_FIELD: usize = 2 + 1 + 4;

const HAS_BODY: u8 = 1;
const HAS_AUTHORITY: u8 = 2;
const HAS_PROTOCOL: u8 = 4;

/// How the visitor reached the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheme {
    /// In the clear.
    Http = 1,
    /// Over TLS.
    Https = 2,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn from_byte(byte: u8) -> Result<Self, WireError> {
        match byte {
            1 => Ok(Self::Http),
            2 => Ok(Self::Https),
            _ => Err(WireError::Invalid("scheme")),
        }
    }
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHead {
    /// The method, any token.
    pub method: Method,
    /// How the visitor reached the server.
    pub scheme: Scheme,
    /// The authority the visitor asked for, if the request named one (`Host`, or `:authority`).
    pub authority: Option<Bytes>,
    /// The request target as the visitor wrote it, byte for byte: path and query, or `*`.
    pub target: Bytes,
    /// The `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<Bytes>,
    /// The HTTP version the visitor spoke.
    pub version: Version,
    /// The fields; values of one name keep their order.
    pub headers: HeaderMap,
    /// Whether a body follows. Without one, the direction ends right after the head.
    pub has_body: bool,
}

/// The head of a response, informational (1xx) or final.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The HTTP version the local application spoke.
    pub version: Version,
    /// The fields; values of one name keep their order.
    pub headers: HeaderMap,
    /// How long the application took for it, as the agent has measured it: from having the request's head to having this
    /// one, connecting included. In whole microseconds, up to 2^32 - 1 (71 minutes). Only a final head has it, and only
    /// of agents that tell it.
    pub local: Option<Duration>,
    /// The application's reason phrase, unless it is the registered one of the status. It is sent only beside `local`.
    pub reason: Option<Bytes>,
}

impl RequestHead {
    /// Puts the whole frame.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for more than [`MAX_FIELDS`] fields or [`frame::MAX_HEAD`] bytes.
    pub fn put(&self, out: &mut BytesMut) -> Result<(), WireError> {
        frame::put_frame(out, Kind::Head, frame::MAX_HEAD, |out| {
            let flag = |bit, on| if on { bit } else { 0 };
            out.put_u8(
                flag(HAS_BODY, self.has_body)
                    | flag(HAS_AUTHORITY, self.authority.is_some())
                    | flag(HAS_PROTOCOL, self.protocol.is_some()),
            );
            out.put_u8(version_byte(self.version));
            out.put_u8(self.scheme as u8);
            put_short(out, self.method.as_str().as_bytes(), "method")?;
            put_long(out, &self.target, "target")?;
            for optional in [&self.authority, &self.protocol].into_iter().flatten() {
                put_short(out, optional, "authority or protocol")?;
            }
            put_fields(out, &self.headers)
        })
    }

    /// Reads the payload of a [`Kind::Head`] frame.
    ///
    /// # Errors
    /// A field that is cut short, too large, or has a value it cannot have.
    pub fn parse(mut payload: Bytes) -> Result<Self, WireError> {
        let input = &mut payload;
        let flags = take_u8(input)?;
        let version = version_of(take_u8(input)?)?;
        let scheme = Scheme::from_byte(take_u8(input)?)?;
        let method = Method::from_bytes(&take_short(input)?).map_err(|_| WireError::Invalid("method"))?;
        let target = take_long(input)?;
        let mut optional = |bit| if flags & bit != 0 { take_short(input).map(Some) } else { Ok(None) };
        let authority = optional(HAS_AUTHORITY)?;
        let protocol = optional(HAS_PROTOCOL)?;
        let headers = take_fields(input)?;
        Ok(Self { method, scheme, authority, target, protocol, version, headers, has_body: flags & HAS_BODY != 0 })
    }
}

impl ResponseHead {
    /// Puts the whole frame: [`Kind::Informational`] for a status of 1xx but 101 (RFC 9110, section 15.2: it is the
    /// final answer to an upgrade), [`Kind::Head`] for any other.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for more than [`MAX_FIELDS`] fields or [`frame::MAX_RESPONSE_HEAD`] bytes.
    pub fn put(&self, out: &mut BytesMut) -> Result<(), WireError> {
        let kind = if is_interim(self.status) { Kind::Informational } else { Kind::Head };
        frame::put_frame(out, kind, frame::MAX_RESPONSE_HEAD, |out| {
            out.put_u8(version_byte(self.version));
            out.put_u16(self.status.as_u16());
            put_fields(out, &self.headers)?;
            if let Some(local) = self.local.filter(|_| kind == Kind::Head) {
                out.put_u32(u32::try_from(local.as_micros()).unwrap_or(u32::MAX));
                if let Some(reason) = &self.reason {
                    put_short(out, reason, "reason phrase")?;
                }
            }
            Ok(())
        })
    }

    /// Reads the payload of a [`Kind::Head`] or [`Kind::Informational`] frame. What follows the known fields is left for
    /// later versions.
    ///
    /// # Errors
    /// A field that is cut short, too large, or has a value it cannot have; an interim status in a final head; a reason
    /// phrase that would not be one line.
    pub fn parse(kind: Kind, mut payload: Bytes) -> Result<Self, WireError> {
        let input = &mut payload;
        let version = version_of(take_u8(input)?)?;
        let status = StatusCode::from_u16(take_u16(input)?).map_err(|_| WireError::Invalid("status"))?;
        if is_interim(status) != (kind == Kind::Informational) {
            return Err(WireError::Invalid("status"));
        }
        let headers = take_fields(input)?;
        let local = match kind {
            Kind::Head if input.has_remaining() => Some(Duration::from_micros(take_u32(input)?.into())),
            _ => None,
        };
        let reason = if local.is_some() && input.has_remaining() { Some(take_short(input)?) } else { None };
        match reason {
            Some(reason) if !is_reason(&reason) => Err(WireError::Invalid("reason phrase")),
            reason => Ok(Self { status, version, headers, local, reason }),
        }
    }
}

/// Puts a [`Kind::Trailers`] frame.
///
/// # Errors
/// [`WireError::TooLarge`] for more than [`MAX_FIELDS`] fields or [`frame::MAX_RESPONSE_HEAD`] bytes.
pub fn put_trailers(out: &mut BytesMut, trailers: &HeaderMap) -> Result<(), WireError> {
    frame::put_frame(out, Kind::Trailers, frame::MAX_RESPONSE_HEAD, |out| put_fields(out, trailers))
}

/// Reads the payload of a [`Kind::Trailers`] frame.
///
/// # Errors
/// A field that is cut short, too large, or has a value it cannot have.
pub fn parse_trailers(mut payload: Bytes) -> Result<HeaderMap, WireError> {
    take_fields(&mut payload)
}

/// Returns whether a text may be the reason phrase of a status line (RFC 9112, section 4).
fn is_reason(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn version_byte(version: Version) -> u8 {
    match version {
        Version::HTTP_09 => 9,
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        Version::HTTP_3 => 30,
        _ => 11,
    }
}

fn version_of(byte: u8) -> Result<Version, WireError> {
    Ok(match byte {
        9 => Version::HTTP_09,
        10 => Version::HTTP_10,
        11 => Version::HTTP_11,
        20 => Version::HTTP_2,
        30 => Version::HTTP_3,
        _ => return Err(WireError::Invalid("HTTP version")),
    })
}

fn put_fields(out: &mut BytesMut, fields: &HeaderMap) -> Result<(), WireError> {
    if fields.len() > MAX_FIELDS {
        return Err(WireError::TooLarge("the number of fields"));
    }
    out.put_u16(u16::try_from(fields.len()).map_err(|_| WireError::TooLarge("the number of fields"))?);
    for (name, value) in fields {
        put_short(out, name.as_str().as_bytes(), "field name")?;
        put_long(out, value.as_bytes(), "field value")?;
    }
    Ok(())
}

fn take_fields(input: &mut Bytes) -> Result<HeaderMap, WireError> {
    let count = usize::from(take_u16(input)?);
    if count > MAX_FIELDS {
        return Err(WireError::TooLarge("the number of fields"));
    }
    // Room is made for what is there, not for what is announced.
    if count * LEAST_FIELD > input.len() {
        return Err(WireError::Short);
    }
    // Whoever passes them on adds one or the other.
    let mut fields = HeaderMap::with_capacity(count + 1);
    for _ in 0..count {
        let name = HeaderName::from_bytes(&take_short(input)?).map_err(|_| WireError::Invalid("field name"))?;
        let value = HeaderValue::from_maybe_shared(take_long(input)?).map_err(|_| WireError::Invalid("field value"))?;
        fields.append(name, value);
    }
    Ok(fields)
}
