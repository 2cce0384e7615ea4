//! Finds the request lines in the bytes of an HTTP/1.1 connection.

use std::io::BufRead as _;

use bytes::BytesMut;

use super::Requests;
use super::encode::{Part, encoded, plain};

/// Maximum number of buffered bytes of an incomplete field line. Valid framing fields are shorter.
const MOST_OF_A_LINE: usize = 1024;

/// Follows the bytes of a connection from request to request. Looks for `#` in their targets, and percent-encodes what the
/// HTTP library would not accept there.
///
/// The end of a request is found as RFC 9112, section 6.3 says. hyper refuses most input that is ambiguous. Where hyper may
/// be more lenient, or may read another end, all later requests of the connection are refused.
///
/// The bytes after an upgrade are read as requests, too. No request is made of them, so none is refused; and nothing is changed
/// any more from the first request on that asks for an upgrade.
#[derive(Debug)]
pub(crate) struct Http1Targets {
    state: State,
    /// What is to be passed on next, instead of bytes that had to change.
    pub(crate) ready: BytesMut,
    /// The beginning of a field line whose end has not come.
    line: Vec<u8>,
    body: Body,
    /// How many heads have begun before this one.
    number: u64,
    /// A request has asked for an upgrade: what follows may be anything.
    may_be_upgraded: bool,
    requests: Requests,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two requests, or in a method.
    Method {
        begun: bool,
    },
    /// In a target.
    Target(Part),
    /// At a byte of a target that has to be percent-encoded.
    Unencoded(Part),
    /// Behind a target, in the same line.
    Version,
    Fields,
    /// So many bytes of a body, or of one of its pieces, are still to come.
    Rest {
        bytes: u64,
        then: Then,
    },
    /// In the line with the size of a piece.
    Size {
        bytes: u64,
        has_ended: bool,
    },
    Trailers {
        before: LineStart,
    },
    /// It is not known where the next request begins.
    Lost,
}

/// What follows bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Request,
    /// The end of a line, and the size of the next piece.
    LineEnd,
}

/// What has come of a line of trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineStart {
    Nothing,
    /// A `\r`, and nothing before it.
    Return,
    /// More than that; whether the last byte is a `\r`.
    Text {
        has_return: bool,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Body {
    length: u64,
    is_chunked: bool,
    is_odd: bool,
}

impl Http1Targets {
    /// From the first byte of a connection.
    pub(crate) fn new() -> Self {
        let state = State::Method { begun: false };
        Self {
            state,
            ready: BytesMut::new(),
            line: Vec::new(),
            body: Body::default(),
            number: 0,
            may_be_upgraded: false,
            requests: Requests::new(),
        }
    }

    /// The requests of the connection.
    pub(crate) fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Returns whether a head has begun of which the HTTP library has made no request.
    pub(crate) fn has_unread_head(&self) -> bool {
        let is_in_head = matches!(
            self.state,
            State::Method { begun: true } | State::Target(_) | State::Unencoded(_) | State::Version | State::Fields
        );
        !self.may_be_upgraded && self.number + u64::from(is_in_head) > self.requests.read()
    }

    /// Looks at the next bytes of the connection. Returns how many of them may be passed on as they are; the others are in
    /// `ready`, as they are to be passed on.
    pub(crate) fn read(&mut self, all: &[u8]) -> usize {
        // What comes before `from` is passed on, or in `ready`, once `upto` is known.
        let (mut bytes, mut upto, mut from) = (all, None, 0);
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Method { begun } => self.method(bytes, begun),
                State::Target(part) => self.target(bytes, part),
                State::Unencoded(part) => {
                    let at = all.len() - bytes.len();
                    if upto.replace(upto.unwrap_or(at)).is_some() {
                        self.ready.extend_from_slice(&all[from..at]);
                    }
                    self.ready.extend(encoded(bytes[0]));
                    self.state = State::Target(part);
                    from = at + 1;
                    &bytes[1..]
                }
                State::Version => match split_line(bytes).1 {
                    Some(after) => {
                        self.state = State::Fields;
                        after
                    }
                    None => &[],
                },
                State::Fields => self.field(bytes),
                State::Rest { bytes: rest, then } => self.rest(bytes, rest, then),
                State::Size { bytes: size, has_ended } => self.size(bytes, size, has_ended),
                State::Trailers { before } => self.trailers(bytes, before),
                State::Lost => &[],
            };
        }
        if upto.is_some() {
            self.ready.extend_from_slice(&all[from..]);
        }
        upto.unwrap_or(all.len())
    }

    fn method<'b>(&mut self, bytes: &'b [u8], begun: bool) -> &'b [u8] {
        // Empty lines may come before a request (RFC 9112, section 2.2).
        let skipped = if begun { 0 } else { bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count() };
        let bytes = &bytes[skipped..];
        match bytes.iter().position(|byte| b" \n".contains(byte)) {
            Some(at) => {
                self.state = if bytes[at] == b' ' { State::Target(Part::Start) } else { State::Fields };
                &bytes[at + 1..]
            }
            None => {
                self.state = State::Method { begun: begun || !bytes.is_empty() };
                &[]
            }
        }
    }

    /// Goes on to the end of the target, or to the first byte of it that has to be percent-encoded.
    fn target<'b>(&mut self, mut bytes: &'b [u8], mut part: Part) -> &'b [u8] {
        loop {
            let (here, after) = bytes.split_at(plain(bytes));
            // hyper and this reader agree on what ends a target: a space. A line feed is one for this reader only.
            match after.first() {
                Some(b' ') => self.state = State::Version,
                Some(b'\n') => self.state = State::Fields,
                odd => {
                    part = part.after(here);
                    let kept = part.keeps(after);
                    match odd {
                        Some(b'#') => self.requests.refuse_from(self.number),
                        Some(_) if kept == 0 && !self.may_be_upgraded => {
                            self.state = State::Unencoded(part);
                            return after;
                        }
                        Some(_) => {}
                        None => {
                            self.state = State::Target(part);
                            return after;
                        }
                    }
                    // Neither of these begins another part.
                    bytes = &after[kept.max(1)..];
                    continue;
                }
            }
            return &after[1..];
        }
    }

    fn field<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (line, after) = split_line(bytes);
        match after {
            Some(after) => {
                if self.line.is_empty() {
                    self.field_line(line);
                } else {
                    let mut whole = std::mem::take(&mut self.line);
                    whole.extend_from_slice(line);
                    self.field_line(&whole);
                }
                after
            }
            None => {
                let room = MOST_OF_A_LINE.saturating_sub(self.line.len());
                self.line.extend_from_slice(&line[..line.len().min(room)]);
                // The end of such a line would be missing.
                self.body.is_odd |= self.line.len() == MOST_OF_A_LINE
                    && matches!(framing_field(&self.line), Some(Field::Length(_) | Field::Coding));
                &[]
            }
        }
    }

    /// One line of a head, without its end.
    fn field_line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.end_of_head();
            return;
        }
        match framing_field(line) {
            Some(Field::Length(value)) => match number_in(value) {
                Some(length) => self.body.length = length,
                None => self.body.is_odd = true,
            },
            Some(Field::Coding) => self.body.is_chunked = true,
            Some(Field::Upgrade) => self.may_be_upgraded = true,
            None => {}
        }
    }

    /// Refuses every request from here on: it is not known where the next one begins.
    fn lose(&mut self) {
        self.requests.refuse_from(self.number);
        self.state = State::Lost;
    }

    fn end_of_head(&mut self) {
        let body = std::mem::take(&mut self.body);
        self.number += 1;
        self.state = match body {
            // hyper refuses this request.
            Body { is_odd: true, .. } => return self.lose(),
            Body { is_chunked: true, .. } => State::Size { bytes: 0, has_ended: false },
            Body { length, .. } => State::Rest { bytes: length, then: Then::Request },
        };
        if body.length == 0 && !body.is_chunked && !body.is_odd {
            self.state = State::Method { begun: false };
        }
    }

    fn rest<'b>(&mut self, bytes: &'b [u8], rest: u64, then: Then) -> &'b [u8] {
        let here = usize::try_from(rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
        let (rest, bytes) = (rest - here as u64, &bytes[here..]);
        if rest > 0 {
            self.state = State::Rest { bytes: rest, then };
            return bytes;
        }
        if then == Then::Request {
            self.state = State::Method { begun: false };
            return bytes;
        }
        match split_line(bytes).1 {
            Some(after) => {
                self.state = State::Size { bytes: 0, has_ended: false };
                after
            }
            None => {
                self.state = State::Rest { bytes: 0, then };
                &[]
            }
        }
    }

    fn size<'b>(&mut self, bytes: &'b [u8], mut size: u64, mut has_ended: bool) -> &'b [u8] {
        let (line, after) = split_line(bytes);
        for byte in line {
            match char::from(*byte).to_digit(16).filter(|_| !has_ended) {
                Some(_) if size >> 60 != 0 => {
                    self.lose();
                    return &[];
                }
                Some(digit) => size = size << 4 | u64::from(digit),
                // An extension, or the end of the line.
                None => has_ended = true,
            }
        }
        self.state = match (after, size) {
            (None, bytes) => State::Size { bytes, has_ended },
            (Some(_), 0) => State::Trailers { before: LineStart::Nothing },
            (Some(_), bytes) => State::Rest { bytes, then: Then::LineEnd },
        };
        after.unwrap_or_default()
    }

    fn trailers<'b>(&mut self, bytes: &'b [u8], before: LineStart) -> &'b [u8] {
        let (line, after) = split_line(bytes);
        let before = match (before, line) {
            (before, []) => before,
            (LineStart::Nothing, b"\r") => LineStart::Return,
            (_, line) => LineStart::Text { has_return: line.ends_with(b"\r") },
        };
        self.state = match (after, before) {
            (None, before) => State::Trailers { before },
            (Some(_), LineStart::Return) => State::Method { begun: false },
            (Some(_), LineStart::Text { has_return: true }) => State::Trailers { before: LineStart::Nothing },
            // hyper ends lines of trailers at `\r\n` only.
            (Some(_), _) => {
                self.lose();
                return &[];
            }
        };
        after.unwrap_or_default()
    }
}

/// What comes before the end of the line, and behind it, if it ends here.
fn split_line(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut after = bytes;
    // This is a search in memory, which cannot fail, and faster than byte by byte.
    let read = after.skip_until(b'\n').unwrap_or(bytes.len());
    match bytes[..read].strip_suffix(b"\n") {
        Some(line) => (line, Some(after)),
        None => (bytes, None),
    }
}

/// A field that says where a body ends, or that the connection may change.
enum Field<'l> {
    Length(&'l [u8]),
    Coding,
    Upgrade,
}

fn framing_field(line: &[u8]) -> Option<Field<'_>> {
    const LENGTH: &[u8] = b"content-length:";
    const CODING: &[u8] = b"transfer-encoding:";
    const UPGRADE: &[u8] = b"upgrade:";
    let starts = |name: &[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    match line.first()? {
        b'c' | b'C' if starts(LENGTH) => Some(Field::Length(&line[LENGTH.len()..])),
        b't' | b'T' if starts(CODING) => Some(Field::Coding),
        b'u' | b'U' if starts(UPGRADE) => Some(Field::Upgrade),
        _ => None,
    }
}

fn number_in(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Which of `requests` are refused, read in pieces that end at `cuts`.
    fn refused(requests: &[Vec<u8>], cuts: &[usize]) -> Vec<bool> {
        let all = requests.concat();
        let targets = passed_on(&all, cuts).1;
        requests.iter().map(|_| targets.requests().next_is_refused()).collect()
    }

    /// What is passed on of `all`, read in pieces that end at `cuts`.
    fn passed_on(all: &[u8], cuts: &[usize]) -> (Vec<u8>, Http1Targets) {
        let (mut targets, mut out, mut begin) = (Http1Targets::new(), Vec::new(), 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (all.len() + 1)).chain([all.len()]).collect();
        cuts.sort_unstable();
        for cut in cuts {
            let upto = targets.read(&all[begin..cut]);
            out.extend_from_slice(&all[begin..begin + upto]);
            out.extend(targets.ready.split());
            begin = cut;
        }
        (out, targets)
    }

    #[test]
    fn what_the_parser_refuses_in_a_target_is_encoded_and_nothing_else() {
        for (target, expected) in [
            ("/q?query=up{job=\"a\"}&x=<y>", "/q?query=up{job=%22a%22}&x=%3Cy%3E"),
            ("/<a>`b`\"c\"", "/%3Ca%3E%60b%60\"c\""),
            ("http://alice.localhost/<?\"", "http://alice.localhost/%3C?%22"),
            ("http://alice.localhost?\"`", "http://alice.localhost?%22`"),
            ("http://a<b/", "http://a<b/"),
            ("/a?\u{e9}", "/a?\u{e9}"),
        ] {
            let rest = " HTTP/1.1\r\nX-<\"`>: <\"`>\r\nContent-Length: 8\r\n\r\n<\"`> /<\"";
            let again = format!("GET {target}{rest}");
            let sent = format!("POST {target}{rest}{again}");
            let expected = format!("POST {expected}{rest}GET {expected}{rest}");
            for cut in 0..sent.len() {
                // A character above ASCII that comes in two pieces is encoded, too.
                if sent.is_char_boundary(cut) {
                    let (out, targets) = passed_on(sent.as_bytes(), &[cut]);
                    assert_eq!(String::from_utf8(out).unwrap(), expected, "{cut}");
                    assert_eq!([(); 2].map(|()| targets.requests().next_is_refused()), [false; 2]);
                }
            }
        }
        let (out, _) = passed_on(b"GET /caf\xe9?\xc3\xa9\xff HTTP/1.1\r\nX: \xe9\r\n\r\n", &[]);
        assert_eq!(out, b"GET /caf%E9?\xc3\xa9%FF HTTP/1.1\r\nX: \xe9\r\n\r\n");
        let (out, _) = passed_on("GET /é HTTP/1.1\r\n\r\n".as_bytes(), &[6]);
        assert_eq!(out, b"GET /%C3%A9 HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn only_a_fragment_in_a_target_counts() {
        for (request, is_bad) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], false),
            (b"GET /# HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (b"DELETE /keep/#x HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (b"GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (b"GET http://a/#b HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (b"GET http://a#b HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (b"OPTIONS *#b HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (b"\r\n\r\nGET /#x HTTP/1.1\nHost: a\n\n", true),
            (b"G#T / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            (b"GET /%23 HTTP/1.1\r\nHost: a\r\n\r\n", false),
            (b"GET / HTTP/1.1\r\nHost: a\r\nReferer: /#x\r\nCookie: #=#\r\n\r\n", false),
            (b"POST / HTTP/1.1\r\nCONTENT-length:  5 \r\n\r\n#/# \n", false),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"#\"\r\n#/# \n\r\n0\r\nX: /#\r\n\r\n", false),
        ] {
            let next = b"GET /next HTTP/1.1\r\n\r\n".to_vec();
            let last = b"GET /#last HTTP/1.1\r\n\r\n".to_vec();
            for cut in 0..request.len() {
                let found = refused(&[request.to_vec(), next.clone(), last.clone()], &[cut]);
                assert_eq!(found, [is_bad, is_bad, true], "{} at {cut}", request.escape_ascii());
            }
        }
    }

    #[test]
    fn a_head_of_which_no_request_was_made_is_noticed() {
        let mut targets = Http1Targets::new();
        for (bytes, has_one) in [
            (&b""[..], false),
            (b"\r\nPO", true),
            (b"ST /?\"", true),
            (b" HTTP/1.1\r\nContent-Length: 5\r\n", true),
            (b"\r\n", true),
        ] {
            targets.read(bytes);
            assert_eq!(targets.has_unread_head(), has_one, "{}", bytes.escape_ascii());
        }
        // Its body is no head.
        targets.requests().next_is_refused();
        for (bytes, has_one) in [(&b""[..], false), (b"hel", false), (b"lo", false), (b"GET", true)] {
            targets.read(bytes);
            assert_eq!(targets.has_unread_head(), has_one, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn requests_behind_one_that_cannot_be_read_are_refused() {
        let next = b"GET /next HTTP/1.1\r\n\r\n".to_vec();
        let long = format!("POST / HTTP/1.1\r\nContent-Length:{}1\r\n\r\n#", " ".repeat(2 * MOST_OF_A_LINE));
        for odd in [
            &b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello"[..],
            b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            long.as_bytes(),
            // hyper takes all of these lines, up to the last, for one trailer.
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\r\nGET /a HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\nGET /a HTTP/1.1\r\n\r\n",
        ] {
            let found = refused(&[odd.to_vec(), next.clone()], &(0..odd.len()).collect::<Vec<_>>());
            assert_eq!(found, [false, true], "{}", odd.escape_ascii());
        }
    }

    fn request() -> impl Strategy<Value = (bool, Vec<u8>)> {
        let body = prop::collection::vec("[#/ \r\na-f0-9]{1,40}", 0..4);
        ("[A-Z#]{1,7}", "/[a-z/?%]{0,12}", "(#[a-z/?# ]{0,5})?", 0..3, body).prop_map(
            |(method, target, fragment, kind, body)| {
                let mut text = format!("{method} {target}{fragment} HTTP/1.1\r\nHost: a\r\nX-A: #\r\n").into_bytes();
                match kind {
                    0 => text.extend_from_slice(b"\r\n"),
                    1 => {
                        let body = body.concat();
                        text.extend(format!("content-Length: {}\r\n\r\n{body}", body.len()).bytes());
                    }
                    _ => {
                        text.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                        for piece in &body {
                            text.extend(format!("{:X}\r\n{piece}\r\n", piece.len()).bytes());
                        }
                        text.extend_from_slice(b"0\r\nX-Sum: #\r\n\r\n");
                    }
                }
                (!fragment.is_empty(), text)
            },
        )
    }

    proptest! {
        #[test]
        fn requests_are_told_apart_however_they_are_cut(
            requests in prop::collection::vec(request(), 1..5),
            cuts in prop::collection::vec(any::<usize>(), 0..8),
        ) {
            let (bad, texts): (Vec<bool>, Vec<Vec<u8>>) = requests.into_iter().unzip();
            let first = bad.iter().position(|is_bad| *is_bad).unwrap_or(bad.len());
            let expected: Vec<bool> = (0..bad.len()).map(|at| at >= first).collect();
            prop_assert_eq!(refused(&texts, &cuts), expected);
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in any::<usize>()) {
            refused(&[bytes], &[cut]);
        }
    }
}
