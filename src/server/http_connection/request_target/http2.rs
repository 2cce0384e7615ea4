//! Finds the header blocks in the bytes of an HTTP/2 connection.

use bytes::{Buf, Bytes, BytesMut};

use super::hpack::{Decoder, Malformed};
use super::{MARK, Marks};

/// How a connection begins, in bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;

const FRAME_HEADER: usize = 9;

/// The most that a frame carries, unless SETTINGS say otherwise (RFC 9113, section 4.2). hyper's say nothing.
const MOST_OF_A_FRAME: usize = 16 * 1024;

/// The most bytes of a header block in several frames. hyper ends connections with less.
const MOST_OF_A_BLOCK: usize = 1024 * 1024;

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Follows the bytes of a connection from frame to frame, and marks each request with a fragment in its `:path`: one frame
/// more, with the field [`MARK`], ends its header block. What hyper gets is otherwise what came.
///
/// A frame of a header block is passed on when it has come whole.
#[derive(Debug)]
pub(crate) struct Http2Targets {
    /// Bytes of the preface, or of a frame without fields, that are still to come.
    passing: usize,
    /// Fields of a block whose end has not come.
    block: Vec<u8>,
    decoder: Decoder,
    marks: Marks,
    /// The frames cannot be followed any more: the bytes are passed on as they come, and no request is served.
    is_lost: bool,
    /// The beginning of a frame whose rest has not come.
    pub(crate) held: BytesMut,
    /// What is to be passed on next.
    pub(crate) ready: BytesMut,
}

/// How much of some bytes may be passed on, and the frame that follows then.
#[derive(Debug, PartialEq, Eq)]
struct Looked {
    upto: usize,
    mark: Option<Bytes>,
}

impl Http2Targets {
    /// From the first byte of a connection.
    pub(crate) fn new() -> Self {
        Self {
            passing: PREFACE,
            block: Vec::new(),
            decoder: Decoder::new(),
            marks: Marks::default(),
            is_lost: false,
            held: BytesMut::new(),
            ready: BytesMut::new(),
        }
    }

    /// Which requests have a fragment.
    pub(crate) fn marks(&self) -> Marks {
        self.marks.clone()
    }

    /// Looks at the next bytes, behind which nothing is held. Says how many of them may be passed on now; `held` and
    /// `ready` have the rest.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> usize {
        let Looked { upto, mark } = self.look(bytes);
        self.ready.extend(mark);
        self.held.extend_from_slice(&bytes[upto..]);
        upto
    }

    /// Looks at what is held. Says whether any of it is ready now.
    pub(crate) fn read_held(&mut self) -> bool {
        let mut held = std::mem::take(&mut self.held);
        let Looked { upto, mark } = self.look(&mut held);
        self.ready.extend_from_slice(&held[..upto]);
        self.ready.extend(mark);
        held.advance(upto);
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

    fn look(&mut self, bytes: &mut [u8]) -> Looked {
        let (mut at, length) = (0, bytes.len());
        while !self.is_lost {
            let passed = self.passing.min(length - at);
            self.passing -= passed;
            at += passed;
            let Some(&[high, middle, low, kind, ..]) = bytes.get(at..at + FRAME_HEADER) else {
                return Looked { upto: at, mark: None };
            };
            let payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if !matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
                at += FRAME_HEADER;
                self.passing = payload;
                continue;
            }
            // Clients do not push; h2 decodes such a frame all the same.
            if kind == PUSH_PROMISE || payload > MOST_OF_A_FRAME {
                self.lose();
                break;
            }
            let end = at + FRAME_HEADER + payload;
            let Some(frame) = bytes.get_mut(at..end) else { return Looked { upto: at, mark: None } };
            let mark = self.frame(frame);
            at = end;
            if mark.is_some() {
                return Looked { upto: at, mark };
            }
        }
        Looked { upto: length, mark: None }
    }

    /// Looks at a whole frame with fields. If the block that it ends has a fragment in its `:path`, the block goes on with
    /// the frame that this gives.
    fn frame(&mut self, frame: &mut [u8]) -> Option<Bytes> {
        let (header, payload) = frame.split_at_mut_checked(FRAME_HEADER)?;
        let Some(fields) = fields_of(header, payload) else {
            self.lose();
            return None;
        };
        if header[4] & END_HEADERS == 0 {
            self.block.extend_from_slice(fields);
            if self.block.len() > MOST_OF_A_BLOCK {
                self.lose();
            }
            return None;
        }
        let found = if self.block.is_empty() {
            self.decoder.has_fragment(fields)
        } else {
            let mut block = std::mem::take(&mut self.block);
            block.extend_from_slice(fields);
            self.decoder.has_fragment(&block)
        };
        match found {
            Ok(false) => return None,
            Ok(true) => {}
            Err(Malformed) => {
                self.lose();
                return None;
            }
        }
        self.marks.begin();
        header[4] &= !END_HEADERS;
        Some(mark(&header[5..]))
    }
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

/// The end of a header block on `stream`: a field that is not to be kept in a table (RFC 7541, section 6.2.3).
fn mark(stream: &[u8]) -> Bytes {
    let (name, value) = (MARK, b"1");
    let name = name.as_str().as_bytes();
    let (name_length, value_length) = (name.len() as u8, value.len() as u8);
    let payload = 3 + name_length + value_length;
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + usize::from(payload));
    frame.extend_from_slice(&[0, 0, payload, CONTINUATION, END_HEADERS]);
    frame.extend_from_slice(stream);
    frame.extend_from_slice(&[0x10, name_length]);
    frame.extend_from_slice(name);
    frame.extend_from_slice(&[value_length]);
    frame.extend_from_slice(value);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hpack::tests::{put_integer, put_string};
    use super::*;

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
        let (mut targets, mut out, mut begin) = (Http2Targets::new(), Vec::new(), 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
        cuts.sort_unstable();
        for cut in cuts {
            if targets.held.is_empty() {
                let mut piece = bytes[begin..cut].to_vec();
                let upto = targets.read(&mut piece);
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

    fn marked() -> http::HeaderMap {
        [(MARK, http::HeaderValue::from_static("1"))].into_iter().collect()
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
        ] {
            let sent = [BEGIN, &odd, &frame(HEADERS, END_HEADERS, 3, &good)].concat();
            for cut in 0..sent.len().min(100) {
                let (out, targets) = passed_on(&sent, &[cut]);
                assert!(out == sent && targets.marks.include(&http::HeaderMap::new()), "{odd:x?}");
            }
        }
    }

    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    #[test]
    fn a_request_with_a_fragment_is_marked_and_nothing_else_changes() {
        let data = frame(0, 1, 1, b"\x00\x00\x05\x01\x04\x00\x00\x00\x03#/#");
        for is_coded in [false, true] {
            let (good, bad) = (path_block("/keep/", is_coded), path_block("/keep/#x", is_coded));
            let padded = [&[3, 0, 0, 0, 0, 9][..], &bad, &[0; 3]].concat();
            for (begun, rest) in [
                (frame(HEADERS, 1, 3, &bad), Vec::new()),
                (frame(HEADERS, PADDED | PRIORITY, 3, &padded), Vec::new()),
                (frame(HEADERS, 0, 3, &bad[..4]), frame(CONTINUATION, 0, 3, &bad[4..])),
            ] {
                let mut sent = [BEGIN, &frame(4, 0, 0, b""), &frame(HEADERS, END_HEADERS, 1, &good), &data].concat();
                let last = if rest.is_empty() { sent.len() } else { sent.len() + begun.len() };
                sent.extend([&begun[..], &rest].concat());
                let mark = mark(&[0, 0, 0, 3]);
                let after = frame(HEADERS, END_HEADERS, 5, &good);
                let expected = [&sent[..], &mark, &after].concat();
                sent[last + 4] |= END_HEADERS;
                sent.extend(after);
                for cut in 0..sent.len() {
                    let (out, targets) = passed_on(&sent, &[cut, cut / 2]);
                    assert!(out == expected && targets.marks.include(&marked()), "{cut}");
                }
            }
        }
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
            let is_marked = targets.marks.include(&marked());
            if !is_marked || targets.is_lost {
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
                let begun = [frame(HEADERS, 0, 1, &block[..at]), frame(CONTINUATION, END_HEADERS, 1, &block[at..])].concat();
                sent.extend(&begun);
                let flags = begun.len() - (block.len() - at) - FRAME_HEADER + 4;
                let mut begun = begun;
                if path.contains('#') {
                    begun[flags] &= !END_HEADERS;
                    begun.extend(mark(&[0, 0, 0, 1]));
                }
                expected.extend(begun);
            }
            prop_assert_eq!(passed_on(&sent, &cuts).0, expected);
        }
    }
}
