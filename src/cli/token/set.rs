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
use crate::tenants::edit::ClientChange;
use crate::tenants::list_change::{ListChange, ListItem};
use crate::values::{ClientId, Domain};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  adit token set alice --names +blog\n  adit token set alice --tcp-ports 20000-20010 --expires 30d"
)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["names", "domains", "tcp_ports", "expires"])))]
pub(super) struct Args {
    /// The client's id
    id: ClientId,
    #[command(flatten)]
    files: Files,
    /// The names it may claim: `alice,blog,*.blog` instead of those it has, `+blog` beside them, '' for its id alone
    #[arg(long, value_parser = ListChange::<Claim>::parse)]
    names: Option<ListChange<Claim>>,
    /// The domains its services may have; as with --names, '' for none
    #[arg(long, value_parser = ListChange::<Domain>::parse)]
    domains: Option<ListChange<Domain>>,
    /// The public ports its services may have, like `20000-20010,25565`; as with --names, '' for none
    #[arg(long, value_name = "PORTS", value_parser = ListChange::<RangeInclusive<u16>>::parse)]
    tcp_ports: Option<ListChange<RangeInclusive<u16>>>,
    /// When it may no longer log in: `2027-01-01T00:00:00Z`, `30d` from now, or `never`
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    expires: Option<Expiry>,
}

/// When the logins of a client end; `None` means never.
#[derive(Debug, Clone, Copy)]
struct Expiry(Option<Timestamp>);

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" { Ok(Expiry(None)) } else { end(text).map(|end| Expiry(Some(end))) }
}

/// Returns a change as it is typed.
fn typed_change<T: ListItem>(change: &ListChange<T>) -> String {
    match change {
        ListChange::Replace(items) => typed(items).unwrap_or_else(|| "''".to_owned()),
        ListChange::Add(items) => format!("+{}", typed(items).unwrap_or_default()),
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let Args { id, files, names, domains, tcp_ports, expires } = args;
    let site = files.site()?;
    let file = &site.clients;
    let asked = Asked {
        id: None,
        names: names.as_ref().map(typed_change),
        domains: domains.as_ref().map(typed_change),
        tcp_ports: tcp_ports.as_ref().map(typed_change),
    };
    let changes = ClientChange { names, domains, tcp_ports, expires: expires.map(|Expiry(expires)| expires) };
    site.edit(|file| file.set_client(&id, &changes)).map_err(|error| asked.failure(file, error))?;
    done("changed", &format!("the client `{id}` in {}:", file.display()));
    list::show(file, &id)?;
    wait_until_applied(&site)
}
