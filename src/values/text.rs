//! Sanitises untrusted text for terminals and logs.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns what a library says of an error, without a link to that library's documentation at the end: it is for programmers.
pub fn without_link(error: &impl ToString) -> String {
    let mut text = error.to_string();
    let link = ["https://", "http://"].iter().filter_map(|scheme| text.find(scheme)).min();
    if let Some(at) = link {
        let before = text[..at].trim_end_matches([' ', ':', '(', '<']).len();
        text.truncate(before);
    }
    text
}

/// Returns whether `char` can change how the text around it is shown: control characters, which control a terminal, and
/// invisible characters, which reorder text (U+202E), hide in it (U+200B) or end a line (U+2028).
pub fn is_harmful(char: char) -> bool {
    char.is_control() || is_invisible(char)
}

/// Format characters (the Unicode category Cf), line separators, characters that are blank, and those of private use, whose
/// shape depends on the font.
fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
            | '\u{f0000}'..='\u{10ffff}'
    )
}

/// `text` as one line that is shown as it is written: with spaces for line ends and tabs, without other control characters,
/// and with invisible characters as `\u{202e}`.
pub fn harmless_line(text: &str) -> Cow<'_, str> {
    harmless(text, is_harmful)
}

/// Like [`harmless_line`], but keeps line ends.
pub fn harmless_text(text: &str) -> Cow<'_, str> {
    harmless(text, |char| char != '\n' && is_harmful(char))
}

fn harmless(text: &str, is_harmful: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if !is_harmful(char) {
            shown.push(char);
        } else if is_invisible(char) {
            // Writing into a text cannot fail.
            let _ = write!(shown, "{}", char.escape_unicode());
        } else if matches!(char, '\n' | '\t') {
            shown.push(' ');
        }
    }
    Cow::Owned(shown)
}

/// The escape syntax of a log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// `\u{202e}`.
    Text,
    /// `\u202e`, which a JSON parser decodes to the same character.
    Json,
}

/// Escapes the invisible characters and the non-ASCII control characters of a log line. Leaves ASCII control characters to
/// the formatter, which uses them for colours.
pub fn escape_line(line: &[u8], escape: Escape) -> Cow<'_, [u8]> {
    // Nearly all lines are ASCII.
    if line.iter().all(|byte| *byte < 0x7f) {
        return Cow::Borrowed(line);
    }
    let Ok(text) = std::str::from_utf8(line) else { return Cow::Borrowed(line) };
    let is_harmful = |char: char| char >= '\u{7f}' && is_harmful(char);
    if !text.contains(is_harmful) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        // Writing into a text cannot fail.
        match escape {
            _ if !is_harmful(char) => shown.push(char),
            Escape::Text => drop(write!(shown, "{}", char.escape_unicode())),
            Escape::Json => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(shown.into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_link_of_a_library_is_left_out() {
        let rustls =
            "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest/rustls/#eof";
        assert_eq!(without_link(&rustls), "peer closed connection without sending TLS close_notify");
        assert_eq!(without_link(&"broken (http://a.example)"), "broken");
        assert_eq!(without_link(&"connection reset"), "connection reset");
    }

    /// One of each block that Unicode calls format, separator or control, and blank letters.
    const HARMFUL: &str = "\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{180e}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202d}\
                           \u{202e}\u{2060}\u{2066}\u{2069}\u{206f}\u{2800}\u{3164}\u{e000}\u{feff}\u{fff9}\u{1d173}\u{e0001}\u{e0041}\u{e007f}";

    #[test]
    fn only_what_changes_how_text_is_shown_is_taken_out() {
        for char in HARMFUL.chars() {
            assert!(is_harmful(char), "{char:?}");
        }
        let plain = "Grüße, ask `adit token new`\n  → 53 characters, 日本語 עברית عربى ❤";
        assert!(matches!(harmless_text(plain), Cow::Borrowed(same) if same == plain));
        assert_eq!(harmless_text("\x1b[2J\x1b]0;owned\x07ask\r\n\u{9b}31mthe"), "[2J]0;ownedask\n31mthe");
        assert_eq!(harmless_line("/\u{202e}gnp.exe"), "/\\u{202e}gnp.exe");
        assert_eq!(harmless_line("no\r\nconnected\tto"), "no connected to");
    }

    #[test]
    fn a_line_of_json_means_the_same_when_it_is_escaped() {
        let line = serde_json::to_vec(HARMFUL).unwrap();
        let escaped = escape_line(&line, Escape::Json);
        assert!(escaped.is_ascii());
        assert_eq!(serde_json::from_slice::<String>(&escaped).unwrap(), HARMFUL);
        assert!(matches!(escape_line("Grüße".as_bytes(), Escape::Json), Cow::Borrowed(_)));
        assert_eq!(escape_line("\x1b[2ma\u{202e}\n".as_bytes(), Escape::Text), &b"\x1b[2ma\\u{202e}\n"[..]);
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text in any::<String>(), at in any::<prop::sample::Index>(), harmful in 0_usize..28) {
            let mut text = text;
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            text.insert(*at.get(&places), HARMFUL.chars().nth(harmful).unwrap());
            prop_assert!(!harmless_line(&text).contains(is_harmful));
            prop_assert!(!harmless_text(&text).contains(|char| char != '\n' && is_harmful(char)));
            for escape in [Escape::Text, Escape::Json] {
                let line = escape_line(text.as_bytes(), escape).into_owned();
                let line = String::from_utf8(line).unwrap();
                let is_left = |char: char| char >= '\u{7f}' && is_harmful(char);
                prop_assert!(!line.contains(is_left));
            }
            // What is harmless stays as it was.
            let same: String = text.chars().filter(|char| !is_harmful(*char)).collect();
            prop_assert_eq!(harmless_line(&same), &same[..]);
            prop_assert_eq!(&*escape_line(same.as_bytes(), Escape::Text), same.as_bytes());
        }
    }
}
