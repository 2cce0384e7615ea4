//! Checks that every name, domain and port belongs to one client. Takes O(n log n) time: there may be many thousands.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::RangeInclusive;

use crate::schema::Report;
use crate::tenants::claim::Claim;
use crate::tenants::entry::{ClientEntry, ClientsFile, InviteEntry};
use crate::values::{ClientId, Domain, Name};

/// Reports everything that belongs to two clients or invitations.
pub(crate) fn check(file: &ClientsFile, report: &Report) {
    check_names(file, report);
    check_domains(&file.clients, report);
    check_ports(&file.clients, report);
}

#[derive(Clone, Copy)]
enum Owner<'f> {
    Client(&'f ClientId),
    Invite(&'f str, &'f InviteEntry),
}

impl<'f> Owner<'f> {
    /// The client, or the one that the invitation is for.
    fn id(self) -> Option<&'f ClientId> {
        match self {
            Self::Client(id) => Some(id),
            Self::Invite(_, invite) => invite.id.as_ref(),
        }
    }

    fn is(self, other: Self) -> bool {
        match (self, other) {
            (Self::Client(one), Self::Client(other)) => one == other,
            (Self::Invite(one, _), Self::Invite(other, _)) => one == other,
            _ => false,
        }
    }

    fn path(self) -> String {
        match self {
            Self::Client(id) => format!("clients.{id}"),
            Self::Invite(key, _) => format!("invites.{key}"),
        }
    }
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(id) => id.fmt(f),
            Self::Invite(key, _) => write!(f, "the invitation {key}"),
        }
    }
}

fn check_names(file: &ClientsFile, report: &Report) {
    let clients = file.clients.iter().map(|(id, entry)| (Owner::Client(id), &entry.names));
    let invites = file.invites.iter().map(|(key, entry)| (Owner::Invite(key, entry), &entry.names));
    let mut owners: HashMap<&Name, Owner<'_>> = HashMap::new();
    for (owner, claims) in clients.chain(invites) {
        for name in claims.iter().filter_map(Claim::name) {
            let Some(other) = owners.insert(name, owner) else { continue };
            if other.is(owner) {
                report.problem(owner.path(), format!("`{name}` is listed twice; remove one"));
            } else if owner.id() != other.id() {
                // `check_invited` reports two that are for the same id.
                let advice = "a name belongs to one client: remove it from one of them";
                report.problem(owner.path(), format!("the name `{name}` of {owner} belongs to {other}, too; {advice}"));
            }
        }
        let mut seen = HashSet::new();
        for claim in claims {
            let Claim::Below(name) = claim else { continue };
            let path = || format!("{}.names", owner.path());
            if !seen.insert(name) {
                report.problem(path(), format!("`{claim}` is listed twice; remove one"));
            } else if !owners.get(name).is_some_and(|other| other.is(owner)) {
                let message =
                    format!("`{claim}` is for the service `{name}`, which {owner} may not claim; add `{name}`");
                report.problem(path(), message);
            }
        }
    }
    check_invited(file, report);
}

fn check_invited(file: &ClientsFile, report: &Report) {
    let mut invited: HashMap<&ClientId, &str> = HashMap::new();
    for (key, entry) in &file.invites {
        let Some(id) = &entry.id else { continue };
        let path = || format!("invites.{key}.id");
        if file.clients.contains_key(id) {
            report
                .problem(path(), format!("`{id}` is a client already; `adit token revoke {key}` ends the invitation"));
        }
        if let Some(other) = invited.insert(id, key) {
            report.problem(path(), format!("`{id}` is invited by {other}, too; `adit token revoke` ends one of them"));
        }
    }
}

fn check_domains(clients: &BTreeMap<ClientId, ClientEntry>, report: &Report) {
    let domains = || clients.iter().flat_map(|(id, entry)| entry.domains.iter().map(move |domain| (id, domain)));
    let mut owners: HashMap<&Domain, &ClientId> = HashMap::new();
    let mut below: HashMap<&str, &ClientId> = HashMap::new();
    let advice = "a domain belongs to one client: remove it from one of them";
    for (id, domain) in domains() {
        if domain.is_wildcard() {
            below.insert(domain.host(), id);
        }
        let path = || format!("clients.{id}.domains");
        match owners.insert(domain, id) {
            Some(owner) if owner == id => report.problem(path(), format!("`{domain}` is listed twice; remove one")),
            Some(owner) => {
                report.problem(path(), format!("the domain `{domain}` of {id} belongs to {owner}, too; {advice}"));
            }
            None => {}
        }
    }
    for (id, domain) in domains() {
        let mut host = domain.host();
        while let Some((_, parent)) = host.split_once('.') {
            if let Some(owner) = below.get(parent).filter(|owner| **owner != id) {
                let message =
                    format!("the domain `{domain}` of {id} is one of `*.{parent}`, which belong to {owner}; {advice}");
                report.problem(format!("clients.{id}.domains"), message);
            }
            host = parent;
        }
    }
}

fn check_ports(clients: &BTreeMap<ClientId, ClientEntry>, report: &Report) {
    let ranges = clients.iter().flat_map(|(id, entry)| entry.tcp_ports.iter().map(move |range| (range, id)));
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_by_key(|(range, id)| (*range.start(), *range.end(), *id));
    // The range with the highest end so far.
    let mut furthest: Option<(&RangeInclusive<u16>, &ClientId)> = None;
    for range in ranges {
        if let Some(other) = furthest.filter(|other| range.0.start() <= other.0.end()) {
            // The client that comes later in the alphabet gets the message.
            let ((later, id), (_, owner)) = if range.1 >= other.1 { (range, other) } else { (other, range) };
            let text = format!("{}-{}", later.start(), later.end());
            let message = match id == owner {
                true => format!("ports of {text} are listed twice; remove one"),
                false => format!("ports of {text} of {id} belong to {owner}, too; a port belongs to one client"),
            };
            report.problem(format!("clients.{id}.tcp_ports"), message);
        }
        if furthest.is_none_or(|other| range.0.end() > other.0.end()) {
            furthest = Some(range);
        }
    }
}
