//! `clients.toml`: who may log in and what is theirs, and who is invited.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::values::{ClientId, Domain, Fingerprint, Name};

pub use crate::tenants::claim::Claim;

use crate::schema::{ConfigErrors, Entry, FileText, Key, Report, Section as _, Table, file_layer, key};
use crate::tenants::limits::ClientLimits;

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
    for (key, section) in root.section("clients").named_sections("ID") {
        let id = ClientId::new(&key).map_err(|error| report.problem(format!("clients.{key}"), error.to_string())).ok();
        let entry = client(section, id.as_ref());
        file.clients.extend(id.map(|id| (id, entry)));
    }
    for (key, section) in root.section("invites").named_sections("KEY") {
        let entry = invite(section);
        if entry.code_hash != UNKNOWN && invite_key(&entry.code_hash) != key {
            let right = invite_key(&entry.code_hash);
            report.problem(
                format!("invites.{key}"),
                format!("must be called {right}, after the first digits of its code_hash"),
            );
        }
        file.invites.insert(key, entry);
    }
    crate::tenants::ownership::check(&file, report);
    file
}

/// With a problem the entry is not what was meant, but what belongs to the client can still be compared.
fn client(mut table: Table<'_>, id: Option<&ClientId>) -> ClientEntry {
    let token_hash = token_hash(&mut table, "The argon2id hash of the token.");
    let previous = table.take("previous", &key::any("").of_section()).and_then(Entry::table).and_then(previous);
    let doc = "The names that the client may claim; no name belongs to two clients. `\"*.alice\"` lets its service `alice` \
               answer for every host below that name, too; `\"alice\"` itself has to be listed beside it.";
    let (names, wildcards) = names(&mut table, id, doc);
    let domains = key::list("domains; `*.` before one is every host below", Domain::new).doc(
        "The client's own domains, `[\"blog.alice.example\", \"*.alice.example\"]`; `*.` is every host below, at any depth. \
         None belongs to two clients, and none is below another client's `*.`.",
    );
    let domains = table.get("domains", domains);
    let tcp_ports = Key::new("ports, and ranges of them", |entry| {
        Some(entry.list()?.into_iter().filter_map(|entry| entry.parse_or_number(port_range)).collect())
    });
    let tcp_ports = tcp_ports.or("none", Vec::new()).doc(
        "Ranges and single ports, `[\"20000-20010\", 25565]`, for the client's `tcp` services; none belongs to two clients.",
    );
    let tcp_ports = table.get("tcp_ports", tcp_ports);
    let expires = key::text(MOMENT, moment).without("never");
    let expires = table.get("expires", expires.doc("When the client's logins end: `2027-01-01T00:00:00Z`."));
    let limits = ClientLimits::read(&mut table.section("limits"));
    let token_hash = token_hash.unwrap_or_default();
    ClientEntry { token_hash, previous, names, wildcards, domains, tcp_ports, expires, limits }
}

fn token_hash(table: &mut Table<'_>, doc: &'static str) -> Option<Arc<str>> {
    let advice = "it is what `adit token new` writes and starts with $argon2id$; the token itself does not belong here";
    let hash = key::text("`$argon2id$…`", move |text| match text.starts_with("$argon2id$") {
        true => Ok(text.into()),
        false => Err(format!("is not an argon2id hash; {advice}")),
    });
    table.get("token_hash", hash.required(advice).doc(doc))
}

fn previous(mut table: Table<'_>) -> Option<PreviousToken> {
    let doc = "The hash of the token before that, which `adit token rotate` keeps valid for a while.";
    let token_hash = token_hash(&mut table, doc);
    let until = key::text(MOMENT, moment).required("until when does the previous token hold? 2027-01-01T00:00:00Z");
    let until = table.get("until", until.doc("When the previous token stops working."));
    Some(PreviousToken { token_hash: token_hash?, until: until? })
}

fn names(table: &mut Table<'_>, id: Option<&ClientId>, doc: &'static str) -> (Vec<Name>, Vec<Name>) {
    let key = key::any("at least one; `*.` before one is every host below").without("`[\"ID\"]`").doc(doc);
    let Some(entries) = table.take("names", &key).map(Entry::list) else {
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

/// Stands for a code_hash that could not be read.
const UNKNOWN: Fingerprint = Fingerprint([0; 32]);

/// As [`client`], with a problem it is not what was meant.
fn invite(mut table: Table<'_>) -> InviteEntry {
    let read = |text: &str| text.parse().map_err(|_| "is not `sha256:` and 64 hexadecimal digits");
    let hash = key::text("`sha256:` and 64 digits", read)
        .required("`adit token invite` writes it: sha256: and 64 hexadecimal digits")
        .doc("The SHA-256 of an invitation's code. `KEY` is the first 8 of its digits.");
    let code_hash = table.get("code_hash", hash).unwrap_or(UNKNOWN);
    let [has_id, has_names] = ["id", "names"].map(|key| table.has(key));
    let id = key::text("an id", ClientId::new).without("the new client chooses");
    let id =
        table.get("id", id.doc("The client that is invited. It is not a client yet, and has no other invitation."));
    let doc = "The names that the new client may claim, as above. Requires `id`.";
    let (mut names, mut wildcards) = names(&mut table, id.as_ref(), doc);
    if has_names && !has_id {
        let message = "needs an id beside it: whoever chooses an id may claim that and nothing else";
        table.report().problem(table.key("names"), message);
        (names, wildcards) = (Vec::new(), Vec::new());
    }
    let expires = key::text(MOMENT, moment).required("until when does the invitation hold? 2027-01-01T00:00:00Z");
    let expires = table.get("expires", expires.doc("When the code stops working.")).unwrap_or(Timestamp::MAX);
    InviteEntry { code_hash, id, names, wildcards, expires }
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
