//! Repairs heads that break the grammar of HTTP/1.1 where browsers still understand them.
//!
//! A field that cannot be understood is cleaned or dropped. A field that says where the message ends is never guessed: two
//! readers could understand it differently.

use bytes::{Bytes, BytesMut};

use super::{MALFORMED, NotHttp};

/// A head that the strict parser accepts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repaired {
    pub(super) head: Bytes,
    /// Bytes of the input that it replaces.
    pub(super) end: usize,
    /// What was wrong.
    pub(super) repair: Repair,
}

/// What was wrong with a head that was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent::backend::local::http1) struct Repair(pub(in crate::agent::backend::local::http1) &'static str);

const FRAMING: NotHttp = NotHttp("a field that says where its response ends is malformed");

/// Repairs the head of a response. Returns `None` if `input` does not contain all of it yet.
///
/// # Errors
/// It is not HTTP/1, or a malformed field decides where the message ends.
pub(super) fn repair_head(input: &[u8]) -> Result<Option<Repaired>, NotHttp> {
    let start = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let begins = |word: &[u8]| {
        let length = word.len().min(input.len() - start);
        input[start..start + length].eq_ignore_ascii_case(&word[..length])
    };
    if !begins(b"HTTP/1.") && !begins(b"ICY ") {
        return Err(MALFORMED);
    }
    let Some(end) = end_of(&input[start..]) else { return Ok(None) };
    let end = start + end;
    let mut lines = lines(&input[start..end]);
    let mut head = BytesMut::with_capacity(end);
    let mut repair = put_status_line(&mut head, lines.next().unwrap_or_default())?;
    repair = put_fields(&mut head, lines)?.or(repair);
    head.extend_from_slice(b"\r\n");
    // What the strict parser still refuses is nothing that was found here.
    let repair = repair.unwrap_or(Repair("a malformed head"));
    Ok(Some(Repaired { head: head.freeze(), end, repair }))
}

/// Repairs trailers. Returns `None` if `input` does not contain all of them yet.
///
/// # Errors
/// A malformed field claims to decide where the message ends, or a line is no field: it may be the next response.
pub(super) fn repair_trailers(input: &[u8]) -> Result<Option<Repaired>, NotHttp> {
    let Some(end) = end_of_fields(input) else { return Ok(None) };
    if lines(&input[..end]).any(|line| !line.contains(&b':')) {
        return Err(NotHttp("its trailers are none"));
    }
    let mut fields = BytesMut::with_capacity(end);
    let repair = put_fields(&mut fields, lines(&input[..end]))?.unwrap_or(Repair("malformed trailers"));
    fields.extend_from_slice(b"\r\n");
    Ok(Some(Repaired { head: fields.freeze(), end, repair }))
}

/// Returns where the empty line after the first line ends.
fn end_of(input: &[u8]) -> Option<usize> {
    let first = input.iter().position(|byte| *byte == b'\n')? + 1;
    Some(first + end_of_fields(&input[first..])?)
}

fn end_of_fields(input: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(length) = input[start..].iter().position(|byte| *byte == b'\n') {
        let line = &input[start..start + length];
        start += length + 1;
        if line.is_empty() || line == b"\r" {
            return Some(start);
        }
    }
    None
}

/// The lines of a head, without their ends and without the empty one.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
}

/// Puts a status line of one version, one status and a reason without control characters.
fn put_status_line(out: &mut BytesMut, line: &[u8]) -> Result<Option<Repair>, NotHttp> {
    const NONE: NotHttp = NotHttp("its answer has no status");
    let mut words = line.splitn(2, u8::is_ascii_whitespace);
    let version = words.next().unwrap_or_default();
    let rest = words.next().unwrap_or_default().trim_ascii_start();
    let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit)).ok_or(NONE)?;
    let reason = &rest[3..];
    if reason.first().is_some_and(u8::is_ascii_digit) {
        return Err(NONE);
    }
    // Shoutcast answers with a version of its own.
    let is_old = version.eq_ignore_ascii_case(b"ICY") || version.ends_with(b".0");
    out.extend_from_slice(if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(digits);
    out.extend_from_slice(b" ");
    put_clean(out, reason.trim_ascii());
    out.extend_from_slice(b"\r\n");
    Ok((out.len() != line.len() + 2 || !out.starts_with(line)).then_some(Repair("a malformed status line")))
}

/// Puts each field that can be understood, and says what was wrong with the others.
fn put_fields<'a>(out: &mut BytesMut, lines: impl Iterator<Item = &'a [u8]>) -> Result<Option<Repair>, NotHttp> {
    let mut repair = None;
    let mut last = Last::None;
    for line in lines {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            repair = Some(Repair("a field on several lines"));
            match last {
                Last::Framing => return Err(FRAMING),
                Last::Kept => {
                    // An obsolete line folding means a space (RFC 9112, section 5.2).
                    out.truncate(out.len() - 2);
                    out.extend_from_slice(b" ");
                    put_clean(out, line.trim_ascii());
                    out.extend_from_slice(b"\r\n");
                }
                Last::None | Last::Dropped => last = Last::Dropped,
            }
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let (written, name) = (name, name.trim_ascii_end());
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        let is_framing = decides_framing(name);
        let is_name = !name.is_empty() && name.iter().all(|byte| is_token(*byte));
        if is_framing && (colon.is_none() || !is_name || value.iter().any(u8::is_ascii_control)) {
            return Err(FRAMING);
        }
        if colon.is_none() || !is_name {
            repair = Some(Repair(if is_name { "a line without a colon" } else { "a field without a valid name" }));
            last = Last::Dropped;
            continue;
        }
        if written.len() != name.len() {
            repair = Some(Repair("a space between a field's name and the colon"));
        }
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        if put_clean(out, value) {
            repair = Some(Repair("a control character in a field"));
        }
        out.extend_from_slice(b"\r\n");
        last = if is_framing { Last::Framing } else { Last::Kept };
    }
    Ok(repair)
}

/// The field before a line that begins with a space.
#[derive(Clone, Copy)]
enum Last {
    None,
    Dropped,
    Kept,
    Framing,
}

/// Returns whether a name is, or may have been meant as, one that decides where a message ends (RFC 9112, section 6.3).
fn decides_framing(name: &[u8]) -> bool {
    let letters: Vec<u8> = name.iter().filter(|byte| is_token(**byte)).map(u8::to_ascii_lowercase).collect();
    letters == b"content-length" || letters == b"transfer-encoding"
}

/// Puts a value with a space for each control character (RFC 9110, section 5.5). Returns whether it had any.
fn put_clean(out: &mut BytesMut, value: &[u8]) -> bool {
    let is_bad = |byte: u8| byte.is_ascii_control() && byte != b'\t';
    out.extend(value.iter().map(|byte| if is_bad(*byte) { b' ' } else { *byte }));
    value.iter().any(|byte| is_bad(*byte))
}

/// Returns whether a byte may stand in a field's name (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(text: &str) -> Result<Option<(String, &'static str)>, NotHttp> {
        let all = [text.as_bytes(), b"body"].concat();
        let found = repair_head(&all)?;
        Ok(found.map(|found| {
            assert_eq!(&all[found.end..], b"body", "{text:?}");
            (String::from_utf8(found.head.to_vec()).unwrap(), found.repair.0)
        }))
    }

    #[test]
    fn what_a_browser_understands_is_repaired() {
        for (fields, clean, what) in [
            ("Content-Type : text/html", "Content-Type: text/html", "a space between a field's name and the colon"),
            ("A: x\u{1}y", "A: x y", "a control character in a field"),
            ("A: x\0", "A: x ", "a control character in a field"),
            ("A: x\ry", "A: x y", "a control character in a field"),
            ("A: 1\r\n  two", "A: 1 two", "a field on several lines"),
            ("no colon\r\nB: 2", "B: 2", "a field without a valid name"),
            ("nocolon\r\nB: 2", "B: 2", "a line without a colon"),
            (": x\r\nB: 2", "B: 2", "a field without a valid name"),
            ("(A): x\r\nB: 2", "B: 2", "a field without a valid name"),
            (" A: x\r\nB: 2", "B: 2", "a field on several lines"),
            ("Content-Length : 4", "Content-Length: 4", "a space between a field's name and the colon"),
        ] {
            let found = repaired(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).unwrap().unwrap();
            assert_eq!(found, (format!("HTTP/1.1 200 OK\r\n{clean}\r\n\r\n"), what), "{fields:?}");
        }
        for (line, clean) in [
            ("HTTP/1.1  200  OK", "HTTP/1.1 200 OK"),
            ("http/1.1 200 OK", "HTTP/1.1 200 OK"),
            ("HTTP/1.1 200OK", "HTTP/1.1 200 OK"),
            ("HTTP/1.0\t404 Not\u{7}Here", "HTTP/1.0 404 Not Here"),
            ("HTTP/1.3 200 OK", "HTTP/1.1 200 OK"),
            ("ICY 200 OK", "HTTP/1.0 200 OK"),
            ("\r\nHTTP/1.1 200", "HTTP/1.1 200 "),
        ] {
            let found = repaired(&format!("{line}\r\nA: 1\r\n\r\n")).unwrap().unwrap();
            assert_eq!(found, (format!("{clean}\r\nA: 1\r\n\r\n"), "a malformed status line"), "{line:?}");
            assert_eq!(repaired(&format!("{line}\nA: 1\n\n")).unwrap().unwrap().0, found.0, "{line:?}");
        }
    }

    #[test]
    fn what_decides_the_end_of_a_response_is_never_guessed() {
        for fields in [
            "Content-Length: 4\u{1}",
            "Content-Length\u{1}: 4",
            "Content-Length 4",
            "(Content-Length): 4",
            "Content Length: 4\r\nTransfer-Encoding",
            "Content-Length:\r\n 4",
            "Transfer-Encoding: chunked\r\n , gzip",
            "Transfer-Encoding: chun\0ked",
            "\u{b}Transfer-Encoding: chunked",
        ] {
            let found = repaired(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"));
            // `Content-Length 4` without a colon is dropped like any other such line: no browser takes it for a length.
            assert!(found.is_err() || fields == "Content-Length 4", "{fields:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_not_http_or_not_complete_is_told_apart() {
        for begun in
            ["", "\r", "HTT", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\nA : 1\r\n", "HTTP/1.1 200 OK\r\n A\n\r", "IC"]
        {
            assert_eq!(repair_head(begun.as_bytes()), Ok(None), "{begun:?}");
        }
        for other in ["SSH-2.0-OpenSSH\r\n", "HTTP/2.0 200 OK\r\n\r\n", "<html>\r\n\r\n", "220 mail\r\n"] {
            assert!(repair_head(other.as_bytes()).is_err(), "{other:?}");
        }
        for wrong in ["HTTP/1.1\r\n\r\n", "HTTP/1.1 20\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 abc\r\n\r\n"] {
            assert!(repair_head(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn trailers_are_repaired_like_fields() {
        let found = repair_trailers(b"A : 1\r\n(b):\r\nB: 2\r\n\r\nnext").unwrap().unwrap();
        assert_eq!((found.head.as_ref(), found.end), (&b"A: 1\r\nB: 2\r\n\r\n"[..], 21));
        assert_eq!(repair_trailers(b"A : 1\r\n"), Ok(None));
        assert!(repair_trailers(b"Content-Length\x01: 1\r\n\r\n").is_err());
        assert!(repair_trailers(b"A : 1\r\nHTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
