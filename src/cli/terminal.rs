//! What goes to a person's terminal, and comes from there.

use std::borrow::Cow;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use zeroize::Zeroizing;

use super::Failure;
use crate::values::Secret;

/// The longest secret that is read, in bytes.
const MAX_SECRET: u64 = 4096;

/// Asks for a secret without showing what is typed; where nobody can be asked, it is the first line of standard input.
///
/// # Errors
/// The terminal or standard input cannot be read.
pub(super) fn ask_secret(prompt: &str) -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        return rpassword::prompt_password(prompt).map(Secret::new).map_err(Failure::other);
    }
    let mut line = Zeroizing::new(String::new());
    io::stdin().lock().take(MAX_SECRET).read_line(&mut line).map_err(Failure::other)?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n'])))
}

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
