//! What goes to a person's terminal, and comes from there.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
#[cfg(unix)]
use std::os::fd::AsFd as _;

use zeroize::Zeroizing;

use super::Failure;
use crate::values::Secret;

/// The longest secret that is read, in bytes.
const MAX_SECRET: u64 = 4096;

/// Returns whether standard output goes anywhere, not to `/dev/null`.
#[cfg(unix)]
pub(super) fn is_output_kept() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let output = io::stdout().as_fd().try_clone_to_owned().and_then(|output| std::fs::File::from(output).metadata());
    match (output, std::fs::metadata("/dev/null")) {
        (Ok(output), Ok(null)) => output.rdev() != null.rdev(),
        // It is closed.
        (Err(_), _) => false,
        (Ok(_), Err(_)) => true,
    }
}

#[cfg(not(unix))]
pub(super) fn is_output_kept() -> bool {
    true
}

/// Returns the width of the terminal that standard output is, in columns.
pub(super) fn width() -> Option<usize> {
    let (terminal_size::Width(width), _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width)).filter(|width| *width > 0)
}

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
