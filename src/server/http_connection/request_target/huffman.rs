//! The code of strings in HPACK (RFC 7541, appendix B).

use super::hpack::Malformed;

/// How long the code of each byte is, and of the end of a string (RFC 7541, appendix B). The codes themselves follow from
/// that: they count up, the shorter ones first.
pub(super) const CODE_LENGTHS: [u8; 257] = [
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

/// The codes of one length.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    pub(super) length: u32,
    /// The first of them, and the first that is longer, each at the upper end of 32 bits.
    pub(super) first: u32,
    end: u64,
    /// Where their symbols begin in [`SYMBOLS`].
    pub(super) symbols: usize,
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
pub(super) const CODES: ([u16; 257], [Codes; LENGTHS]) = {
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

/// Calls `each` for every byte of a string in the code of appendix B.
pub(super) fn each_byte(coded: &[u8], mut each: impl FnMut(u8)) -> Result<(), Malformed> {
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
        // The end of a string, which is no byte.
        each(u8::try_from(symbol).map_err(|_| Malformed)?);
        bits <<= codes.length;
        count -= codes.length;
    }
    Ok(())
}
