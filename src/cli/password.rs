//! `adit password`

use std::io::IsTerminal as _;

use anstream::{eprintln, println};

use super::Failure;
use super::terminal::ask_secret;
use crate::auth::hash;
use crate::values::Secret;

pub(super) fn run() -> Result<(), Failure> {
    let password = ask_new("Password: ")?;
    let is_asked = std::io::stdin().is_terminal();
    let hashed = hash(&password).map_err(Failure::other)?;
    // The hash alone goes to standard output, so that it can be piped.
    println!("{hashed}");
    if is_asked {
        eprintln!("For agent.toml, in [services.access]: basic_auth = {{ NAME = \"{hashed}\" }}");
    }
    Ok(())
}

/// Asks for a new password, twice; where nobody can be asked, it is the next line of standard input.
pub(super) fn ask_new(prompt: &str) -> Result<Secret, Failure> {
    let password = ask_secret(prompt)?;
    if password.expose().is_empty() {
        return Err(Failure::other("no password was given; type one, or pipe it in"));
    }
    if std::io::stdin().is_terminal() && ask_secret("Once more: ")?.expose() != password.expose() {
        return Err(Failure::other("the two are not the same; try again"));
    }
    Ok(password)
}
