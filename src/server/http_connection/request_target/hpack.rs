//! A minimal HPACK decoder (RFC 7541) that reads the `:path` of a request.
//!
//! Fields that are neither a `:path` nor go into the dynamic table are skipped, and of those in the table only the size is
//! kept, so a request with fields that the table knows costs little more than its length.

use std::collections::VecDeque;

/// The most that a dynamic table may hold, in bytes, unless SETTINGS say otherwise (RFC 9113, section 6.5.2). hyper's say
/// nothing.
const TABLE_SIZE: usize = 4096;

/// What an entry costs beside its name and value (RFC 7541, section 4.1).
const ENTRY: usize = 32;

const PATH: &[u8] = b":path";

/// How long the names of the static table are (RFC 7541, appendix A).
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4,
    4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// Where `:path` is in it.
const STATIC_PATHS: [usize; 2] = [4, 5];

/// How long the code of each byte is, and of the end of a string (RFC 7541, appendix B). The codes themselves follow from
/// that: they count up, the shorter ones first.
const CODE_LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

const EOS: u16 = 256;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Codes {
    length: u32,
    /// The first of them, and the first that is longer, each at the upper end of 32 bits.
    first: u32,
    end: u64,
    /// Where their symbols begin in [`SYMBOLS`].
    symbols: usize,
}

const LENGTHS: usize = {
    let (mut count, mut length) = (0, 1);
    while length <= 30 {
        let mut symbol = 0;
        while symbol < 257 {
            if CODE_LENGTHS[symbol] == length {
                count += 1;
                break;
            }
            symbol += 1;
        }
        length += 1;
    }
    count
};

/// Symbols in the order of their codes, and the codes by length.
const CODES: ([u16; 257], [Codes; LENGTHS]) = {
    let mut symbols = [0; 257];
    let mut codes = [Codes { length: 0, first: 0, end: 0, symbols: 0 }; LENGTHS];
    let (mut known, mut row, mut length, mut next) = (0, 0, 1, 0_u64);
    while length <= 30 {
        let begin = known;
        let mut symbol = 0;
        while symbol < 257 {
            if CODE_LENGTHS[symbol] as u32 == length {
                symbols[known] = symbol as u16;
                known += 1;
            }
            symbol += 1;
        }
        if known > begin {
            let end = next + (((known - begin) as u64) << (32 - length));
            codes[row] = Codes { length, first: next as u32, end, symbols: begin };
            row += 1;
            next = end;
        }
        length += 1;
    }
    (symbols, codes)
};

/// The header block is malformed, or hyper refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What is kept of an entry of the dynamic table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    name: usize,
    value: usize,
    is_path: bool,
    has_fragment: bool,
}

/// A name, as far as it matters.
#[derive(Debug, Clone, Copy)]
struct Name {
    length: usize,
    is_path: bool,
}

/// What a string is, decoded.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    length: usize,
    has_fragment: bool,
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

    /// Reads a whole header block. Returns whether a `:path` in it has a fragment.
    ///
    /// # Errors
    /// The block is malformed; the connection cannot go on (RFC 9113, section 4.3).
    pub(crate) fn has_fragment(&mut self, mut block: &[u8]) -> Result<bool, Malformed> {
        let mut found = false;
        while let Some(first) = block.first().copied() {
            found |= match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    self.indexed(index)?
                }
                0x40..0x80 => self.literal(&mut block, 6, true)?,
                0x20..0x40 => {
                    let most = integer(&mut block, 5)?;
                    self.resize(most)?;
                    false
                }
                _ => self.literal(&mut block, 4, false)?,
            };
        }
        Ok(found)
    }

    fn entry(&self, index: usize) -> Result<&Entry, Malformed> {
        index.checked_sub(STATIC_NAMES.len() + 1).and_then(|at| self.entries.get(at)).ok_or(Malformed)
    }

    fn indexed(&self, index: usize) -> Result<bool, Malformed> {
        match index {
            0 => Err(Malformed),
            1..=61 => Ok(false),
            _ => self.entry(index).map(|entry| entry.has_fragment),
        }
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32, is_kept: bool) -> Result<bool, Malformed> {
        let name = match integer(block, prefix)? {
            0 => {
                let seen = string(block)?;
                Name { length: seen.length, is_path: seen.is_path }
            }
            index @ 1..=61 => {
                Name { length: usize::from(STATIC_NAMES[index - 1]), is_path: STATIC_PATHS.contains(&index) }
            }
            index => {
                let entry = self.entry(index)?;
                Name { length: entry.name, is_path: entry.is_path }
            }
        };
        if !is_kept && !name.is_path {
            skip_string(block)?;
            return Ok(false);
        }
        let value = string(block)?;
        let has_fragment = name.is_path && value.has_fragment;
        if is_kept {
            self.keep(Entry { name: name.length, value: value.length, is_path: name.is_path, has_fragment });
        }
        Ok(has_fragment)
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
    Ok(Seen { length: string.len(), has_fragment: string.contains(&b'#'), is_path: string == PATH })
}

fn decoded(coded: &[u8]) -> Result<Seen, Malformed> {
    let mut seen = Seen { is_path: true, ..Seen::default() };
    let (mut bits, mut count, mut rest) = (0_u64, 0_u32, coded.iter());
    loop {
        while count <= 32
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            break;
        }
        let next = (bits >> 32) as u32;
        // What is behind the last code is the beginning of the longest one (RFC 7541, section 5.2).
        if count < 8 && next == u32::MAX << (32 - count) {
            break;
        }
        let codes = CODES.1.iter().find(|codes| u64::from(next) < codes.end).ok_or(Malformed)?;
        if codes.length > count {
            return Err(Malformed);
        }
        let symbol = CODES.0[codes.symbols + ((next - codes.first) >> (32 - codes.length)) as usize];
        if symbol == EOS {
            return Err(Malformed);
        }
        seen.has_fragment |= symbol == u16::from(b'#');
        seen.is_path &= PATH.get(seen.length).is_some_and(|byte| u16::from(*byte) == symbol);
        seen.length += 1;
        bits <<= codes.length;
        count -= codes.length;
    }
    seen.is_path &= seen.length == PATH.len();
    Ok(seen)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

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
                assert_eq!(decoder.has_fragment(&hex(block)), Ok(false));
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
                    let block = literal(flags, prefix, index, name, value, is_coded);
                    assert_eq!(decoder.has_fragment(&block), Ok(expected), "{name:?} {value:?}");
                    if flags == 0x40 {
                        assert_eq!(decoder.has_fragment(&[0x80 | 62]), Ok(expected), "out of the table");
                        let again = literal(0, 4, 62, b"", b"/b#", is_coded);
                        let is_path = name == b":path" || index == 4 || index == 5;
                        assert_eq!(decoder.has_fragment(&again), Ok(is_path), "its name out of the table");
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
            assert_eq!(Decoder::new().has_fragment(block), Err(Malformed), "{block:x?}");
        }
        // The code for the end, and a rest that is not the beginning of it.
        assert!(decoded(&[0xff, 0xff, 0xff, 0xff]).is_err() && decoded(&[0x00]).is_err() && decoded(&[0x07]).is_ok());
    }

    proptest! {
        #[test]
        fn every_string_is_read_as_it_was_coded(text in prop::collection::vec(any::<u8>(), 0..80)) {
            let seen = decoded(&coded(&text)).unwrap();
            prop_assert_eq!((seen.length, seen.has_fragment), (text.len(), text.contains(&b'#')));
            prop_assert_eq!(seen.is_path, text == PATH);
        }

        #[test]
        fn any_block_can_be_read(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6)) {
            let mut decoder = Decoder::new();
            for block in blocks {
                let _ = decoder.has_fragment(&block);
                prop_assert!(decoder.size <= TABLE_SIZE);
                prop_assert_eq!(decoder.size, decoder.entries.iter().map(Entry::size).sum::<usize>());
            }
        }
    }
}
