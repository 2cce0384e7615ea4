//! Text of others on the way to a person's terminal.

use std::borrow::Cow;

/// `text` without control characters, so that it cannot move the cursor, recolour or retitle the terminal, or hide what
/// stands before it. Line ends stay: messages may have several lines.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |char: char| char.is_control() && char != '\n';
    if text.contains(is_harmful) { Cow::Owned(text.replace(is_harmful, "")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_steers_a_terminal_is_taken_out() {
        assert_eq!(
            harmless("\x1b[2J\x1b]0;owned\x07ask\r\n\u{9b}31mthe\x08 operator\x7f"),
            "[2J]0;ownedask\n31mthe operator"
        );
        let plain = "Grüße, ask `adit token new`\n  → 53 characters";
        assert!(matches!(harmless(plain), Cow::Borrowed(same) if same == plain));
    }
}
