//! `adit token`

use std::path::PathBuf;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};
use clap::Subcommand;

use super::Failure;
use crate::auth::{Token, hash};
use crate::config::add_client;
use crate::values::ClientId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a client and print its token, this once; the file keeps its hash
    New {
        /// The client's id, which is also its first public name
        id: ClientId,
        /// The clients file
        #[arg(long, value_name = "FILE", default_value = "config/clients.toml")]
        clients: PathBuf,
    },
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let Command::New { id, clients } = args.command;
    let token = Token::generate().map_err(Failure::other)?;
    let hashed = hash(token.as_secret()).map_err(Failure::other)?;
    add_client(&clients, &id, &hashed)?;
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    // The token alone goes to standard output, so that it can be piped.
    eprintln!("{green}added{green:#} the client `{id}` to {}", clients.display());
    println!("{}", token.as_secret().expose());
    eprintln!("This is the only time the token is shown. At home:");
    eprintln!("  adit http 3000 --server HOST:8080 --id {id} --token TOKEN --fingerprint sha256:…");
    eprintln!("A server that is running takes the new client in when it is restarted.");
    Ok(())
}
