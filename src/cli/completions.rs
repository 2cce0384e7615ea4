//! `adit completions`

use std::io::{self, Write as _};

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For which shell
    shell: Shell,
}

/// Prints what the shell reads, e.g. `source <(adit completions bash)`.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "adit", &mut script);
    io::stdout().lock().write_all(&script).map_err(Failure::other)
}
