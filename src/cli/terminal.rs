//! What goes to a person's terminal, and comes from there.

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
