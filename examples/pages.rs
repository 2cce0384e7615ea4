//! Writes what a package brings beside the program: man pages (`man/`) and completions for shells (`completions/`), made
//! from the program's own command line.
//!
//!     cargo run --example pages -- target/pages

use std::fs;
use std::io;
use std::path::PathBuf;

use adit::cli::Cli;
use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let usage = || io::Error::other("to which folder? cargo run --example pages -- target/pages");
    let target = PathBuf::from(std::env::args_os().nth(1).ok_or_else(usage)?);
    let [man, completions] = ["man", "completions"].map(|folder| target.join(folder));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "adit", &completions)?;
    }
    // Otherwise `adit help token` and the like get pages of their own, which say nothing new.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &man)
}
