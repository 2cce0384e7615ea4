//! `clients.toml`: who may log in and what is theirs, and who is invited.

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

use crate::values::{ClientId, Domain, Fingerprint, Name};

pub use crate::tenants::claim::Claim;

use crate::schema::ConfigErrors;
use crate::schema::{Entry, Report, Table};
use crate::schema::{FileText, file_layer};

/// The sections and keys at the top of the file.
pub(crate) const TOP_LEVEL: &[&str] = &["clients", "invites"];

/// The most a client's own limits may be.
const MOST_REQUESTS: usize = 1_000_000_000;
const MOST_STREAMS: usize = 1_000_000;

/// Everybody the operator has let in or invited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientsFile {
    /// By id; no name, domain or port belongs to two of them.
    pub clients: BTreeMap<ClientId, ClientEntry>,
    /// By [`invite_key`]. Nobody is invited twice, or is a client already.
    pub invites: BTreeMap<String, InviteEntry>,
}

/// One client.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientEntry {
    /// The argon2id hash of the token in PHC form (`$argon2id$…`). Not a secret like the token, but never printed.
    pub token_hash: Arc<str>,
    /// The token before this one, if it was rotated. It may be past its time.
    pub previous: Option<PreviousToken>,
    /// The names the client may claim. Never empty. Default: its own id.
    pub names: Vec<Name>,
    /// Those of the names that may also answer for every host below them (`*.alice`). Default: none.
    pub wildcards: Vec<Name>,
    /// The domains its services may have beside their names; none is another client's, or below a wildcard of one.
    /// Default: none.
    pub domains: Vec<Domain>,
    /// The public ports its `tcp` services may have; none overlaps with another's. Default: none.
    pub tcp_ports: Vec<RangeInclusive<u16>>,
    /// When the client may no longer log in; `None` means never.
    pub expires: Option<Timestamp>,
    /// What it may use, where that is not what everybody may.
    pub limits: ClientLimits,
}

/// The token that a client had before: it holds for a while, so that nobody is locked out in between.
#[derive(Clone, PartialEq, Eq)]
pub struct PreviousToken {
    /// Its hash, as [`ClientEntry::token_hash`].
    pub token_hash: Arc<str>,
    /// From then on it holds no more.
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

/// An invitation: whoever shows its code becomes a client, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteEntry {
    /// The SHA-256 of the code.
    pub code_hash: Fingerprint,
    /// Who is invited; `None`: whoever has the code chooses an id that is free.
    pub id: Option<ClientId>,
    /// The names the new client may claim: its own id by default, and empty without one.
    pub names: Vec<Name>,
    /// As [`ClientEntry::wildcards`].
    pub wildcards: Vec<Name>,
    /// From then on it holds no more.
    pub expires: Timestamp,
}

/// By what the invitation with this digest of its code is known in the file: the first 8 hexadecimal digits.
pub fn invite_key(code_hash: &Fingerprint) -> String {
    code_hash.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for ClientEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientEntry")
            .field("token_hash", &"***")
            .field("previous", &self.previous)
            .field("names", &self.names)
            .field("wildcards", &self.wildcards)
            .field("domains", &self.domains)
            .field("tcp_ports", &self.tcp_ports)
            .field("expires", &self.expires)
            .field("limits", &self.limits)
            .finish()
    }
}

impl fmt::Debug for PreviousToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreviousToken").field("token_hash", &"***").field("until", &self.until).finish()
    }
}

impl ClientEntry {
    /// Whether the client may no longer log in at `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// The previous token, while it still holds at `now`.
    pub fn overlapping(&self, now: Timestamp) -> Option<&PreviousToken> {
        self.previous.as_ref().filter(|previous| now < previous.until)
    }
}

impl InviteEntry {
    /// Whether the invitation holds no more at `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires <= now
    }
}

impl ClientsFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// The file is missing, or everything that is wrong with it, at once.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::from_file(&read(path)?)
    }

    /// As [`ClientsFile::load`], with the digest of what was read.
    ///
    /// # Errors
    /// As [`ClientsFile::load`].
    pub fn load_digested(path: &Path) -> Result<(Self, Fingerprint), ConfigErrors> {
        let file = read(path)?;
        Ok((Self::from_file(&file)?, digest_of(&file.text)))
    }

    /// Reads `path` while a server runs by what it said before. An editor may be writing it just now, and many empty a
    /// file before they write, so one without a byte is refused: it would send everybody away. With the digest of what
    /// was read.
    ///
    /// # Errors
    /// As [`ClientsFile::load`], and the file is empty.
    pub fn load_again(path: &Path) -> Result<(Self, Fingerprint), ConfigErrors> {
        let file = read(path)?;
        if file.text.is_empty() {
            let message = "is empty; to let nobody in any more, leave a comment in it, like `# nobody`";
            return Err(ConfigErrors::one(Some(file.path), "", message));
        }
        Ok((Self::from_file(&file)?, digest_of(&file.text)))
    }

    /// Resolves `text` as if it had been read from `file`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        Self::from_file(&FileText { path: file.to_owned(), text: text.to_owned() })
    }

    pub(crate) fn from_file(file: &FileText) -> Result<Self, ConfigErrors> {
        // Neither environment nor flags: the file can change while the server runs, they cannot.
        let values = file_layer(file)?;
        let report = Report::new(Some(&file.path), file.path.parent().unwrap_or(Path::new("")));
        let clients = resolve(report.root(values));
        report.finish(Some(clients))
    }
}

/// A digest that identifies a version of the clients file.
pub(crate) fn digest_of(text: &str) -> Fingerprint {
    Fingerprint(Sha256::digest(text).into())
}

fn read(path: &Path) -> Result<FileText, ConfigErrors> {
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

/// With a problem the entry is not what was meant, but what belongs to the client can still be compared.
fn client(mut table: Table<'_>, id: Option<&ClientId>) -> ClientEntry {
    let token_hash = token_hash(&mut table);
    let previous = table.take("previous").and_then(Entry::table).and_then(previous);
    let (names, wildcards) = names(&mut table, id);
    let domains = table.within("domains; `*.` before one is every host below").list("domains", Domain::new);
    let domains = domains.unwrap_or_default();
    let tcp_ports =
        table.within("ports, and ranges of them").take("tcp_ports").and_then(Entry::list).unwrap_or_default();
    let tcp_ports = tcp_ports.into_iter().filter_map(|entry| entry.parse_or_number(port_range)).collect();
    let expires = table.by_default("never").within(MOMENT).parse("expires", moment);
    let limits = limits(table.section("limits"));
    let token_hash = token_hash.unwrap_or_default();
    ClientEntry { token_hash, previous, names, wildcards, domains, tcp_ports, expires, limits }
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

fn names(table: &mut Table<'_>, id: Option<&ClientId>) -> (Vec<Name>, Vec<Name>) {
    table.by_default("`[\"ID\"]`").within("at least one; `*.` before one is every host below");
    let Some(entries) = table.take("names").map(Entry::list) else {
        return (id.cloned().map(Name::from).into_iter().collect(), Vec::new());
    };
    if entries.as_ref().is_some_and(Vec::is_empty) {
        let message = "is empty; list a name, or leave the key out for the client's id";
        table.report().problem(table.key("names"), message);
    }
    let (mut names, mut wildcards) = (Vec::new(), Vec::new());
    for claim in entries.into_iter().flatten().filter_map(|entry| entry.parse(str::parse)) {
        match claim {
            Claim::Name(name) => names.push(name),
            Claim::Below(name) => wildcards.push(name),
        }
    }
    (names, wildcards)
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

/// As [`client`], with a problem it is not what was meant.
fn invite(mut table: Table<'_>) -> InviteEntry {
    table.within("`sha256:` and 64 digits");
    let hash = required(&mut table, "code_hash", "`adit token invite` writes it: sha256: and 64 hexadecimal digits");
    let read = |text: &str| text.parse().map_err(|_| "is not `sha256:` and 64 hexadecimal digits");
    let code_hash = hash.and_then(|entry| entry.parse(read)).unwrap_or(UNKNOWN);
    let [has_id, has_names] = ["id", "names"].map(|wanted| table.keys().iter().any(|key| key == wanted));
    let id = table.by_default("whoever has the code chooses").within("an id").parse("id", ClientId::new);
    let (mut names, mut wildcards) = names(&mut table, id.as_ref());
    if has_names && !has_id {
        let message = "needs an id beside it: whoever chooses an id may claim that and nothing else";
        table.report().problem(table.key("names"), message);
        (names, wildcards) = (Vec::new(), Vec::new());
    }
    let expires =
        required(table.within(MOMENT), "expires", "until when does the invitation hold? 2027-01-01T00:00:00Z");
    let expires = expires.and_then(|entry| entry.parse(moment)).unwrap_or(Timestamp::MAX);
    InviteEntry { code_hash, id, names, wildcards, expires }
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

/// A range of ports as the file has it.
pub fn port_text(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// Reads `20000-20010`, or one port.
///
/// # Errors
/// It is neither; the message says how to write one.
pub fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(first..=last),
        _ => Err(format!("`{text}` is not a range of ports; write one like 20000-20010, or a single port")),
    }
}
