//! `adit token`

mod applied;
mod files;
mod invite;
mod list;
mod refused;
mod set;

use std::ops::RangeInclusive;
use std::time::Duration;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};
use clap::Subcommand;
use jiff::Timestamp;

use super::Failure;
use crate::auth::{Token, hash};
use crate::certs::authority_fingerprint;
use crate::server::options::ServerOptions;
use crate::tenants::claim::Claim;
use crate::tenants::edit_error::EditError;
use crate::tenants::entry::ClientEntry;
use crate::tenants::list_change::ListItem as _;
use crate::values::{ClientId, Domain, Secret};
use applied::wait_until_applied;
use files::{Files, Site};
use refused::{Asked, typed};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a client and print its token, this once; the file keeps its hash
    #[command(visible_alias = "add")]
    #[command(after_help = "Examples:\n  adit token new bob --names bob,shop --expires 30d")]
    New {
        /// The client's id, which is also its first public name
        id: ClientId,
        #[command(flatten)]
        files: Files,
        /// The names it may claim, e.g. `alice,blog,*.blog` [default: its id]
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        names: Vec<Claim>,
        /// The domains its services may have, e.g. `alice.example,*.alice.example` [default: none]
        #[arg(long, value_name = "DOMAINS", value_delimiter = ',', value_parser = |text: &str| Domain::new(text))]
        domains: Vec<Domain>,
        /// The public ports its services may have, e.g. `20000-20010,25565` [default: none]
        #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = RangeInclusive::<u16>::parse)]
        tcp_ports: Vec<RangeInclusive<u16>>,
        /// When it may no longer log in: `2027-01-01T00:00:00Z`, or `30d` from now [default: never]
        #[arg(long, value_name = "WHEN", value_parser = end)]
        expires: Option<Timestamp>,
        /// Create the clients file even where no server is set up yet
        #[arg(long)]
        init: bool,
    },
    /// Change what a client may have: its names, domains and public ports, and when it expires
    Set(set::Args),
    /// Show the clients and invitations, and who is connected; a table on a terminal, and otherwise lines with tabs
    #[command(after_help = "Examples:\n  adit token list\n  adit token list | cut -f 1,5")]
    List {
        #[command(flatten)]
        files: Files,
    },
    /// Give a client a new token and print it, this once; the old one holds for a while
    #[command(after_help = "Examples:\n  adit token rotate alice --overlap 1h")]
    Rotate {
        /// The client's id
        id: ClientId,
        #[command(flatten)]
        files: Files,
        /// How long the old token holds; `0s` ends it at once
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
        overlap: Duration,
    },
    /// Remove a client, or an invitation
    #[command(visible_alias = "delete")]
    #[command(after_help = "Examples:\n  adit token revoke alice")]
    Revoke {
        /// The client's id, or the invitation's key as `adit token list` shows it
        id: String,
        #[command(flatten)]
        files: Files,
    },
    /// Invite somebody: print a code that buys a token, once
    Invite(invite::Args),
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::New { id, files, names, domains, tcp_ports, expires, init } => {
            let client = ClientEntry { names, domains, tcp_ports, expires, ..ClientEntry::default() };
            new(&files.site_or_new(init)?, &id, client)
        }
        Command::Set(args) => set::run(args),
        Command::List { files } => list::run(&files.site()?),
        Command::Rotate { id, files, overlap } => rotate(&files.site()?, &id, overlap),
        Command::Revoke { id, files } => revoke(&files.site()?, &id),
        Command::Invite(args) => invite::run(args),
    }
}

fn new(site: &Site, id: &ClientId, client: ClientEntry) -> Result<(), Failure> {
    let (token, token_hash) = fresh_token()?;
    let asked = Asked {
        id: Some(id.clone()),
        names: typed(&client.names),
        domains: typed(&client.domains),
        tcp_ports: typed(&client.tcp_ports),
    };
    let client = ClientEntry { token_hash: token_hash.into(), ..client };
    site.edit(|file| file.add_client(id, &client)).map_err(|error| asked.failure(&site.clients, error))?;
    done("added", &format!("the client `{id}` to {}", site.clients.display()));
    print_secret(token.as_secret());
    eprintln!("This is the only time the token is shown. At home, where `adit login` asks for it:");
    eprintln!("  adit login {} --id {id}{}", site.dialled(), pin_flag(site.server()));
    eprintln!("  adit http 3000");
    wait_until_applied(site)
}

/// How an agent is told by which key it knows the server; one with a certificate of the operator's own needs nothing.
fn pin_flag(server: Option<&ServerOptions>) -> String {
    match server.map(|server| &server.tunnel.tls) {
        Some(tls) if tls.own.is_some() => String::new(),
        Some(tls) => match authority_fingerprint(&tls.dir) {
            Ok(Some(fingerprint)) => format!(" --fingerprint {fingerprint}"),
            Ok(None) | Err(_) => " --fingerprint sha256:…".to_owned(),
        },
        None => " --fingerprint sha256:…".to_owned(),
    }
}

fn rotate(site: &Site, id: &ClientId, overlap: Duration) -> Result<(), Failure> {
    let file = &site.clients;
    let (token, token_hash) = fresh_token()?;
    let rotated = site.edit(|clients| clients.rotate_token(id, &token_hash, Some(overlap)));
    let until = rotated.map_err(|error| Failure::edit(file, error))?;
    done("rotated", &format!("the token of `{id}` in {}", file.display()));
    print_secret(token.as_secret());
    eprintln!("This is the only time the token is shown.");
    match until {
        Some(until) => eprintln!("The old token holds until {until}: give the agent the new one before then."),
        None => eprintln!("The old token holds no more: the agent needs the new one now."),
    }
    wait_until_applied(site)
}

fn revoke(site: &Site, id: &str) -> Result<(), Failure> {
    let file = &site.clients;
    let client = ClientId::new(id).ok().map(|id| site.edit(|clients| clients.revoke_client(&id)));
    match client {
        Some(Ok(())) => {
            done("revoked", &format!("the client `{id}` in {}: its token holds no more", file.display()));
            return wait_until_applied(site);
        }
        Some(Err(EditError::NoClient(_))) | None => {}
        Some(Err(error)) => return Err(error.into()),
    }
    match site.edit(|clients| clients.revoke_invite(id)) {
        Err(EditError::NoInvite(_)) => Err(Failure::Other(format!(
            "{}: there is no client and no invitation `{id}`; `adit token list` shows what there is",
            file.display()
        ))),
        other => {
            other?;
            done("revoked", &format!("the invitation {id} in {}: its code buys nothing any more", file.display()));
            wait_until_applied(site)
        }
    }
}

fn fresh_token() -> Result<(Token, String), Failure> {
    let token = Token::generate().map_err(Failure::other)?;
    let hashed = hash(token.as_secret()).map_err(Failure::other)?;
    Ok((token, hashed))
}

/// A secret goes to standard output alone, so that it can be piped.
fn print_secret(secret: &Secret) {
    println!("{}", secret.expose());
}

fn done(what: &str, to_what: &str) {
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    eprintln!("{green}{what}{green:#} {to_what}");
}

/// A moment, or a duration from now. In whole seconds, and not over already.
fn end(text: &str) -> Result<Timestamp, String> {
    end_at(text, Timestamp::now())
}

fn end_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let end = match (text.parse::<Timestamp>(), humantime::parse_duration(text)) {
        (Ok(end), _) => end.as_second(),
        (_, Ok(from_now)) => now.as_second().saturating_add_unsigned(from_now.as_secs()),
        _ => {
            return Err("write a moment with its offset, like 2027-01-01T00:00:00Z, or a duration, like 30d".to_owned());
        }
    };
    match Timestamp::from_second(end) {
        Ok(end) if end > now => Ok(end),
        Ok(_) => Err("that is over already".to_owned()),
        Err(_) => Err("that is too far away".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_moment_or_a_duration_from_now() {
        let now: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        for (text, end) in [
            ("2027-01-01T02:00:00+02:00", "2027-01-01T00:00:00Z"),
            ("30d", "2026-01-31T00:00:00Z"),
            ("1h 30m", "2026-01-01T01:30:00Z"),
        ] {
            assert_eq!(end_at(text, now).map(|end| end.to_string()), Ok(end.to_owned()), "{text}");
        }
        for (text, problem) in [
            ("2025-12-31T00:00:00Z", "over already"),
            ("0s", "over already"),
            ("2027-01-01", "write a moment"),
            ("soon", "write a moment"),
            ("9000000years", "too far away"),
        ] {
            assert!(end_at(text, now).unwrap_err().contains(problem), "{text}: {:?}", end_at(text, now));
        }
    }
}
