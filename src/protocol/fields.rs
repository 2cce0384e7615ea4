//! The header fields that only the proxy may send, in any spelling.
//!
//! Many backends do not read field names as HTTP does. CGI and WSGI (RFC 3875, section 4.1.18) turn `-` into `_`, PHP
//! turns every byte except letters and digits into `_`, and others drop symbols at the ends. To such a backend
//! `X.Forwarded.For` and `X_Forwarded_For` are `X-Forwarded-For`. This module compares names by one canonical form, which
//! is as coarse as the coarsest backend:
//!
//! - letters in lower case,
//! - each run of other characters, except digits, as one `-`,
//! - no `-` at either end,
//! - without any leading `http-`: some applications look for a field that is called `HTTP_CLIENT_IP`.
//!
//! [`TABLE`], [`FAMILIES`] and [`ADDRESS_ENDINGS`] list the canonical names that belong to the proxy. A name that is not written in canonical
//! form, but has the canonical form of a listed name, is a look-alike. Look-alikes are never forwarded.

mod names;

use http::HeaderMap;
use http::header::HeaderName;
use http_body::Frame;

use names::{ADDRESS_ENDINGS, FAMILIES, IDENTITY, IDENTITY_FAMILIES, NOT_IN_TRAILERS, TABLE};

/// The role of a field that belongs to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It describes the connection, or the length of the message.
    Framing,
    /// It describes the request that the proxy received: host, scheme, prefix, route.
    Forwarding,
    /// It holds the address of the client.
    Address,
    /// No client or proxy has a reason to send it.
    Forbidden,
    /// It names the service, for the server itself.
    Routing,
}

/// A field that belongs to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Its role.
    pub role: Role,
    /// Whether the name is written in canonical form.
    pub is_exact: bool,
}

/// Bytes of a canonical name that are compared. All listed names are shorter.
const MOST: usize = 40;

/// A field name in canonical form, or its first [`MOST`] bytes.
struct Canonical {
    bytes: [u8; MOST],
    length: usize,
    /// The name had this form already.
    is_exact: bool,
}

impl Canonical {
    #[inline]
    fn of(name: &str) -> Self {
        let (mut bytes, mut length, mut is_exact) = ([0; MOST], 0, true);
        let mut has_gap = false;
        for byte in name.bytes() {
            if !byte.is_ascii_alphanumeric() {
                is_exact &= byte == b'-' && !has_gap && length > 0;
                has_gap = true;
                continue;
            }
            is_exact &= !byte.is_ascii_uppercase();
            if std::mem::take(&mut has_gap) && length > 0 && length < MOST {
                bytes[length] = b'-';
                length += 1;
            }
            if length < MOST {
                bytes[length] = byte.to_ascii_lowercase();
                length += 1;
            }
        }
        Self { bytes, length, is_exact: is_exact && !has_gap }
    }

    /// The text to compare, and whether the name is written so.
    fn text(&self) -> (&[u8], bool) {
        let (mut text, mut is_exact) = (&self.bytes[..self.length], self.is_exact);
        while let Some(rest) = text.strip_prefix(b"http-") {
            (text, is_exact) = (rest, false);
        }
        (text, is_exact)
    }
}

/// Where the names of each length begin in [`TABLE`].
const BY_LENGTH: [usize; MOST + 1] = {
    let (mut starts, mut length) = ([0; MOST + 1], 0);
    while length <= MOST {
        let mut at = 0;
        while at < TABLE.len() && TABLE[at].0.len() < length {
            at += 1;
        }
        starts[length] = at;
        length += 1;
    }
    starts
};

/// For each first byte of a name, the last bytes with which the name may belong to the proxy: a bit for each letter, see
/// [`last_bit`]. Most names of other fields are told apart by that alone.
const LAST_BYTES: [u32; 256] = {
    let mut last = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        // Symbols may come before any name. The families begin with `x`, and `http-` with `h`.
        let is_any = !byte.is_ascii_alphanumeric() || matches!(byte, b'x' | b'X' | b'h' | b'H');
        // All address endings end so.
        last[byte as usize] = if is_any { u32::MAX } else { 1 << last_bit(b'p') };
        byte += 1;
    }
    let mut at = 0;
    while at < TABLE.len() {
        let name = TABLE[at].0.as_bytes();
        let bit = 1 << last_bit(name[name.len() - 1]);
        last[name[0] as usize] |= bit;
        last[name[0].to_ascii_uppercase() as usize] |= bit;
        at += 1;
    }
    last
};

/// The bit of a letter, whatever its case. All digits share one.
const fn last_bit(byte: u8) -> u8 {
    if byte.is_ascii_digit() { 0 } else { byte & 31 }
}

/// Whether `name` is `family`, or begins with it and a `-`.
fn is_of(name: &[u8], family: &str) -> bool {
    name.strip_prefix(family.as_bytes()).is_some_and(|rest| rest.first().is_none_or(|next| *next == b'-'))
}

/// Whether `name` is `ending`, or ends with a `-` and it.
fn ends_with(name: &[u8], ending: &str) -> bool {
    name.strip_suffix(ending.as_bytes()).is_some_and(|rest| rest.last().is_none_or(|before| *before == b'-'))
}

/// The role of `name`, if it belongs to the proxy in any spelling. Does not allocate.
#[inline]
pub fn owned(name: &str) -> Option<Owned> {
    let (first, last) = (*name.as_bytes().first()?, *name.as_bytes().last()?);
    let is_candidate = LAST_BYTES[usize::from(first)] >> last_bit(last) & 1 == 1 || !last.is_ascii_alphanumeric();
    if is_candidate { look_up(name) } else { None }
}

fn look_up(name: &str) -> Option<Owned> {
    let canonical = Canonical::of(name);
    let (text, is_exact) = canonical.text();
    let (first, end) = (BY_LENGTH[text.len()], BY_LENGTH.get(text.len() + 1).copied().unwrap_or(TABLE.len()));
    let listed = TABLE[first..end].iter().find(|(listed, _)| listed.as_bytes() == text);
    let listed = listed.or_else(|| FAMILIES.iter().find(|(family, _)| is_of(text, family)));
    let role = listed.map(|(_, role)| *role);
    let is_address = || text.ends_with(b"ip") && ADDRESS_ENDINGS.iter().any(|ending| ends_with(text, ending));
    let role = role.or_else(|| is_address().then_some(Role::Address))?;
    Some(Owned { role, is_exact })
}

/// Removes every field that [`names_a_user`].
pub fn remove_identity(fields: &mut HeaderMap) {
    remove_fields(fields, names_a_user);
}

/// Returns whether `name`, in any spelling, is an identity field: a gateway sets it to tell an application who the user is.
pub fn names_a_user(name: &str) -> bool {
    let canonical = Canonical::of(name);
    let (text, _) = canonical.text();
    IDENTITY.iter().any(|listed| listed.as_bytes() == text)
        || IDENTITY_FAMILIES.iter().any(|family| is_of(text, family))
}

/// Returns whether `name` is allowed in request trailers, which are read after the request was routed and authorised.
pub fn may_trail(name: &str) -> bool {
    owned(name).is_none() && !names_a_user(name) && !is_refused_in_trailers(name)
}

fn is_refused_in_trailers(name: &str) -> bool {
    let canonical = Canonical::of(name);
    let (text, _) = canonical.text();
    NOT_IN_TRAILERS.iter().any(|listed| listed.as_bytes() == text)
}

/// Removes the fields that `goes` picks.
pub fn remove_fields(fields: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    // Usually empty: an empty list does not allocate.
    let named: Vec<HeaderName> = fields.keys().filter(|name| goes(name.as_str())).cloned().collect();
    for name in named {
        fields.remove(name);
    }
}

/// Removes the fields that are not allowed in request trailers.
pub fn clean_request_trailers(trailers: &mut HeaderMap) {
    remove_fields(trailers, |name| !may_trail(name));
}

/// Removes the fields that are not allowed in response trailers. Everything else is up to the application.
pub fn clean_answer_trailers(trailers: &mut HeaderMap) {
    remove_fields(trailers, |name| is_refused_in_trailers(name) || frames(name));
}

/// Whether `name`, in any spelling, describes the connection or the length of a message.
fn frames(name: &str) -> bool {
    owned(name).is_some_and(|owned| matches!(owned.role, Role::Framing | Role::Forbidden))
}

/// Forwards a frame of a body; removes disallowed fields if it contains trailers.
pub fn with_clean_trailers<T>(frame: Frame<T>, clean: impl FnOnce(&mut HeaderMap)) -> Frame<T> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

#[cfg(test)]
mod tests;
