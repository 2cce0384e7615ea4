//! The list of clients and invitations, and how it is read from `clients.toml`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::values::{ClientId, Domain, Fingerprint};

use crate::schema::ConfigErrors;
use crate::schema::{Entry, Report, Table};
use crate::schema::{FileText, file_layer};
use crate::tenants::claim::{Claim, default_names};
use crate::tenants::list_change::ListItem as _;

/// The sections and keys at the top of the file.
pub(crate) const TOP_LEVEL: &[&str] = &["clients", "invites"];

/// The most a client's own limits may be.
const MOST_REQUESTS: usize = 1_000_000_000;
const MOST_STREAMS: usize = 1_000_000;

/// Every client and every invitation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientsFile {
    /// The clients by id. No name, domain or port belongs to two of them.
    pub clients: BTreeMap<ClientId, ClientEntry>,
    /// The invitations by [`invite_key`]. No id is invited twice, or is a client already.
    pub invites: BTreeMap<String, InviteEntry>,
}

/// A client.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientEntry {
    /// The argon2id hash of the token in PHC form (`$argon2id$…`). Never printed.
    pub token_hash: Arc<str>,
    /// The token before this one, if it was rotated. It may have expired.
    pub previous: Option<PreviousToken>,
    /// What the client may claim, names before wildcards. Never empty. Default: its own id.
    pub names: Vec<Claim>,
    /// The domains its services may have; none belongs to another client, or is below a wildcard of one. Default: none.
    pub domains: Vec<Domain>,
    /// The public ports its `tcp` services may have; no two clients overlap. Default: none.
    pub tcp_ports: Vec<RangeInclusive<u16>>,
    /// When the client may no longer log in; `None` means never.
    pub expires: Option<Timestamp>,
    /// Its own limits, where they differ from the server's defaults.
    pub limits: ClientLimits,
}

/// The token that a client had before a rotation. It stays valid for a while.
#[derive(Clone, PartialEq, Eq)]
pub struct PreviousToken {
    /// Its hash, as [`ClientEntry::token_hash`].
    pub token_hash: Arc<str>,
    /// When it expires.
    pub until: Timestamp,
}

/// Limits of one client, over all its tunnels. What is `None` is as the server's configuration says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Requests a second in the long run.
    pub requests_per_second: Option<NonZeroU32>,
    /// Requests at once before that rate counts; only together with it.
    pub burst: Option<NonZeroU32>,
    /// Requests being served at once.
    pub streams: Option<usize>,
}

/// An invitation: its code can be exchanged for a new client, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteEntry {
    /// The SHA-256 of the code.
    pub code_hash: Fingerprint,
    /// The id of the new client; `None` lets the holder of the code choose one.
    pub id: Option<ClientId>,
    /// What the new client may claim: its own id by default, and empty without one.
    pub names: Vec<Claim>,
    /// When the invitation expires.
    pub expires: Timestamp,
}

/// Returns the key of the invitation whose code has this digest: the first 8 hexadecimal digits.
pub fn invite_key(code_hash: &Fingerprint) -> String {
    code_hash.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for ClientEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the hashes.
        let Self { token_hash: _, previous, names, domains, tcp_ports, expires, limits } = self;
        let previous = previous.as_ref().map(|previous| previous.until);
        f.debug_tuple("ClientEntry").field(&(names, domains, tcp_ports, expires, limits, previous)).finish()
    }
}

impl fmt::Debug for PreviousToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PreviousToken").field(&self.until).finish()
    }
}

impl ClientEntry {
    /// Returns whether the client may no longer log in at `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// Returns the previous token if it is still valid at `now`.
    pub fn overlapping(&self, now: Timestamp) -> Option<&PreviousToken> {
        self.previous.as_ref().filter(|previous| now < previous.until)
    }
}

impl InviteEntry {
    /// Returns whether the invitation has expired at `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires <= now
    }
}

impl ClientsFile {
    /// Reads the file at `path`. Blocks.
    ///
    /// # Errors
    /// The file is missing, or all its problems.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::from_file(&read(path)?)
    }

    /// Like [`ClientsFile::load`], and returns the digest of the text. If `refuse_empty`, an empty file is an error: some
    /// editors truncate a file before they write it, and a running server must not drop all clients for that.
    ///
    /// # Errors
    /// As [`ClientsFile::load`], or the file is empty.
    pub fn load_version(path: &Path, refuse_empty: bool) -> Result<(Self, Fingerprint), ConfigErrors> {
        let file = read(path)?;
        if refuse_empty && file.text.is_empty() {
            let message = "is empty; to let nobody in any more, leave a comment in it, like `# nobody`";
            return Err(ConfigErrors::one(Some(file.path), "", message));
        }
        Ok((Self::from_file(&file)?, digest_of(&file.text)))
    }

    /// Reads `text` as the contents of `file`.
    ///
    /// # Errors
    /// All problems.
    pub fn from_text(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        Self::from_file(&FileText { path: file.to_owned(), text: text.to_owned() })
    }

    pub(crate) fn from_file(file: &FileText) -> Result<Self, ConfigErrors> {
        // Without environment and flags, which cannot change while the server runs.
        let values = file_layer(file)?;
        let report = Report::new(Some(&file.path), file.path.parent().unwrap_or(Path::new("")));
        let clients = resolve(report.root(values));
        report.finish(Some(clients))
    }

    /// Checks the list without the text it comes from: whether every name, domain and port belongs to one client.
    ///
    /// # Errors
    /// All problems.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let report = Report::new(None, Path::new(""));
        crate::tenants::ownership::check(self, &report);
        report.finish(Some(()))
    }
}

/// Returns a digest that identifies a version of the clients file.
pub(crate) fn digest_of(text: &str) -> Fingerprint {
    Fingerprint(Sha256::digest(text).into())
}

/// Reads the text of the clients file at `path`.
pub(crate) fn read(path: &Path) -> Result<FileText, ConfigErrors> {
    FileText::read(path, &format!("make one with `adit token new ID --clients {}`", path.display()))
}

pub(crate) fn resolve(mut root: Table<'_>) -> ClientsFile {
    let report = root.report();
    let mut file = ClientsFile::default();
    let mut clients = root.section("clients");
    for key in clients.names("ID") {
        let id = ClientId::new(&key).map_err(|error| report.problem(clients.key(&key), error.to_string())).ok();
        let Some(section) = clients.take(&key).and_then(Entry::table) else { continue };
        let entry = client(section, id.as_ref());
        file.clients.extend(id.map(|id| (id, entry)));
    }
    let mut invites = root.section("invites");
    for key in invites.names("KEY") {
        let Some(section) = invites.take(&key).and_then(Entry::table) else { continue };
        let entry = invite(section);
        if entry.code_hash != UNKNOWN && invite_key(&entry.code_hash) != key {
            let right = invite_key(&entry.code_hash);
            report
                .problem(invites.key(&key), format!("must be called {right}, after the first digits of its code_hash"));
        }
        file.invites.insert(key, entry);
    }
    crate::tenants::ownership::check(&file, report);
    file
}

/// Reads a client. After a problem the entry is incomplete, but what it owns can still be compared with others.
fn client(mut table: Table<'_>, id: Option<&ClientId>) -> ClientEntry {
    let token_hash = token_hash(&mut table);
    let previous = table.take("previous").and_then(Entry::table).and_then(previous);
    let names = names(&mut table, id);
    let domains = table.within("domains; `*.` before one is every host below").list("domains", Domain::new);
    let domains = domains.unwrap_or_default();
    let tcp_ports =
        table.within("ports, and ranges of them").take("tcp_ports").and_then(Entry::list).unwrap_or_default();
    let tcp_ports = tcp_ports.into_iter().filter_map(|entry| entry.parse_or_number(RangeInclusive::parse)).collect();
    let expires = table.by_default("never").within(MOMENT).parse("expires", moment);
    let limits = limits(table.section("limits"));
    let token_hash = token_hash.unwrap_or_default();
    ClientEntry { token_hash, previous, names, domains, tcp_ports, expires, limits }
}

fn token_hash(table: &mut Table<'_>) -> Option<Arc<str>> {
    let advice = "it is what `adit token new` writes and starts with $argon2id$; the token itself does not belong here";
    let hash = required(table.within("`$argon2id$…`"), "token_hash", advice)?;
    hash.parse(|text| match text.starts_with("$argon2id$") {
        true => Ok(text.into()),
        false => Err(format!("is not an argon2id hash; {advice}")),
    })
}

fn previous(mut table: Table<'_>) -> Option<PreviousToken> {
    let token_hash = token_hash(&mut table);
    let until =
        required(table.within(MOMENT), "until", "until when does the previous token hold? 2027-01-01T00:00:00Z");
    Some(PreviousToken { token_hash: token_hash?, until: until?.parse(moment)? })
}

fn names(table: &mut Table<'_>, id: Option<&ClientId>) -> Vec<Claim> {
    table.by_default("`[\"ID\"]`").within("at least one; `*.` before one is every host below");
    let Some(entries) = table.take("names").map(Entry::list) else {
        return id.map(default_names).unwrap_or_default();
    };
    if entries.as_ref().is_some_and(Vec::is_empty) {
        let message = "is empty; list a name, or leave the key out for the client's id";
        table.report().problem(table.key("names"), message);
    }
    let mut names: Vec<Claim> = entries.into_iter().flatten().filter_map(|entry| entry.parse(str::parse)).collect();
    names.sort_by_key(|claim| claim.name().is_none());
    names
}

pub(crate) fn limits(mut table: Table<'_>) -> ClientLimits {
    let positive = |number: Option<usize>| number.and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?));
    let requests_per_second = positive(table.some_number("requests_per_second", 1..=MOST_REQUESTS));
    table.by_default("a second's worth").within(", only beside `requests_per_second`");
    let burst = positive(table.some_number("burst", 1..=MOST_REQUESTS));
    let streams = table.some_number("streams", 1..=MOST_STREAMS);
    if burst.is_some() && requests_per_second.is_none() {
        let message = "needs requests_per_second beside it: it is what may come at once before that rate counts";
        table.report().problem(table.key("burst"), message);
    }
    ClientLimits { requests_per_second, burst, streams }
}

/// Stands for a code_hash that could not be read.
const UNKNOWN: Fingerprint = Fingerprint([0; 32]);

/// Reads an invitation; incomplete after a problem, like [`client`].
fn invite(mut table: Table<'_>) -> InviteEntry {
    table.within("`sha256:` and 64 digits");
    let hash = required(&mut table, "code_hash", "`adit token invite` writes it: sha256: and 64 hexadecimal digits");
    let read = |text: &str| text.parse().map_err(|_| "is not `sha256:` and 64 hexadecimal digits");
    let code_hash = hash.and_then(|entry| entry.parse(read)).unwrap_or(UNKNOWN);
    let [has_id, has_names] = ["id", "names"].map(|wanted| table.keys().iter().any(|key| key == wanted));
    let id = table.by_default("whoever has the code chooses").within("an id").parse("id", ClientId::new);
    let mut names = names(&mut table, id.as_ref());
    if has_names && !has_id {
        let message = "needs an id beside it: whoever chooses an id may claim that and nothing else";
        table.report().problem(table.key("names"), message);
        names.clear();
    }
    let expires =
        required(table.within(MOMENT), "expires", "until when does the invitation hold? 2027-01-01T00:00:00Z");
    let expires = expires.and_then(|entry| entry.parse(moment)).unwrap_or(Timestamp::MAX);
    InviteEntry { code_hash, id, names, expires }
}

fn required<'r>(table: &mut Table<'r>, key: &str, advice: &str) -> Option<Entry<'r>> {
    let entry = table.by_default("required").take(key);
    if entry.is_none() {
        table.report().problem(table.key(key), format!("is missing; {advice}"));
    }
    entry
}

/// What [`moment`] reads.
const MOMENT: &str = "a moment with its offset";

fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("`{text}` is not a moment; write it with its offset, like 2027-01-01T00:00:00Z"))
}
