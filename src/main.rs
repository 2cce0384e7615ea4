//! The `adit` program: parses the command line, runs one sub-command, and chooses the exit code.

use std::process::ExitCode;

use clap::Parser;

use adit::cli::Cli;

/// Small allocations come and go with every request; this allocator makes them cheaper.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}
