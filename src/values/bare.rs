//! Texts that people keep in files and variables, without what editors and shells add around them.

/// The byte order mark that some editors put before a text in UTF-8.
const BOM: char = '\u{feff}';

/// Why bytes are no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// They are in UTF-16, as some editors and shells of Windows write it.
    #[error("is UTF-16 text; save it as UTF-8")]
    Utf16,
    /// They are in another encoding, or no text at all.
    #[error("is not UTF-8 text (at byte {0}); save it as UTF-8")]
    NotUtf8(usize),
}

/// Returns the text in the bytes of a file, without a byte order mark.
///
/// # Errors
/// It is not in UTF-8.
pub fn text_in(bytes: &[u8]) -> Result<&str, NotText> {
    let bytes = without_bom(bytes)?;
    std::str::from_utf8(bytes).map_err(|error| NotText::NotUtf8(error.valid_up_to()))
}

/// Returns the bytes of a file without a byte order mark.
///
/// # Errors
/// They are in UTF-16.
pub fn without_bom(bytes: &[u8]) -> Result<&[u8], NotText> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(NotText::Utf16);
    }
    Ok(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes))
}

/// Returns a text without a byte order mark, the white space around it and one pair of quotes around all of it. Only for
/// values that never have quotes of their own.
pub fn bare(text: &str) -> &str {
    let text = trimmed(text);
    unquoted(text).map_or(text, str::trim)
}

/// Returns a text without a byte order mark and the white space around it.
pub fn trimmed(text: &str) -> &str {
    text.trim_start_matches(BOM).trim()
}

/// Returns what is between the quotes around a text, if there are any.
pub fn unquoted(text: &str) -> Option<&str> {
    let between = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    between('"').or_else(|| between('\''))
}

/// Returns what [`bare`] removes from the bytes of a file, in words; `None` if that is nothing but a line end.
pub fn around(bytes: &[u8]) -> Option<String> {
    let whole = std::str::from_utf8(bytes).ok()?;
    let text = whole.trim_start_matches(BOM);
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let found = [
        (text.len() != whole.len(), "a byte order mark"),
        (unquoted(text.trim()).is_some(), "quotes"),
        (line.trim().len() != line.len(), "white space"),
    ];
    let words: Vec<&str> = found.iter().filter(|(is_there, _)| *is_there).map(|(_, word)| *word).collect();
    (!words.is_empty()).then(|| words.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_and_shells_add_is_removed() {
        for (text, words) in [
            ("adit_x", None),
            ("adit_x\n", None),
            ("adit_x\r\n", None),
            ("\u{feff}adit_x\r\n", Some("a byte order mark")),
            (" adit_x\t\n\n", Some("white space")),
            ("\"adit_x\"\n", Some("quotes")),
            ("'adit_x'", Some("quotes")),
            ("\u{feff} ' adit_x ' \n", Some("a byte order mark and quotes and white space")),
        ] {
            assert_eq!((bare(text), around(text.as_bytes()).as_deref()), ("adit_x", words), "{text:?}");
        }
        for text in ["", " \n", "\u{feff}\n", "\"\"", "' '"] {
            assert_eq!(bare(text), "", "{text:?}");
        }
        for (text, left) in [("\"adit_x", "\"adit_x"), ("'adit_x\"", "'adit_x\""), ("\"", "\""), ("a b", "a b")] {
            assert_eq!(bare(text), left);
        }
        assert_eq!((trimmed("\u{feff} \"x\" \n"), unquoted("\"x\""), unquoted("x")), ("\"x\"", Some("x"), None));
    }

    #[test]
    fn bytes_are_text_in_utf_8() {
        assert_eq!(text_in("\u{feff}Grüße\n".as_bytes()), Ok("Grüße\n"));
        assert_eq!(text_in(b"\xff\xfea\0"), Err(NotText::Utf16));
        assert_eq!(text_in(b"\xfe\xff\0a"), Err(NotText::Utf16));
        assert_eq!(text_in(b"Gr\xfc\xdfe"), Err(NotText::NotUtf8(2)));
        assert_eq!((without_bom(b"\xef\xbb\xbf\x80"), without_bom(b"x")), (Ok(&b"\x80"[..]), Ok(&b"x"[..])));
    }
}
