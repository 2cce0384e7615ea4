//! `adit token invite`

use std::path::PathBuf;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::{File, done, end, print_secret, taken_over};
use crate::auth::InviteCode;
use crate::certs::authority_fingerprint;
use crate::cli::Failure;
use crate::config::{Claim, Flags, NewInvite, ServerConfig, add_invite};
use crate::values::{ClientId, Fingerprint};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who is invited [default: whoever has the code chooses an id]
    id: Option<ClientId>,
    #[command(flatten)]
    file: File,
    /// When the code buys nothing any more: `2027-01-01T00:00:00Z`, or a duration from now
    #[arg(long, value_name = "WHEN", default_value = "24h", value_parser = end)]
    expires: Timestamp,
    /// The names the new client may claim, e.g. `bob,shop,*.shop` [default: its id]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "id")]
    names: Vec<Claim>,
    /// The server's configuration, for the key by which the code pins it [default: config/server.toml, if it is there]
    #[arg(long, short, value_name = "FILE", conflicts_with = "fingerprint")]
    config: Option<PathBuf>,
    /// The fingerprint that the server prints when it starts, where its files are not at hand
    #[arg(long, value_name = "SHA256")]
    fingerprint: Option<Fingerprint>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let pin = match args.fingerprint {
        Some(fingerprint) => Ok(fingerprint),
        None => pin_of(&ServerConfig::load(args.config.as_deref(), &Flags::new())?)?,
    };
    let code = InviteCode::generate(pin.as_ref().ok().copied(), args.id.as_ref()).map_err(Failure::other)?;
    let (id, names) = (args.id.clone(), args.names);
    let invite = NewInvite { code_hash: code.digest(), id, names, expires: args.expires };
    let key = add_invite(&args.file.clients, &invite)?;
    let whom = args.id.map_or_else(|| "whoever has the code".to_owned(), |id| format!("`{id}`"));
    done("invited", &format!("{whom}, as {key} in {}, until {}", args.file.clients.display(), args.expires));
    print_secret(code.as_secret());
    eprintln!("This is the only time the code is shown. It buys one token. At home:");
    eprintln!("  adit login HOST:8080 --invite CODE");
    if let Err(why) = pin {
        let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
        eprintln!("{yellow}The code does not say by which key the server is known:{yellow:#} {why}");
    }
    taken_over();
    Ok(())
}

/// By which key a server with this configuration is known, or why that cannot be said.
fn pin_of(config: &ServerConfig) -> Result<Result<Fingerprint, String>, Failure> {
    let tls = &config.tunnel.tls;
    if tls.own.is_some() {
        let why = "it has a certificate of your own, which the agent's system must trust, or say --fingerprint";
        return Ok(Err(why.to_owned()));
    }
    let found = authority_fingerprint(&tls.dir).map_err(Failure::other)?;
    Ok(found.ok_or_else(|| {
        let dir = tls.dir.display();
        format!("there is no certificate in {dir} yet; start the server once, name its --config, or say --fingerprint")
    }))
}
