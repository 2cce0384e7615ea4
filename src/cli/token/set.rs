//! `adit token set`: changes what a client may have.

use std::ops::RangeInclusive;

use clap::ArgGroup;
use jiff::Timestamp;

use super::applied::wait_until_applied;
use super::files::Files;
use super::refused::{Asked, typed};
use super::{done, end, list};
use crate::cli::Failure;
use crate::tenants::claim::Claim;
use crate::tenants::edit::{ClientChange, Listing, listing, set_client};
use crate::tenants::entry::{port_range, port_text};
use crate::values::{ClientId, Domain};

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["names", "domains", "tcp_ports", "expires"])))]
pub(super) struct Args {
    /// The client's id
    id: ClientId,
    #[command(flatten)]
    files: Files,
    /// The names it may claim: `alice,blog,*.blog` instead of those it has, `+blog` beside them, '' for its id alone
    #[arg(long, value_parser = names)]
    names: Option<Listing<Claim>>,
    /// The domains its services may have; as with --names, '' for none
    #[arg(long, value_parser = domains)]
    domains: Option<Listing<Domain>>,
    /// The public ports its services may have, like `20000-20010,25565`; as with --names, '' for none
    #[arg(long, value_name = "PORTS", value_parser = ports)]
    tcp_ports: Option<Listing<RangeInclusive<u16>>>,
    /// When it may no longer log in: `2027-01-01T00:00:00Z`, `30d` from now, or `never`
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    expires: Option<Expiry>,
}

/// When a client may no longer log in; `None`: never.
#[derive(Debug, Clone, Copy)]
struct Expiry(Option<Timestamp>);

fn names(text: &str) -> Result<Listing<Claim>, String> {
    listing(text, str::parse)
}

fn domains(text: &str) -> Result<Listing<Domain>, String> {
    listing(text, Domain::new)
}

fn ports(text: &str) -> Result<Listing<RangeInclusive<u16>>, String> {
    listing(text, port_range)
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" { Ok(Expiry(None)) } else { end(text).map(|end| Expiry(Some(end))) }
}

fn typed_listing<T>(listing: &Listing<T>, text_of: impl Fn(&T) -> String) -> String {
    match listing {
        Listing::Replace(items) => typed(items, text_of).unwrap_or_else(|| "''".to_owned()),
        Listing::Add(items) => format!("+{}", typed(items, text_of).unwrap_or_default()),
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let Args { id, files, names, domains, tcp_ports, expires } = args;
    let site = files.site()?;
    let file = &site.clients;
    let asked = Asked {
        id: None,
        names: names.as_ref().map(|names| typed_listing(names, Claim::to_string)),
        domains: domains.as_ref().map(|domains| typed_listing(domains, Domain::to_string)),
        tcp_ports: tcp_ports.as_ref().map(|ports| typed_listing(ports, port_text)),
    };
    let changes = ClientChange { names, domains, tcp_ports, expires: expires.map(|Expiry(expires)| expires) };
    set_client(file, &id, &changes).map_err(|error| asked.name(error))?;
    done("changed", &format!("the client `{id}` in {}:", file.display()));
    list::show(file, &id)?;
    wait_until_applied(&site)
}
