//! `adit token invite`

use std::io::{self, IsTerminal as _};

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::applied::wait_until_applied;
use super::files::{Files, Site};
use super::refused::{Asked, typed};
use super::{done, end, print_secret};
use crate::auth::InviteCode;
use crate::certs::authority_fingerprint;
use crate::cli::Failure;
use crate::files::is_ours;
use crate::server::lifecycle::certificate;
use crate::tenants::claim::Claim;
use crate::tenants::edit::Replaced;
use crate::tenants::entry::InviteEntry;
use crate::tenants::file_store::edit_file::create_clients_file;
use crate::values::{ClientId, Fingerprint};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  adit token invite alice\n  adit token invite bob --names bob,shop --expires 7d")]
pub(super) struct Args {
    /// Who is invited [default: whoever has the code chooses an id]
    id: Option<ClientId>,
    #[command(flatten)]
    files: Files,
    /// When the code buys nothing any more: `2027-01-01T00:00:00Z`, or a duration from now
    #[arg(long, value_name = "WHEN", default_value = "24h", value_parser = end)]
    expires: Timestamp,
    /// The names the new client may claim, e.g. `bob,shop,*.shop` [default: those of an earlier invitation, or its id]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "id")]
    names: Vec<Claim>,
    /// The fingerprint that the server prints when it starts, where its files are not at hand
    #[arg(long, value_name = "SHA256")]
    fingerprint: Option<Fingerprint>,
    /// Create the clients file even where no server is set up yet
    #[arg(long)]
    init: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let site = args.files.site_or_new(args.init)?;
    let pin = match args.fingerprint {
        Some(fingerprint) => Ok(fingerprint),
        None => pin_of(&site)?,
    };
    if let Err(why) = &pin {
        let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
        eprintln!("{yellow}The code will not say by which key the server is known:{yellow:#} {why}");
    }
    let code = InviteCode::generate(pin.ok(), args.id.as_ref()).map_err(Failure::other)?;
    let (id, names) = (args.id.clone(), args.names);
    let invite = InviteEntry { code_hash: code.digest(), id, names, expires: args.expires };
    let asked = Asked { id: args.id.clone(), names: typed(&invite.names), ..Asked::default() };
    let replaced = site.edit(|file| file.replace_invite(&invite));
    let (key, before) = replaced.map_err(|error| asked.failure(&site.clients, error))?;
    let whom = args.id.map_or_else(|| "whoever has the code".to_owned(), |id| format!("`{id}`"));
    done("invited", &format!("{whom}, as {key} in {}, until {}", site.clients.display(), args.expires));
    if let Some(before) = before {
        let Replaced { key, kept } = before;
        let kept: Vec<_> = kept.iter().map(ToString::to_string).collect();
        let kept = if kept.is_empty() { String::new() } else { format!(" Its names stay: {}.", kept.join(",")) };
        eprintln!("It is in place of the invitation {key}, whose code buys nothing any more.{kept}");
    }
    print_secret(code.as_secret());
    eprintln!("This is the only time the code is shown. It buys one token. At home:");
    // A pipe has it already, and nobody wants it in two places.
    let shown = if io::stdout().is_terminal() { code.as_secret().expose() } else { "CODE" };
    eprintln!("  adit login {} --invite {shown}", site.dialled());
    eprintln!("  adit http 3000");
    wait_until_applied(&site)
}

/// By which key the server is known, or why that cannot be said. Before its first start its authority is made here, as
/// the server would make it: after the clients file, without which a server that has an authority does not start.
fn pin_of(site: &Site) -> Result<Result<Fingerprint, String>, Failure> {
    let Some(config) = site.sound_server()? else {
        return Ok(Err("the server's configuration is not beside the clients file; name it (--config), or say \
                       --fingerprint"
            .to_owned()));
    };
    let tls = &config.tunnel.tls;
    if tls.own.is_some() {
        let why = "it has a certificate of your own, which the agent's system must trust, or say --fingerprint";
        return Ok(Err(why.to_owned()));
    }
    if let Some(found) = authority_fingerprint(&tls.dir).map_err(Failure::other)? {
        return Ok(Ok(found));
    }
    let dir = tls.dir.display();
    if !site.is_before_first_start() {
        return Ok(Err(format!(
            "there is no certificate in {dir} (tunnel.tls.dir); say the --fingerprint that the server prints when it \
             starts, or start it once. If its unit or --set gives it another folder, it is there"
        )));
    }
    // Whose the server is to be, its clients file tells best: the folder may not be there yet.
    if !is_ours(&tls.dir) || !is_ours(&site.clients) {
        let why = format!(
            "there is no certificate in {dir} yet, and the server is another user's; start it once, or say --fingerprint"
        );
        return Ok(Err(why));
    }
    create_clients_file(&site.clients)?;
    Ok(match certificate::load(config) {
        Ok(made) => {
            done("made", &format!("the server's authority and certificate in {dir}, by which agents know it"));
            eprintln!("Start the server with the same tunnel.tls.dir.");
            Ok(made.fingerprint)
        }
        Err(error) => {
            Err(format!("there is no certificate yet, and none can be made ({error}); start the server once"))
        }
    })
}
