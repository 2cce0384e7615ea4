//! Finds the header blocks in the bytes of an HTTP/2 connection.

use bytes::{Buf, BytesMut};
use http::HeaderName;

use super::hpack::{Decoder, Found};
use super::{MARK, Marks, STREAM, TARGET};

/// How a connection begins, in bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;

const FRAME_HEADER: usize = 9;

/// The most that a frame carries, unless SETTINGS say otherwise (RFC 9113, section 4.2). hyper's say nothing.
const MOST_OF_A_FRAME: usize = 16 * 1024;

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Follows the bytes of a connection from frame to frame. A request whose target hyper must not get as it is gets another
/// header block, with the field [`MARK`] or [`TARGET`] at its end. What hyper gets is otherwise what came.
///
/// A header block is passed on when it has come whole.
#[derive(Debug)]
pub(crate) struct Http2Targets {
    /// Bytes of the preface, or of a frame without fields, that are still to come.
    passing: usize,
    /// The most frames of a header block.
    most_frames: usize,
    decoder: Decoder,
    marks: Marks,
    /// The frames cannot be followed any more: the bytes are passed on as they come, and no request is served.
    is_lost: bool,
    /// The beginning of a header block whose rest has not come, and what came behind one that was replaced.
    pub(crate) held: BytesMut,
    /// What is to be passed on next.
    pub(crate) ready: BytesMut,
}

/// How much of some bytes may be passed on.
#[derive(Debug, PartialEq, Eq)]
struct Looked {
    upto: usize,
    replaced: Option<Replaced>,
}

/// A header block that does not cross as it is.
#[derive(Debug, PartialEq, Eq)]
struct Replaced {
    frames: BytesMut,
    /// Where the frames end that these replace.
    end: usize,
}

/// Where a header block ends.
enum BlockEnd {
    At(usize),
    /// It has not come whole.
    Open,
    /// The connection cannot go on.
    Never,
}

impl Http2Targets {
    /// From the first byte of a connection with heads of up to `head_size` bytes.
    pub(crate) fn new(head_size: usize) -> Self {
        // h2 ends connections with more CONTINUATION frames: a quarter more than it takes, and 5 at least.
        let frames = (head_size / MOST_OF_A_FRAME).max(1);
        let most_frames = 2 + (frames + frames / 4).max(5);
        Self {
            passing: PREFACE,
            most_frames,
            decoder: Decoder::new(),
            marks: Marks::default(),
            is_lost: false,
            held: BytesMut::new(),
            ready: BytesMut::new(),
        }
    }

    /// Which requests are refused, and which have another target.
    pub(crate) fn marks(&self) -> Marks {
        self.marks.clone()
    }

    /// Looks at the next bytes, behind which nothing is held. Says how many of them may be passed on now; `held` and
    /// `ready` have the rest.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> usize {
        let Looked { upto, replaced } = self.look(bytes);
        let rest = match replaced {
            Some(Replaced { frames, end }) => {
                self.ready.unsplit(frames);
                end
            }
            None => upto,
        };
        self.held.extend_from_slice(&bytes[rest..]);
        upto
    }

    /// Looks at what is held. Says whether any of it is ready now.
    pub(crate) fn read_held(&mut self) -> bool {
        let mut held = std::mem::take(&mut self.held);
        let Looked { upto, replaced } = self.look(&held);
        self.ready.extend_from_slice(&held[..upto]);
        match replaced {
            Some(Replaced { frames, end }) => {
                self.ready.unsplit(frames);
                held.advance(end);
            }
            None => held.advance(upto),
        }
        self.held = held;
        !self.ready.is_empty()
    }

    /// No more comes: the rest is passed on as it is.
    pub(crate) fn end(&mut self) {
        self.ready.unsplit(std::mem::take(&mut self.held));
    }

    /// Refuses every request from here on.
    fn lose(&mut self) {
        self.is_lost = true;
        self.marks.refuse_all();
    }

    fn look(&mut self, bytes: &[u8]) -> Looked {
        let (mut at, length) = (0, bytes.len());
        while !self.is_lost {
            let passed = self.passing.min(length - at);
            self.passing -= passed;
            at += passed;
            let Some(&[high, middle, low, kind, ..]) = bytes.get(at..at + FRAME_HEADER) else {
                return Looked { upto: at, replaced: None };
            };
            if !matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
                at += FRAME_HEADER;
                self.passing = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                continue;
            }
            match block_end(&bytes[at..], self.most_frames) {
                BlockEnd::At(end) => {
                    let end = at + end;
                    if let Some(frames) = self.block(&bytes[at..end]) {
                        return Looked { upto: at, replaced: Some(Replaced { frames, end }) };
                    }
                    at = end;
                }
                BlockEnd::Open => return Looked { upto: at, replaced: None },
                BlockEnd::Never => self.lose(),
            }
        }
        Looked { upto: length, replaced: None }
    }

    /// Looks at the frames of a header block. Returns those that take their place, if they cannot cross as they are.
    fn block(&mut self, frames: &[u8]) -> Option<BytesMut> {
        let first = first_frame(frames);
        let Some(fields) = fields_of(&frames[..FRAME_HEADER], &frames[FRAME_HEADER..first]) else {
            self.lose();
            return None;
        };
        let mut whole = Vec::new();
        let block = if first == frames.len() {
            fields
        } else {
            whole.extend_from_slice(fields);
            let mut rest = &frames[first..];
            while !rest.is_empty() {
                let (frame, after) = rest.split_at(first_frame(rest));
                whole.extend_from_slice(&frame[FRAME_HEADER..]);
                rest = after;
            }
            &whole
        };
        match self.decoder.read(block) {
            Ok(found) if found.is_fine() => None,
            Ok(found) => {
                self.marks.begin();
                Some(in_frames(&frames[..FRAME_HEADER], &replaced(block, &found, &frames[5..FRAME_HEADER])))
            }
            Err(_) => {
                self.lose();
                None
            }
        }
    }
}

/// The length of the frame at the beginning of `bytes`, of which at least the header is there.
fn first_frame(bytes: &[u8]) -> usize {
    FRAME_HEADER + (usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]))
}

/// Finds the end of the header block that begins with `bytes`, and may have `most_frames` frames.
fn block_end(bytes: &[u8], most_frames: usize) -> BlockEnd {
    let (mut at, mut frames) = (0, 0);
    while let Some(header) = bytes.get(at..at + FRAME_HEADER) {
        let is_next = if at == 0 {
            // Clients do not push; h2 decodes such a frame all the same.
            header[3] == HEADERS
        } else {
            header[3] == CONTINUATION && header[5..] == bytes[5..FRAME_HEADER]
        };
        let length = first_frame(header);
        frames += 1;
        if !is_next || length > FRAME_HEADER + MOST_OF_A_FRAME || frames > most_frames {
            return BlockEnd::Never;
        }
        at += length;
        if header[4] & END_HEADERS != 0 {
            return if at <= bytes.len() { BlockEnd::At(at) } else { BlockEnd::Open };
        }
    }
    BlockEnd::Open
}

/// The fields in the payload of a frame, without what may stand around them (RFC 9113, section 6.2).
///
/// `None` if the frame is malformed, or if its stream depends on itself: h2 then resets the stream, but does not decode
/// the fields, so its dynamic table is not what the client and this reader take it for.
fn fields_of<'p>(header: &[u8], payload: &'p [u8]) -> Option<&'p [u8]> {
    let (kind, flags, stream) = (*header.get(3)?, *header.get(4)?, header.get(5..9)?);
    let mut fields = payload;
    if kind == HEADERS && flags & PADDED != 0 {
        let (padding, rest) = fields.split_first()?;
        fields = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    if kind == HEADERS && flags & PRIORITY != 0 {
        let (dependency, rest) = fields.split_first_chunk::<5>()?;
        // The first bit of each is not part of the number.
        if dependency[0] & 0x7f == stream[0] & 0x7f && dependency[1..4] == stream[1..] {
            return None;
        }
        fields = rest;
    }
    Some(fields)
}

/// The block on `stream` with what `found` says about it.
fn replaced(block: &[u8], found: &Found, stream: &[u8]) -> Vec<u8> {
    let (mut text, mut from) = (Vec::with_capacity(block.len() + 64), 0);
    for edit in &found.edits {
        text.extend_from_slice(&block[from..edit.at.start]);
        put_string(&mut text, &edit.text);
        from = edit.at.end;
    }
    text.extend_from_slice(&block[from..]);
    if let Some(target) = &found.target {
        put_field(&mut text, &TARGET, target);
    }
    if found.expects {
        // The first bit is not part of the number.
        let stream = stream.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) & 0x7fff_ffff;
        put_field(&mut text, &STREAM, stream.to_string().as_bytes());
    }
    if found.is_bad {
        put_field(&mut text, &MARK, b"1");
    }
    text
}

/// A field that is not to be kept in a table (RFC 7541, section 6.2.3).
fn put_field(block: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    block.push(0x10);
    put_string(block, name.as_str().as_bytes());
    put_string(block, value);
}

/// A string as it is (RFC 7541, sections 5.1 and 5.2).
fn put_string(block: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        length @ 0..0x7f => block.push(length as u8),
        length => {
            block.push(0x7f);
            let mut rest = length - 0x7f;
            while rest >= 0x80 {
                block.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
    }
    block.extend_from_slice(text);
}

/// Puts a block into frames as the one with `header`, without padding and priority.
fn in_frames(header: &[u8], block: &[u8]) -> BytesMut {
    let mut frames = BytesMut::with_capacity(block.len() + 2 * FRAME_HEADER);
    let (mut kind, mut flags) = (HEADERS, header[4] & !(PADDED | PRIORITY | END_HEADERS));
    let pieces = block.chunks(MOST_OF_A_FRAME);
    let last = pieces.len().saturating_sub(1);
    for (at, piece) in pieces.enumerate() {
        let [_, length @ ..] = (piece.len() as u32).to_be_bytes();
        let ends = if at == last { END_HEADERS } else { 0 };
        frames.extend_from_slice(&length);
        frames.extend_from_slice(&[kind, flags | ends]);
        frames.extend_from_slice(&header[5..FRAME_HEADER]);
        frames.extend_from_slice(piece);
        (kind, flags) = (CONTINUATION, 0);
    }
    frames
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::atomic::Ordering;

    use http::Request;

    use super::super::hpack::tests::{put_integer, put_string};
    use super::*;

    const HEAD_SIZE: usize = 65_536;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn path_block(path: &str, is_coded: bool) -> Vec<u8> {
        let mut block = vec![0x82, 0x86];
        put_integer(&mut block, 4, 4, 0);
        put_string(&mut block, path.as_bytes(), is_coded);
        block
    }

    /// What is passed on of `bytes`, read in pieces that end at `cuts`.
    fn passed_on(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Http2Targets) {
        let (mut targets, mut out, mut begin) = (Http2Targets::new(HEAD_SIZE), Vec::new(), 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
        cuts.sort_unstable();
        for cut in cuts {
            if targets.held.is_empty() {
                let piece = &bytes[begin..cut];
                let upto = targets.read(piece);
                out.extend_from_slice(&piece[..upto]);
            } else {
                targets.held.extend_from_slice(&bytes[begin..cut]);
            }
            loop {
                out.extend(targets.ready.split());
                if targets.held.is_empty() || !targets.read_held() {
                    break;
                }
            }
            begin = cut;
        }
        targets.end();
        out.extend(targets.ready.split());
        (out, targets)
    }

    /// Whether a request with these fields is refused, and its target.
    fn applied(targets: &Http2Targets, fields: &[(HeaderName, &str)]) -> (bool, String) {
        let mut request = Request::builder().uri("http://a/_").version(http::Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(name, *value);
        }
        let mut request = request.body(()).unwrap();
        let is_bad = targets.marks.apply(&mut request).is_bad_target;
        let is_left = |name| request.headers().contains_key(name);
        assert!(
            targets.marks.0.load(Ordering::Acquire) != super::super::MARKED
                || (!is_left(MARK) && (is_bad || !is_left(TARGET)))
        );
        (is_bad, request.uri().to_string())
    }

    #[test]
    fn requests_after_what_cannot_be_read_are_refused() {
        let good = path_block("/keep/", false);
        let depends_on_itself = [&[0x80, 0, 0, 1, 9][..], &good].concat();
        for odd in [
            frame(HEADERS, END_HEADERS, 1, &[0x80]),
            frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x82]),
            frame(HEADERS, END_HEADERS | PRIORITY, 1, &depends_on_itself),
            frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &good].concat()),
            [&[0, 0x40, 1, HEADERS, END_HEADERS, 0, 0, 0, 1][..], &[0x82; MOST_OF_A_FRAME + 1]].concat(),
            frame(CONTINUATION, END_HEADERS, 1, &[0x82]),
            [frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, END_HEADERS, 3, &good)].concat(),
            [frame(HEADERS, 0, 1, &[0x82]), frame(0, 0, 1, b"data")].concat(),
            [frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, 0, 1, &[]).repeat(7)].concat(),
        ] {
            let sent = [BEGIN, &odd, &frame(HEADERS, END_HEADERS, 3, &good)].concat();
            for cut in 0..sent.len().min(100) {
                let (out, targets) = passed_on(&sent, &[cut]);
                assert!(out == sent && applied(&targets, &[]).0, "{odd:x?}");
            }
        }
    }

    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// The frame of a request whose block is `begin`, with the fields of the reader behind it.
    fn replaced_frame(flags: u8, begin: &[u8], target: Option<&str>, is_bad: bool) -> Vec<u8> {
        let mut block = begin.to_vec();
        let target = target.map(|target| target.as_bytes().into());
        block = replaced(&block, &Found { is_bad, target, ..Found::default() }, &[0, 0, 0, 3]);
        frame(HEADERS, flags | END_HEADERS, 3, &block)
    }

    #[test]
    fn a_target_that_hyper_would_change_or_refuse_is_replaced_and_nothing_else() {
        let data = frame(0, 1, 1, b"\x00\x00\x05\x01\x04\x00\x00\x00\x03#/#");
        for is_coded in [false, true] {
            let good = path_block("/keep/", is_coded);
            for (path, read, target, is_bad) in [
                ("/keep/#x", "/keep/#x", None, true),
                ("/?q=\"", "/____", Some("/?q=%22"), false),
                ("/a b", "/___", Some("/a%20b"), true),
            ] {
                let bad = path_block(path, is_coded);
                // h2 reads a fragment as it came, in the same code.
                let expected = path_block(read, is_coded && target.is_none());
                let padded = [&[3, 0, 0, 0, 0, 9][..], &bad, &[0; 3]].concat();
                for (begun, rest, flags) in [
                    (frame(HEADERS, END_HEADERS | 1, 3, &bad), Vec::new(), 1),
                    (frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 3, &padded), Vec::new(), 0),
                    (frame(HEADERS, 1, 3, &bad[..4]), frame(CONTINUATION, END_HEADERS, 3, &bad[4..]), 1),
                ] {
                    let before = [BEGIN, &frame(4, 0, 0, b""), &frame(HEADERS, END_HEADERS, 1, &good), &data].concat();
                    let after = frame(HEADERS, END_HEADERS, 5, &good);
                    let sent = [&before[..], &begun, &rest, &after].concat();
                    let expected = [&before[..], &replaced_frame(flags, &expected, target, is_bad), &after].concat();
                    for cut in 0..sent.len() {
                        let (out, targets) = passed_on(&sent, &[cut, cut / 2]);
                        assert_eq!(out, expected, "{path} at {cut}");
                        assert_eq!(applied(&targets, &[]), (false, "http://a/_".to_owned()));
                        assert!(applied(&targets, &[(MARK, "1")]).0);
                        // The last one is the reader's.
                        let fields = [(TARGET, "/mine"), (TARGET, "/?q=%22")];
                        assert_eq!(applied(&targets, &fields), (false, "http://a/?q=%22".to_owned()));
                        assert!(applied(&targets, &[(TARGET, "mine")]).0);
                    }
                }
            }
        }
    }

    #[test]
    fn a_visitor_cannot_mark_its_own_requests() {
        let targets = Http2Targets::new(HEAD_SIZE);
        let mut request = Request::builder().uri("http://a/_").header(TARGET, "/b").header(MARK, "1").body(()).unwrap();
        assert_eq!(targets.marks.apply(&mut request), super::super::Marked::default());
        assert_eq!(request.uri(), "http://a/_");
    }

    #[test]
    fn a_request_that_expects_to_be_asked_tells_its_stream() {
        let mut kept = path_block("/", false);
        put_integer(&mut kept, 6, 35, 0x40);
        put_string(&mut kept, b"100-continue", true);
        let again = [&path_block("/", false)[..], &[0x80 | 62]].concat();
        let mut plain = path_block("/", false);
        put_integer(&mut plain, 4, 35, 0);
        put_string(&mut plain, b"100-continue", false);
        for block in [&kept, &plain] {
            let sent = [BEGIN, &frame(HEADERS, END_HEADERS, 3, block)].concat();
            let found = Found { expects: true, ..Found::default() };
            let expected =
                [BEGIN, &frame(HEADERS, END_HEADERS, 3, &replaced(block, &found, &[0x80, 0, 0, 3]))].concat();
            let (out, mut targets) = passed_on(&sent, &[30]);
            assert_eq!(out, expected);
            assert!(out.ends_with(b"\x0dx-adit-stream\x013"));
            if block == &kept {
                targets.read(&frame(HEADERS, END_HEADERS, 5, &again));
                assert!(targets.ready.ends_with(b"\x0dx-adit-stream\x015"));
            }
            let mut request = Request::builder().header(STREAM, "7").header(STREAM, "3").body(()).unwrap();
            request.headers_mut().insert("expect", "100-continue".parse().unwrap());
            assert_eq!(
                targets.marks.apply(&mut request),
                super::super::Marked { is_bad_target: false, stream: Some(3) }
            );
            assert_eq!(request.headers().len(), 1);
        }
    }

    #[test]
    fn a_long_target_takes_several_frames() {
        let path = format!("/?{}", "\"".repeat(7_000));
        let sent = [BEGIN, &frame(HEADERS, END_HEADERS | 1, 1, &path_block(&path, false))].concat();
        let (out, _) = passed_on(&sent, &[]);
        let (mut rest, mut block, mut kinds) = (&out[BEGIN.len()..], Vec::new(), Vec::new());
        while !rest.is_empty() {
            let (frame, after) = rest.split_at(first_frame(rest));
            kinds.push((frame[3], frame[4]));
            block.extend_from_slice(&frame[FRAME_HEADER..]);
            rest = after;
        }
        assert_eq!(kinds, [(HEADERS, 1), (CONTINUATION, END_HEADERS)]);
        assert!(block.ends_with("%22".repeat(7_000).as_bytes()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_passed_on_as_they_are_if_none_of_them_is_a_fragment(
            frames in prop::collection::vec((0_u8..10, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            cuts in prop::collection::vec(any::<usize>(), 0..8),
        ) {
            let mut sent = BEGIN.to_vec();
            for (kind, flags, payload) in &frames {
                sent.extend(frame(*kind, *flags, 1, payload));
            }
            let (out, targets) = passed_on(&sent, &cuts);
            if !applied(&targets, &[(MARK, "1")]).0 {
                prop_assert_eq!(out, sent);
            }
        }

        #[test]
        fn requests_are_marked_exactly_if_their_path_has_a_fragment(
            paths in prop::collection::vec(("/[a-z%?]{0,9}(#[a-z]{0,3})?", any::<bool>(), 1_usize..12), 1..6),
            cuts in prop::collection::vec(any::<usize>(), 0..8),
        ) {
            let (mut sent, mut expected) = (BEGIN.to_vec(), BEGIN.to_vec());
            for (path, is_coded, at) in &paths {
                let block = path_block(path, *is_coded);
                let at = at % block.len();
                let begun = [frame(HEADERS, 0, 3, &block[..at]), frame(CONTINUATION, END_HEADERS, 3, &block[at..])].concat();
                sent.extend(&begun);
                if path.contains('#') {
                    expected.extend(replaced_frame(0, &block, None, true));
                } else {
                    expected.extend(begun);
                }
            }
            prop_assert_eq!(passed_on(&sent, &cuts).0, expected);
        }
    }
}
