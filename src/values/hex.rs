//! Digests of 32 bytes as text.

/// Bytes in a digest of SHA-256.
const SIZE: usize = 32;

/// 64 hexadecimal digits.
pub fn hex_of(digest: &[u8; SIZE]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads 64 hexadecimal digits, large or small ones; `None`, if it is anything else.
pub fn digest_in(text: &[u8]) -> Option<[u8; SIZE]> {
    let mut digest = [0; SIZE];
    if text.len() != 2 * SIZE {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_comes_back_and_nothing_else_is_one() {
        let digest = std::array::from_fn(|at| u8::try_from(at * 8).unwrap());
        let text = hex_of(&digest);
        assert!(text.starts_with("000810") && text.ends_with("f0f8"), "{text}");
        for text in [text.clone(), text.to_uppercase()] {
            assert_eq!(digest_in(text.as_bytes()), Some(digest));
        }
        for other in [&text[2..], &format!("{text}00"), &text.replace("08", "g8"), &text.replace("08", "+8"), ""] {
            assert_eq!(digest_in(other.as_bytes()), None, "{other}");
        }
    }
}
