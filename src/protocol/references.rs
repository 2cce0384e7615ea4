//! URI references in header fields: where they are, and which origin they name.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::exchange::Scheme;

/// A URI, or a reference that names an authority without a scheme (RFC 3986, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The scheme, if it is written.
    pub scheme: Option<Scheme>,
    /// The host, and maybe a port.
    pub authority: &'a [u8],
    /// Path, query and fragment; it may be empty.
    pub rest: &'a [u8],
}

impl<'a> Reference<'a> {
    /// Reads a reference with an authority; `None` for any other, and for other schemes than those of HTTP.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        const STARTS: [(&[u8], Option<Scheme>); 3] =
            [(b"http://", Some(Scheme::Http)), (b"https://", Some(Scheme::Https)), (b"//", None)];
        let starts = |(start, _): &(&[u8], _)| text.get(..start.len()).is_some_and(|is| is.eq_ignore_ascii_case(start));
        let (start, scheme) = STARTS.into_iter().find(starts)?;
        let rest = &text[start.len()..];
        // A browser takes a backslash for a slash.
        let end = rest.iter().position(|byte| b"/?#\\".contains(byte)).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        Some(Self { scheme, authority, rest })
    }
}

/// Returns the reference with this origin.
pub fn with_origin(scheme: Option<Scheme>, authority: &[u8], rest: &[u8]) -> Vec<u8> {
    let start = match scheme {
        Some(Scheme::Http) => "http://",
        Some(Scheme::Https) => "https://",
        None => "//",
    };
    [start.as_bytes(), authority, rest].concat()
}

/// Splits an authority into its host, with any brackets, and its port. An empty port is none.
pub fn split_port(authority: &[u8]) -> (&[u8], Option<u16>) {
    let Some(colon) = authority.iter().rposition(|byte| *byte == b':') else { return (authority, None) };
    let digits = &authority[colon + 1..];
    if !digits.iter().all(u8::is_ascii_digit) {
        return (authority, None);
    }
    match std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) {
        Some(port) => (&authority[..colon], Some(port)),
        None if digits.is_empty() => (&authority[..colon], None),
        None => (authority, None),
    }
}

/// Maps the first value of a field, if `map` returns another.
pub fn map_field(headers: &mut HeaderMap, name: &HeaderName, map: impl FnOnce(&[u8]) -> Option<Vec<u8>>) {
    if let Some(value) = headers.get_mut(name)
        && let Some(mapped) = map(value.as_bytes()).and_then(|mapped| HeaderValue::try_from(mapped).ok())
    {
        *value = mapped;
    }
}

/// Maps each value of a field for which `map` returns another. Their order stays.
pub fn map_fields(headers: &mut HeaderMap, name: &HeaderName, map: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let http::header::Entry::Occupied(mut lines) = headers.entry(name) else { return };
    for value in lines.iter_mut() {
        if let Some(mapped) = map(value.as_bytes()).and_then(|mapped| HeaderValue::try_from(mapped).ok()) {
            *value = mapped;
        }
    }
}

/// Maps the references between `<` and `>`, as in `Link` (RFC 8288, section 3) and `If` (RFC 4918, section 10.4). What
/// stands in quotes is text.
pub fn map_bracketed(value: &[u8], map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let (mut text, mut rest, mut is_changed) = (Vec::with_capacity(value.len()), value, false);
    let mut quoted = false;
    while let Some((byte, after)) = rest.split_first() {
        text.push(*byte);
        rest = after;
        match byte {
            b'\\' if quoted => {
                if let Some((escaped, after)) = rest.split_first() {
                    text.push(*escaped);
                    rest = after;
                }
            }
            b'"' => quoted = !quoted,
            b'<' if !quoted => {
                let Some(end) = rest.iter().position(|byte| *byte == b'>') else { continue };
                let (reference, after) = rest.split_at(end);
                match map(reference) {
                    Some(mapped) => {
                        text.extend(mapped);
                        is_changed = true;
                    }
                    None => text.extend_from_slice(reference),
                }
                rest = after;
            }
            _ => {}
        }
    }
    is_changed.then_some(text)
}

/// Maps the reference of a `Refresh` field, `5; url=…`, as browsers read it (HTML, section 4.2.5.3).
pub fn map_refresh(value: &[u8], map: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let is_gap = |byte: &u8| byte.is_ascii_whitespace() || b";,".contains(byte);
    let skip = |from: usize, is: &dyn Fn(&u8) -> bool| {
        value[from..].iter().position(|byte| !is(byte)).map_or(value.len(), |length| from + length)
    };
    let gap = skip(skip(0, &u8::is_ascii_whitespace), &is_number);
    let mut at = skip(gap, &is_gap);
    if at == gap {
        return None;
    }
    if value[at..].get(..3).is_some_and(|key| key.eq_ignore_ascii_case(b"url")) {
        let equals = skip(at + 3, &u8::is_ascii_whitespace);
        if value.get(equals) == Some(&b'=') {
            at = skip(equals + 1, &u8::is_ascii_whitespace);
        }
    }
    let mut end = value.len();
    if let Some(quote) = value.get(at).filter(|byte| b"\"'".contains(byte)) {
        at += 1;
        end = value[at..].iter().position(|byte| byte == quote).map_or(end, |length| at + length);
    }
    let mapped = map(&value[at..end])?;
    Some([&value[..at], &mapped, &value[end..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shout(reference: &[u8]) -> Option<Vec<u8>> {
        reference.starts_with(b"/").then(|| reference.to_ascii_uppercase())
    }

    #[test]
    fn a_reference_has_an_origin_and_a_rest() {
        let read = |text: &'static str| {
            let read = Reference::read(text.as_bytes())?;
            Some((read.scheme, std::str::from_utf8(read.authority).unwrap(), std::str::from_utf8(read.rest).unwrap()))
        };
        let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
        assert_eq!(read("http://a.example:80/b?c"), Some((http, "a.example:80", "/b?c")));
        assert_eq!(read("HTTPS://[::1]"), Some((https, "[::1]", "")));
        assert_eq!(read("//a?b"), Some((None, "a", "?b")));
        assert_eq!(read("http://a\\@b/"), Some((http, "a", "\\@b/")));
        for other in ["/a", "a", "", "mailto:a@b", "http:/a", "ws://a/"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_port_is_split_off_if_it_is_one() {
        for (authority, host, port) in [
            ("a:1", "a", Some(1)),
            ("a", "a", None),
            ("a:", "a", None),
            ("[::1]", "[::1]", None),
            ("[::1]:80", "[::1]", Some(80)),
            ("a:99999", "a:99999", None),
            ("u:p@a", "u:p@a", None),
        ] {
            assert_eq!(split_port(authority.as_bytes()), (host.as_bytes(), port), "{authority}");
        }
    }

    #[test]
    fn references_in_brackets_are_mapped_and_text_is_not() {
        for (value, expected) in [
            ("</a>; rel=next", Some("</A>; rel=next")),
            ("</a>; rel=\"next\", <b>, </c>", Some("</A>; rel=\"next\", <b>, </C>")),
            ("</a,b>; title=\"</c>\\\"</d>\"", Some("</A,B>; title=\"</c>\\\"</d>\"")),
            ("<b>; title=\"</a>\"", None),
            ("</a", None),
            ("", None),
        ] {
            let mapped = map_bracketed(value.as_bytes(), shout).map(|mapped| String::from_utf8(mapped).unwrap());
            assert_eq!(mapped.as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn the_reference_of_a_refresh_is_found_as_browsers_find_it() {
        for (value, expected) in [
            ("5; url=/a", Some("5; url=/A")),
            ("0;URL='/a'", Some("0;URL='/A'")),
            ("0,url = \"/a\" x", Some("0,url = \"/A\" x")),
            ("1.5 /a", Some("1.5 /A")),
            ("5", None),
            ("5; url=b", None),
            ("", None),
            ("/a", None),
        ] {
            let mapped = map_refresh(value.as_bytes(), shout).map(|mapped| String::from_utf8(mapped).unwrap());
            assert_eq!(mapped.as_deref(), expected, "{value}");
        }
    }
}
