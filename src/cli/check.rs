//! `adit check`

use std::path::PathBuf;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};

use super::Failure;
use crate::auth::load_clients;
use crate::config::{Flags, Kind, ServerConfig, check};
use crate::server::ceiling::Ceiling;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A server, agent or clients file
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let checked = check(&args.file)?;
    if checked.kind == Kind::Clients {
        load_clients(&args.file)?;
    }
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    for warning in &checked.warnings {
        eprintln!("{yellow}warning:{yellow:#} {warning}");
    }
    if checked.kind == Kind::Server {
        println!("memory: {}", Ceiling::of(&ServerConfig::load(Some(&args.file), &Flags::new())?));
        println!(
            "        a busy server takes a few per cent of that; lower limits.connections, limits.streams and \
             tunnel.max_tunnels to bound it (docs/capacity.md)"
        );
    }
    println!("{green}fine:{green:#} {} ({})", args.file.display(), checked.kind);
    Ok(())
}
