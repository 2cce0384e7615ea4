//! The `adit` program: parses the command line, runs one sub-command, and chooses the exit code.

use std::process::ExitCode;

use adit::cli::Cli;

/// Small allocations come and go with every request: it makes them cheap, and gives back what a peak has taken.
#[cfg(all(unix, feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::from_command_line().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}
