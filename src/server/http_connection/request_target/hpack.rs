//! A minimal HPACK decoder (RFC 7541) that reads the `:path` and the `:authority` of a request, and finds `expect`.
//!
//! Fields that are neither of them nor go into the dynamic table are skipped, and of those in the table only the size is
//! kept, so a request with fields that the table knows costs little more than its length.
//!
//! A value that h2 would refuse is to be replaced in the block by another one of the same length, so that both dynamic tables
//! stay the same.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use http::uri::Authority;

use super::encode::{ODD, Target};
use super::huffman::each_byte;

/// The most that a dynamic table may hold, in bytes, unless SETTINGS say otherwise (RFC 9113, section 6.5.2). hyper's say
/// nothing.
const TABLE_SIZE: usize = 4096;

/// What an entry costs beside its name and value (RFC 7541, section 4.1).
const ENTRY: usize = 32;

const PATH: &[u8] = b":path";
const EXPECT: &[u8] = b"expect";

/// How long the names of the static table are (RFC 7541, appendix A).
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4,
    4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// Where `:authority` and `:path` are in it.
const STATIC_AUTHORITY: usize = 1;
const STATIC_PATHS: [usize; 2] = [4, 5];

/// Where `expect` is in it.
const STATIC_EXPECT: usize = 35;

/// The header block is malformed, or hyper refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What a header block says about its request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// It is refused.
    pub(crate) is_bad: bool,
    /// Its target, if that is not what h2 will read.
    pub(crate) target: Option<Arc<[u8]>>,
    /// It has an `Expect`.
    pub(crate) expects: bool,
    /// What has to be replaced in the block.
    pub(crate) edits: Vec<Edit>,
}

/// A string in a header block that has to be replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Where it is, with its length.
    pub(crate) at: Range<usize>,
    /// What takes its place.
    pub(crate) text: Vec<u8>,
}

impl Found {
    fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Fine => {}
            Verdict::Encoded(target) => self.target = Some(Arc::clone(target)),
            Verdict::Refused(target) => {
                self.is_bad = true;
                self.target = target.clone().or_else(|| self.target.take());
            }
        }
    }

    /// Whether h2 may read the block as it is.
    pub(crate) fn is_fine(&self) -> bool {
        *self == Self::default()
    }
}

/// What a field says about its request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    #[default]
    Fine,
    /// This is the target, and h2 reads another value in its place.
    Encoded(Arc<[u8]>),
    /// The request is refused. With the target for the log, if h2 reads another value in its place.
    Refused(Option<Arc<[u8]>>),
}

impl Verdict {
    /// Whether h2 has to read another value.
    fn replaces(&self, kind: Kind) -> bool {
        match self {
            Self::Fine => false,
            // It discards a fragment.
            Self::Refused(None) => kind != Kind::Path,
            Self::Encoded(_) | Self::Refused(Some(_)) => true,
        }
    }
}

/// What is kept of an entry of the dynamic table.
#[derive(Debug, Clone)]
struct Entry {
    name: usize,
    value: usize,
    kind: Kind,
    verdict: Verdict,
}

/// What a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Authority,
    Path,
    Expect,
    Other,
}

/// A name, as far as it matters.
#[derive(Debug, Clone, Copy)]
struct Name {
    length: usize,
    kind: Kind,
}

/// What a string is, decoded.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    length: usize,
    /// It has bytes that not every target may have.
    is_odd: bool,
    is_path: bool,
}

/// The state of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: TABLE_SIZE }
    }

    /// Reads a whole header block.
    ///
    /// # Errors
    /// The block is malformed; the connection cannot go on (RFC 9113, section 4.3).
    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Found, Malformed> {
        let (mut found, mut rest) = (Found::default(), block);
        while let Some(first) = rest.first().copied() {
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    self.indexed(index, &mut found)?;
                }
                0x40..0x80 => self.literal(block, &mut rest, 6, &mut found)?,
                0x20..0x40 => {
                    let most = integer(&mut rest, 5)?;
                    self.resize(most)?;
                }
                _ => self.literal(block, &mut rest, 4, &mut found)?,
            }
        }
        Ok(found)
    }

    fn entry(&self, index: usize) -> Result<&Entry, Malformed> {
        index.checked_sub(STATIC_NAMES.len() + 1).and_then(|at| self.entries.get(at)).ok_or(Malformed)
    }

    fn indexed(&self, index: usize, found: &mut Found) -> Result<(), Malformed> {
        match index {
            0 => Err(Malformed),
            1..=61 => Ok(()),
            _ => self.entry(index).map(|entry| {
                found.add(&entry.verdict);
                found.expects |= entry.kind == Kind::Expect;
            }),
        }
    }

    fn name(&self, block: &mut &[u8], prefix: u32) -> Result<Name, Malformed> {
        Ok(match integer(block, prefix)? {
            0 => {
                let mut name = *block;
                let seen = string(block)?;
                let kind = match seen.length {
                    _ if seen.is_path => Kind::Path,
                    length if length == EXPECT.len() && text_of(&mut name)? == EXPECT => Kind::Expect,
                    _ => Kind::Other,
                };
                Name { length: seen.length, kind }
            }
            index @ 1..=61 => {
                let kind = match index {
                    STATIC_AUTHORITY => Kind::Authority,
                    STATIC_EXPECT => Kind::Expect,
                    _ if STATIC_PATHS.contains(&index) => Kind::Path,
                    _ => Kind::Other,
                };
                Name { length: usize::from(STATIC_NAMES[index - 1]), kind }
            }
            index => {
                let entry = self.entry(index)?;
                Name { length: entry.name, kind: entry.kind }
            }
        })
    }

    /// Reads a field at the beginning of `rest`, which is the end of `block`. One with a prefix of 6 bits goes into the table.
    fn literal(&mut self, block: &[u8], rest: &mut &[u8], prefix: u32, found: &mut Found) -> Result<(), Malformed> {
        let name = self.name(rest, prefix)?;
        let is_kept = prefix == 6;
        found.expects |= name.kind == Kind::Expect;
        if !is_kept && matches!(name.kind, Kind::Other | Kind::Expect) {
            return skip_string(rest);
        }
        let (start, mut value) = (block.len() - rest.len(), *rest);
        let seen = string(rest)?;
        let verdict = match name.kind {
            Kind::Path if seen.is_odd => path_verdict(&text_of(&mut value)?),
            Kind::Authority => authority_verdict(&text_of(&mut value)?),
            _ => Verdict::Fine,
        };
        if verdict.replaces(name.kind) {
            found.edits.push(Edit { at: start..block.len() - rest.len(), text: placeholder(name.kind, seen.length) });
        }
        found.add(&verdict);
        if is_kept {
            self.keep(Entry { name: name.length, value: seen.length, kind: name.kind, verdict });
        }
        Ok(())
    }

    fn keep(&mut self, entry: Entry) {
        let size = entry.size();
        self.evict(self.most.saturating_sub(size));
        // One that is larger than the table empties it (RFC 7541, section 4.4).
        if size <= self.most {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    fn resize(&mut self, most: usize) -> Result<(), Malformed> {
        if most > TABLE_SIZE {
            return Err(Malformed);
        }
        self.most = most;
        self.evict(most);
        Ok(())
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size();
        }
    }
}

impl Entry {
    fn size(&self) -> usize {
        self.name + self.value + ENTRY
    }
}

fn path_verdict(path: &[u8]) -> Verdict {
    match Target::of(path) {
        Target::Fine => Verdict::Fine,
        // h2 refuses an empty one whatever it is called.
        Target::Refused(_) if path.is_empty() => Verdict::Fine,
        Target::Encoded(target) => Verdict::Encoded(target.into()),
        Target::Refused(target) => Verdict::Refused(target.map(Arc::from)),
    }
}

fn authority_verdict(authority: &[u8]) -> Verdict {
    let is_fine = authority.is_empty() || Authority::try_from(authority).is_ok();
    if is_fine { Verdict::Fine } else { Verdict::Refused(None) }
}

/// A value of `length` bytes that h2 accepts.
fn placeholder(kind: Kind, length: usize) -> Vec<u8> {
    let mut text = vec![b'_'; length];
    if let (Kind::Path, Some(first)) = (kind, text.first_mut()) {
        *first = b'/';
    }
    text
}

/// An integer behind the first bits of a byte (RFC 7541, section 5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let mut next = || {
        let (first, rest) = block.split_first().ok_or(Malformed)?;
        *block = rest;
        Ok(usize::from(*first))
    };
    let most = (1 << prefix) - 1;
    let mut value = next()? & most;
    if value < most {
        return Ok(value);
    }
    // Nothing that fits in a header block needs more.
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn take_string<'b>(block: &mut &'b [u8]) -> Result<(bool, &'b [u8]), Malformed> {
    let is_coded = block.first().is_some_and(|first| *first >= 0x80);
    let length = integer(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    Ok((is_coded, string))
}

fn skip_string(block: &mut &[u8]) -> Result<(), Malformed> {
    take_string(block).map(drop)
}

/// Reads a string (RFC 7541, section 5.2).
fn string(block: &mut &[u8]) -> Result<Seen, Malformed> {
    let (is_coded, string) = take_string(block)?;
    if is_coded {
        return decoded(string);
    }
    let is_odd = string.first() != Some(&b'/') || string.iter().any(|byte| ODD[usize::from(*byte)]);
    Ok(Seen { length: string.len(), is_odd, is_path: string == PATH })
}

/// Reads a string and returns its text.
fn text_of(block: &mut &[u8]) -> Result<Vec<u8>, Malformed> {
    let (is_coded, string) = take_string(block)?;
    if !is_coded {
        return Ok(string.to_vec());
    }
    let mut text = Vec::new();
    each_byte(string, |byte| text.push(byte))?;
    Ok(text)
}

fn decoded(coded: &[u8]) -> Result<Seen, Malformed> {
    let mut seen = Seen { is_path: true, ..Seen::default() };
    each_byte(coded, |byte| {
        seen.is_odd |= ODD[usize::from(byte)] || (seen.length == 0 && byte != b'/');
        seen.is_path &= PATH.get(seen.length) == Some(&byte);
        seen.length += 1;
    })?;
    seen.is_path &= seen.length == PATH.len();
    Ok(seen)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::super::huffman::{CODE_LENGTHS, CODES};
    use super::*;

    /// `text` in the code of appendix B.
    pub(crate) fn coded(text: &[u8]) -> Vec<u8> {
        let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u64, 0);
        for byte in text {
            let codes =
                CODES.1.iter().find(|codes| codes.length == u32::from(CODE_LENGTHS[usize::from(*byte)])).unwrap();
            let place = CODES.0[codes.symbols..].iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
            let code = u64::from(codes.first >> (32 - codes.length)) + place as u64;
            bits = bits << codes.length | code;
            count += codes.length;
            while count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
                bits &= (1 << count) - 1;
            }
        }
        if count > 0 {
            bytes.push((bits << (8 - count)) as u8 | (0xff >> count));
        }
        bytes
    }

    pub(crate) fn put_string(block: &mut Vec<u8>, text: &[u8], is_coded: bool) {
        let text = if is_coded { coded(text) } else { text.to_vec() };
        put_integer(block, 7, text.len(), if is_coded { 0x80 } else { 0 });
        block.extend(text);
    }

    pub(crate) fn put_integer(block: &mut Vec<u8>, prefix: u32, mut value: usize, flags: u8) {
        let most = (1 << prefix) - 1;
        if value < most {
            block.push(flags | value as u8);
            return;
        }
        block.push(flags | most as u8);
        value -= most;
        while value >= 0x80 {
            block.push(value as u8 | 0x80);
            value >>= 7;
        }
        block.push(value as u8);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().filter_map(|char| char.to_digit(16).map(|digit| digit as u8)).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn the_examples_of_the_standard_are_read_as_it_says() {
        assert_eq!(coded(b"www.example.com"), hex("f1e3 c2e5 f23a 6ba0 ab90 f4ff"));
        assert_eq!(
            coded(b"Mon, 21 Oct 2013 20:13:21 GMT"),
            hex("d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff")
        );
        // Appendices C.3 and C.4: three requests, in plain text and in code; the sizes of the table after each.
        for blocks in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut decoder = Decoder::new();
            let sizes = blocks.map(|block| {
                assert_eq!(decoder.read(&hex(block)), Ok(Found::default()));
                decoder.size
            });
            assert_eq!(sizes, [57, 110, 164]);
        }
    }

    #[test]
    fn a_path_is_found_in_each_of_its_forms_and_nothing_else_is() {
        let literal = |flags: u8, prefix, index, name: &[u8], value: &[u8], is_coded| {
            let mut block = Vec::new();
            put_integer(&mut block, prefix, index, flags);
            if index == 0 {
                put_string(&mut block, name, is_coded);
            }
            put_string(&mut block, value, is_coded);
            block
        };
        for is_coded in [false, true] {
            for (flags, prefix) in [(0x40, 6), (0, 4), (0x10, 4)] {
                for (index, name, value, expected) in [
                    (4, &b""[..], &b"/keep/#x"[..], true),
                    (5, b"", b"/#", true),
                    (0, b":path", b"/a#", true),
                    (0, b":path", b"/a", false),
                    (0, b":paths", b"/a#", false),
                    (0, b"x-path", b"/a#", false),
                    (58, b"", b"/a#", false),
                ] {
                    let mut decoder = Decoder::new();
                    let mut read = |block: &[u8]| decoder.read(block).map(|found| found.is_bad);
                    let block = literal(flags, prefix, index, name, value, is_coded);
                    assert_eq!(read(&block), Ok(expected), "{name:?} {value:?}");
                    if flags == 0x40 {
                        assert_eq!(read(&[0x80 | 62]), Ok(expected), "out of the table");
                        let again = literal(0, 4, 62, b"", b"/b#", is_coded);
                        let is_path = name == b":path" || index == 4 || index == 5;
                        assert_eq!(read(&again), Ok(is_path), "its name out of the table");
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_that_h2_refuses_is_replaced_by_one_of_the_same_length() {
        for is_coded in [false, true] {
            for (index, value, expected, target, is_bad) in [
                (4, "/?a=\"<>", "/______", Some("/?a=%22%3C%3E"), false),
                (4, "/a b", "/___", Some("/a%20b"), true),
                (4, "a", "/", Some("/a"), true),
                (1, "a<b", "___", None, true),
                (1, "a:b:c", "_____", None, true),
            ] {
                let (mut decoder, mut block) = (Decoder::new(), vec![0x82]);
                put_integer(&mut block, 6, index, 0x40);
                let start = block.len();
                put_string(&mut block, value.as_bytes(), is_coded);
                let end = block.len();
                block.push(0x86);
                let edits = vec![Edit { at: start..end, text: expected.into() }];
                let target = target.map(|target| Arc::from(target.as_bytes()));
                let found = Found { is_bad, target: target.clone(), edits, ..Found::default() };
                assert_eq!(decoder.read(&block), Ok(found), "{value}");
                // Then h2 knows it as the replacement.
                assert_eq!(
                    decoder.read(&[0x82, 0x80 | 62]),
                    Ok(Found { is_bad, target, ..Found::default() }),
                    "{value}"
                );
                assert_eq!(decoder.size, usize::from(STATIC_NAMES[index - 1]) + value.len() + ENTRY);
            }
        }
        for (index, value) in [(4, ""), (1, ""), (1, "a_b.example:8080"), (1, "[::1]:80"), (4, "*")] {
            let mut block = vec![index];
            put_string(&mut block, value.as_bytes(), true);
            assert_eq!(Decoder::new().read(&block), Ok(Found::default()), "{value}");
        }
    }

    #[test]
    fn an_expectation_is_found_in_each_of_its_forms() {
        for (index, name, expected) in [(35, "", true), (0, "expect", true), (0, "expecT", false), (0, "origin", false)]
        {
            for is_coded in [false, true] {
                for (flags, prefix) in [(0x40, 6), (0, 4)] {
                    let (mut decoder, mut block) = (Decoder::new(), Vec::new());
                    put_integer(&mut block, prefix, index, flags);
                    if index == 0 {
                        put_string(&mut block, name.as_bytes(), is_coded);
                    }
                    put_string(&mut block, b"100-continue", is_coded);
                    let found = Found { expects: expected, ..Found::default() };
                    assert_eq!(decoder.read(&block).as_ref(), Ok(&found), "{index} {name}");
                    if flags == 0x40 {
                        assert_eq!(decoder.read(&[0x80 | 62]), Ok(found), "{index} {name}, out of the table");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_malformed_is_not_read() {
        for block in
            [&[0x80][..], &[0xbe], &[0x44], &[0x44, 0x85, 0xff], &[0x3f, 0xe2, 0x1f], &[0xff, 0xff, 0xff, 0xff, 0xff]]
        {
            assert_eq!(Decoder::new().read(block), Err(Malformed), "{block:x?}");
        }
        // The code for the end, and a rest that is not the beginning of it.
        assert!(decoded(&[0xff, 0xff, 0xff, 0xff]).is_err() && decoded(&[0x00]).is_err() && decoded(&[0x07]).is_ok());
    }

    proptest! {
        #[test]
        fn every_string_is_read_as_it_was_coded(text in prop::collection::vec(any::<u8>(), 0..80)) {
            let seen = decoded(&coded(&text)).unwrap();
            let is_odd = text.iter().any(|byte| ODD[usize::from(*byte)]) || text.first().is_some_and(|first| *first != b'/');
            prop_assert_eq!((seen.length, seen.is_odd, seen.is_path), (text.len(), is_odd, text == PATH));
            let mut block = Vec::new();
            put_string(&mut block, &text, true);
            prop_assert_eq!(text_of(&mut &block[..]), Ok(text));
        }

        #[test]
        fn any_block_can_be_read(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6)) {
            let mut decoder = Decoder::new();
            for block in blocks {
                let _ = decoder.read(&block);
                prop_assert!(decoder.size <= TABLE_SIZE);
                prop_assert_eq!(decoder.size, decoder.entries.iter().map(Entry::size).sum::<usize>());
            }
        }
    }
}
