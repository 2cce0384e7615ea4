//! `adit check`

use std::path::PathBuf;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};

use super::{Failure, runtime};
use crate::config::{Kind, check};
use crate::schema::{ConfigErrors, Flags};
use crate::server::lifecycle::memory_bound::MemoryBound;
use crate::server::options::ServerOptions;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A server, agent or clients file
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let runtime = runtime::single_threaded()?;
    let _here = runtime.enter();
    let checked = check(&args.file).map_err(with_advice)?;
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    for warning in &checked.warnings {
        eprintln!("{yellow}warning:{yellow:#} {warning}");
    }
    if checked.kind == Kind::Server {
        println!("memory: {}", MemoryBound::of(&ServerOptions::load(Some(&args.file), &Flags::new())?));
        println!(
            "        a busy server takes a few per cent of that; lower limits.connections, limits.streams and \
             tunnel.max_tunnels to bound it (docs/capacity.md)"
        );
    }
    println!("{green}fine:{green:#} {} ({})", args.file.display(), checked.kind);
    Ok(())
}

/// What this user may not read, the user that the file is for may.
fn with_advice(mut errors: ConfigErrors) -> ConfigErrors {
    for problem in &mut errors.problems {
        // As the system says it (EACCES), whoever has put it into which words.
        if problem.message.contains("Permission denied") {
            problem.message.push_str("; the user who runs this check may not: run it as the user who is to run adit");
        }
    }
    errors
}
