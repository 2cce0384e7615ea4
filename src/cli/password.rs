//! `adit password`

use std::io::IsTerminal as _;

use anstream::{eprintln, println};

use super::Failure;
use super::terminal::ask_secret;
use crate::auth::hash;

pub(super) fn run() -> Result<(), Failure> {
    let password = ask_secret("Password: ")?;
    if password.expose().is_empty() {
        return Err(Failure::other("no password was given; type one, or pipe it in"));
    }
    let is_asked = std::io::stdin().is_terminal();
    if is_asked && ask_secret("Once more: ")?.expose() != password.expose() {
        return Err(Failure::other("the two are not the same; try again"));
    }
    let hashed = hash(&password).map_err(Failure::other)?;
    // The hash alone goes to standard output, so that it can be piped.
    println!("{hashed}");
    if is_asked {
        eprintln!("For agent.toml, in [services.access]: basic_auth = {{ NAME = \"{hashed}\" }}");
    }
    Ok(())
}
