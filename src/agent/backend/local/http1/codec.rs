//! HTTP/1.1 as bytes (RFC 9112): the head of a request is written, the head of an answer read. No I/O.

mod lenient;

use std::mem::MaybeUninit;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, request};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::protocol::exchange::MAX_FIELDS;
use crate::protocol::frame::MAX_HEAD;
use crate::protocol::length::{LengthError, single_length};
pub(super) use lenient::Repair;
use lenient::{repair_head, repair_trailers};

/// Fields behind a body.
const MAX_TRAILERS: usize = 128;

/// Where the status ends in a status line: `HTTP/1.1 200`.
const STATUS_END: usize = 12;

/// The longest reason phrase that is passed on, in bytes.
const MAX_REASON: usize = 1024;

/// What an application says that is no HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotHttp(pub(super) &'static str);

impl From<LengthError> for NotHttp {
    fn from(error: LengthError) -> Self {
        Self(match error {
            LengthError::NoNumber => "its Content-Length is no number",
            LengthError::Contradiction => "it has two lengths",
        })
    }
}

/// What the strict parser refuses, and can perhaps be repaired.
const MALFORMED: NotHttp = NotHttp("the head of its answer is none of HTTP/1.1");
const LARGE_HEAD: NotHttp = NotHttp("the head of its answer is too large");
const LARGE_TRAILERS: NotHttp = NotHttp("its trailers are too large");

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes, that are still to come.
    Length(u64),
    /// Each piece says how long it is.
    Chunked,
    /// All that comes until the connection ends.
    UntilClose,
}

/// How the body of a request is sent; none is a body of no bytes.
///
/// # Errors
/// `Content-Length` is not one number.
pub(super) fn request_framing(headers: &mut HeaderMap, has_body: bool) -> Result<Framing, NotHttp> {
    match single_length(headers)? {
        // What it says must come, or the next request would be taken for it.
        Some(length) => Ok(Framing::Length(length)),
        None if has_body => Ok(Framing::Chunked),
        None => Ok(Framing::Length(0)),
    }
}

/// Puts the head of a request. What says how its body is sent is `framing`'s to say, and said once.
pub(super) fn put_head(out: &mut BytesMut, head: &request::Parts, framing: Framing) {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    if target.starts_with('?') {
        // An empty path is `/` (RFC 9112, section 3.2.1).
        out.put_u8(b'/');
    }
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        if *name != TRANSFER_ENCODING {
            put_field(out, name, value);
        }
    }
    if framing == Framing::Chunked {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    }
    out.put_slice(b"\r\n");
}

/// Puts one line of a head, or of trailers.
pub(super) fn put_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

/// Takes the head of a response off `input`, if all of it is there. A malformed one that browsers understand is repaired,
/// and has a [`Repair`] among its extensions.
///
/// # Errors
/// This is no HTTP/1, or more than a stream could carry.
pub(super) fn take_head(input: &mut Bytes) -> Result<Option<Response<()>>, NotHttp> {
    match parse_head(input) {
        Ok(Some((response, end))) => {
            input.advance(end);
            Ok(Some(response))
        }
        Err(error) if error == MALFORMED => {
            let Some(repaired) = repair_head(input)? else { return incomplete(input, LARGE_HEAD) };
            let Some((mut response, _)) = parse_head(&repaired.head)? else { return Err(error) };
            response.extensions_mut().insert(repaired.repair);
            input.advance(repaired.end);
            Ok(Some(response))
        }
        Ok(None) => incomplete(input, LARGE_HEAD),
        Err(error) => Err(error),
    }
}

/// Waits for the rest of a head or of trailers, if there may be more of it.
fn incomplete<T>(input: &Bytes, too_large: NotHttp) -> Result<Option<T>, NotHttp> {
    if input.len() > MAX_HEAD { Err(too_large) } else { Ok(None) }
}

/// Parses the head at the beginning of `whole`, and returns where it ends.
fn parse_head(whole: &Bytes) -> Result<Option<(Response<()>, usize)>, NotHttp> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let end = match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, whole, &mut fields) {
        Ok(Status::Complete(end)) => end,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(NotHttp("the head of its answer has too many fields")),
        Err(_) => return Err(MALFORMED),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(NotHttp("its answer has no status"))?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Some(reason) = own_reason(whole, status, parsed.reason.unwrap_or_default()) {
        response.extensions_mut().insert(reason);
    }
    *response.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.headers_mut() = fields_of(whole, parsed.headers)?;
    Ok(Some((response, end)))
}

/// Returns the reason phrase of the head at the beginning of `whole`, unless it is the registered one of the status or is
/// too long. `parsed` is the phrase as the parser returns it: empty, if it is not ASCII.
fn own_reason(whole: &Bytes, status: StatusCode, parsed: &str) -> Option<ReasonPhrase> {
    let registered = status.canonical_reason().unwrap_or_default();
    if parsed == registered && !parsed.is_empty() {
        return None;
    }
    let line = whole.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let reason = line.get(STATUS_END..)?;
    let reason = reason.strip_prefix(b" ").unwrap_or(reason);
    if reason == registered.as_bytes() || reason.len() > MAX_REASON {
        return None;
    }
    ReasonPhrase::try_from(whole.slice_ref(reason)).ok()
}

/// The trailers behind the last piece of a body, if all of them are there; they are taken off `input` then.
///
/// # Errors
/// They are none, or more than a stream could carry.
pub(super) fn take_trailers(input: &mut Bytes) -> Result<Option<HeaderMap>, NotHttp> {
    let whole = input.clone();
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    match httparse::parse_headers(&whole, &mut fields) {
        Ok(Status::Complete((end, parsed))) => {
            let trailers = fields_of(&whole, parsed)?;
            input.advance(end);
            Ok(Some(trailers))
        }
        Ok(Status::Partial) => incomplete(input, LARGE_TRAILERS),
        Err(httparse::Error::TooManyHeaders) => Err(NotHttp("it has too many trailers")),
        Err(_) => take_malformed_trailers(input),
    }
}

/// As [`take_trailers`], for trailers that have to be repaired.
fn take_malformed_trailers(input: &mut Bytes) -> Result<Option<HeaderMap>, NotHttp> {
    let Some(repaired) = repair_trailers(input)? else { return incomplete(input, LARGE_TRAILERS) };
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let Ok(Status::Complete((_, parsed))) = httparse::parse_headers(&repaired.head, &mut fields) else {
        return Err(NotHttp("its trailers are none"));
    };
    let trailers = fields_of(&repaired.head, parsed)?;
    input.advance(repaired.end);
    Ok(Some(trailers))
}

/// The fields as slices of `whole`, in which they were found.
fn fields_of(whole: &Bytes, found: &[Header<'_>]) -> Result<HeaderMap, NotHttp> {
    let mut fields = HeaderMap::with_capacity(found.len());
    for field in found {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(whole.slice_ref(field.value));
        match (name, value) {
            (Ok(name), Ok(value)) => fields.append(name, value),
            _ => return Err(MALFORMED),
        };
    }
    Ok(fields)
}

/// How the body of an answer to `method` ends (RFC 9112, section 6.3). One that switches protocols has none. Equal values
/// of `Content-Length` become one.
///
/// # Errors
/// It says so in two ways that contradict each other, or is coded otherwise than by `chunked`: the field does not cross to
/// the visitor, who would take the coded body for the plain one (RFC 9112, section 6.1).
pub(super) fn answer_framing(method: &Method, answer: &mut Response<()>) -> Result<Framing, NotHttp> {
    let (status, headers) = (answer.status(), answer.headers_mut());
    if status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        if single_length(headers).is_err() {
            // No status of these has a body, whatever the field says.
            headers.remove(CONTENT_LENGTH);
        }
        return Ok(Framing::Length(0));
    }
    let is_only_chunked = is_only_chunked(headers);
    match (is_only_chunked, single_length(headers)) {
        // The fields are those of the answer to GET.
        (Some(_), _) | (None, Ok(_)) if *method == Method::HEAD => Ok(Framing::Length(0)),
        // In HTTP/1.0, too: what is coded cannot be taken for plain, and the connection is not used again.
        (Some(true), _) => Ok(Framing::Chunked),
        (Some(false), _) => Err(NotHttp("it sends a body in a transfer coding other than `chunked`")),
        (None, length) => Ok(length?.map_or(Framing::UntilClose, Framing::Length)),
    }
}

/// Returns whether `chunked` is the only transfer coding; `None` if there is none.
fn is_only_chunked(headers: &HeaderMap) -> Option<bool> {
    // `identity` is no coding (RFC 2616, section 3.6), and a `chunked` said twice is done once.
    let is_coding = |coding: &&[u8]| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity");
    let mut codings = listed(headers, &TRANSFER_ENCODING).filter(is_coding).peekable();
    codings.peek()?;
    Some(codings.all(|coding| coding.eq_ignore_ascii_case(b"chunked")))
}

/// Whether the connection may be used again after this answer (RFC 9112, section 9.3). Not if it says in two ways where
/// it ends: another reader may have understood it differently (RFC 9112, section 6.3).
pub(super) fn keeps_alive(answer: &Response<()>) -> bool {
    let headers = answer.headers();
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return false;
    }
    let says = |word: &[u8]| listed(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(word));
    match answer.version() {
        Version::HTTP_10 if headers.contains_key(TRANSFER_ENCODING) => false,
        Version::HTTP_10 => says(b"keep-alive") && !says(b"close"),
        _ => !says(b"close"),
    }
}

/// What a field lists, over all its lines.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<Option<Response<()>>, NotHttp> {
        take_head(&mut Bytes::copy_from_slice(text.as_bytes()))
    }

    fn framing(method: Method, text: &str) -> Result<Framing, NotHttp> {
        answer_framing(&method, &mut head(text).unwrap().unwrap())
    }

    #[test]
    fn a_head_is_taken_off_and_what_follows_stays() {
        let mut input = Bytes::from_static(b"HTTP/1.1 404 Gone fishing\r\nA: 1\r\nb:  two \r\nA: 3\r\n\r\nbody");
        let answer = take_head(&mut input).unwrap().unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::NOT_FOUND, Version::HTTP_11));
        let all: Vec<_> = answer.headers().get_all("a").iter().collect();
        assert_eq!(all, ["1", "3"]);
        assert_eq!(answer.headers()["b"], "two");
        assert_eq!(input, "body");
    }

    #[test]
    fn what_is_no_head_is_told_from_one_that_is_not_here_yet() {
        for begun in ["", "H", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nA: 1\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\n\r"] {
            assert!(head(begun).unwrap().is_none(), "{begun:?}");
        }
        for wrong in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length\0: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n folded\r\n\r\n",
        ] {
            assert!(head(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_malformed_head_is_repaired_and_says_so() {
        let mut input =
            Bytes::from_static(b"HTTP/1.1 200 OK\r\nno colon\r\nA : 1\r\nB: x\0y\r\nC: 1\r\n 2\r\n\r\nbody");
        let answer = take_head(&mut input).unwrap().unwrap();
        let fields: Vec<_> = answer.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("a", &b"1"[..]), ("b", b"x y"), ("c", b"1 2")]);
        assert_eq!((answer.extensions().get::<Repair>().is_some(), &input[..]), (true, &b"body"[..]));
        assert!(head("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap().extensions().is_empty());
        let endless = format!("HTTP/1.1 200 OK\r\nA : {}", "x".repeat(MAX_HEAD));
        assert_eq!(head(&endless).unwrap_err().0, "the head of its answer is too large");
        assert!(head("HTTP/1.1 200 OK\r\nA : 1").unwrap().is_none(), "more is to come");
        let mut trailers = Bytes::from_static(b"A : 1\r\n(bad): 2\r\n\r\nnext");
        let found = take_trailers(&mut trailers).unwrap().unwrap();
        assert_eq!((found.len(), &found["a"], &trailers[..]), (1, &HeaderValue::from_static("1"), &b"next"[..]));
    }

    #[test]
    fn a_head_has_bounds() {
        let fields = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: 1\r\n".repeat(count));
        assert!(head(&fields(MAX_FIELDS)).unwrap().is_some());
        assert!(head(&fields(MAX_FIELDS + 1)).is_err());
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MAX_HEAD));
        assert_eq!(head(&endless).unwrap_err().0, "the head of its answer is too large");
    }

    #[test]
    fn the_end_of_an_answer_is_where_rfc_9112_says() {
        let get = |text: &str| framing(Method::GET, text);
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(get(length), Ok(Framing::Length(5)));
        assert_eq!(framing(Method::HEAD, length), Ok(Framing::Length(0)));
        for wrong in ["5, 6", "5\r\nContent-Length: 6", "x"] {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {wrong}\r\n\r\n");
            assert!(framing(Method::HEAD, &text).is_err(), "{text:?}");
            for status in ["101 Switching", "204 No", "304 Not"] {
                let mut answer =
                    head(&format!("HTTP/1.1 {status}\r\nContent-Length: {wrong}\r\n\r\n")).unwrap().unwrap();
                assert_eq!(answer_framing(&Method::GET, &mut answer), Ok(Framing::Length(0)));
                assert!(!answer.headers().contains_key(CONTENT_LENGTH), "{status} {wrong}");
            }
        }
        for status in ["101 Switching", "204 No", "304 Not"] {
            assert_eq!(get(&format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n")), Ok(Framing::Length(0)));
        }
        assert_eq!(get("HTTP/1.1 200 OK\r\n\r\n"), Ok(Framing::UntilClose));
        for (fields, expected) in [
            ("Transfer-Encoding: chunked", Framing::Chunked),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: Chunked", Framing::Chunked),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", Framing::Chunked),
            ("Transfer-Encoding: identity, chunked", Framing::Chunked),
            ("Transfer-Encoding: identity\r\nContent-Length: 5", Framing::Length(5)),
            ("Content-Length: 5\r\nContent-Length: 5", Framing::Length(5)),
            ("Content-Length: 5, 5", Framing::Length(5)),
        ] {
            assert_eq!(get(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")), Ok(expected), "{fields}");
        }
        for wrong in ["5, 6", "+5", "-1", "0x5", "", "5 5", "99999999999999999999"] {
            assert!(get(&format!("HTTP/1.1 200 OK\r\nContent-Length: {wrong}\r\n\r\n")).is_err(), "{wrong}");
        }
        assert_eq!(get("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Ok(Framing::Chunked));
        for coded in ["gzip", "gzip, chunked", "chunked, gzip", "x\r\nTransfer-Encoding: chunked"] {
            assert!(get(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coded}\r\n\r\n")).is_err(), "{coded}");
        }
    }

    #[test]
    fn a_length_that_is_said_twice_is_passed_on_once() {
        for method in [Method::GET, Method::HEAD] {
            for fields in ["Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5, 5"] {
                for status in ["200 OK", "304 Not Modified"] {
                    let mut answer = head(&format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n")).unwrap().unwrap();
                    answer_framing(&method, &mut answer).unwrap();
                    let lengths: Vec<_> = answer.headers().get_all(CONTENT_LENGTH).iter().collect();
                    assert_eq!(lengths, ["5"], "{method} {status} {fields}");
                }
            }
        }
    }

    #[test]
    fn a_reason_phrase_is_the_applications_own_or_goes_without_saying() {
        let reason = |line: &str| {
            let answer = head(&format!("{line}\r\nA: 1\r\n\r\n")).unwrap().unwrap();
            answer.extensions().get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
        };
        for (line, expected) in [
            ("HTTP/1.1 200 OK", None),
            ("HTTP/1.0 404 Not Found", None),
            ("\r\nHTTP/1.1 200 OK", None),
            ("HTTP/1.1 799", None),
            ("HTTP/1.1 799 ", None),
            ("HTTP/1.1 200", Some("")),
            ("HTTP/1.1 200 ", Some("")),
            ("HTTP/1.1 200 ok", Some("ok")),
            ("\r\nHTTP/1.1 404 Gone fishing", Some("Gone fishing")),
            ("HTTP/1.1 799 Nearly there", Some("Nearly there")),
            ("HTTP/1.1 200 Schön", Some("Schön")),
            ("HTTP/1.1 799 Schön", Some("Schön")),
            // Repaired.
            ("HTTP/1.0\t404 Not\u{7}Here", Some("Not Here")),
            ("HTTP/1.1 200OK", None),
        ] {
            assert_eq!(reason(line), expected.map(|reason| reason.as_bytes().to_vec()), "{line:?}");
        }
        let long = |length| reason(&format!("HTTP/1.1 200 {}", "x".repeat(length))).map(|reason| reason.len());
        assert_eq!((long(MAX_REASON), long(MAX_REASON + 1)), (Some(MAX_REASON), None));
    }

    #[test]
    fn a_connection_is_kept_as_its_version_has_it() {
        for (version, fields, kept) in [
            ("1.1", "", true),
            ("1.1", "Connection: Keep-Alive\r\n", true),
            ("1.1", "Connection: x\r\nConnection: upgrade, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
            ("1.0", "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", false),
        ] {
            let text = format!("HTTP/{version} 200 OK\r\n{fields}\r\n");
            assert_eq!(keeps_alive(&head(&text).unwrap().unwrap()), kept, "{text:?}");
        }
    }

    fn request(fields: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = http::Request::post("/a?b").body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request.into_parts().0
    }

    #[test]
    fn a_request_says_once_how_long_it_is() {
        for (fields, has_body, expected) in [
            (&[("content-length", "5"), ("transfer-encoding", "chunked")][..], true, "content-length: 5\r\n"),
            (&[("transfer-encoding", "gzip")], true, "transfer-encoding: chunked\r\n"),
            (&[("transfer-encoding", "chunked")], false, ""),
            (&[("content-length", "0")], false, "content-length: 0\r\n"),
            (&[("content-length", "5"), ("content-length", "5")], true, "content-length: 5\r\n"),
        ] {
            let (mut head, mut out) = (request(fields), BytesMut::new());
            let framing = request_framing(&mut head.headers, has_body).unwrap();
            put_head(&mut out, &head, framing);
            assert_eq!(out, format!("POST /a?b HTTP/1.1\r\n{expected}\r\n"), "{fields:?}");
        }
        // One that names a length must send it, whoever says that it has no body.
        let mut fields = request(&[("content-length", "5")]);
        assert_eq!(request_framing(&mut fields.headers, false), Ok(Framing::Length(5)));
        let mut two = request(&[("content-length", "5"), ("content-length", "6")]);
        assert!(request_framing(&mut two.headers, true).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_head_or_none(input: Vec<u8>, begin in "HTTP/1.[01] [0-9]{3} ?\r\n|") {
            let text = [begin.as_bytes(), &input].concat();
            let mut left = Bytes::from(text.clone());
            match take_head(&mut left) {
                Ok(Some(mut answer)) => {
                    prop_assert!(text.ends_with(&left));
                    let _ = answer_framing(&Method::GET, &mut answer);
                }
                Ok(None) | Err(_) => prop_assert_eq!(left, text),
            }
        }
    }
}
