//! The list of clients and invitations, and how it is read from `clients.toml`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::values::{ClientId, Domain, Fingerprint};

use crate::schema::{ConfigErrors, Entry, FileText, Key, Report, Section as _, Table, file_layer, key};
use crate::tenants::claim::{Claim, default_names};
use crate::tenants::client_limits::ClientLimits;
use crate::tenants::list_change::ListItem as _;

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

/// Reads a client. After a problem the entry is incomplete, but what it owns can still be compared with others.
fn client(mut table: Table<'_>, id: Option<&ClientId>) -> ClientEntry {
    let token_hash = token_hash(&mut table, "The argon2id hash of the token.");
    let previous = table.take("previous", &key::any("").of_section()).and_then(Entry::table).and_then(previous);
    let doc = "The names that the client may claim; no name belongs to two clients. `\"*.alice\"` lets its service `alice` \
               answer for every host below that name, too; `\"alice\"` itself has to be listed beside it.";
    let names = names(&mut table, id, doc);
    let domains = key::list("domains; `*.` before one is every host below", Domain::new).doc(
        "The client's own domains, `[\"blog.alice.example\", \"*.alice.example\"]`; `*.` is every host below, at any depth. \
         None belongs to two clients, and none is below another client's `*.`.",
    );
    let domains = table.get("domains", domains);
    let tcp_ports = Key::new("ports, and ranges of them", |entry| {
        Some(entry.list()?.into_iter().filter_map(|entry| entry.parse_or_number(RangeInclusive::parse)).collect())
    });
    let tcp_ports = tcp_ports.or("none", Vec::new()).doc(
        "Ranges and single ports, `[\"20000-20010\", 25565]`, for the client's `tcp` services; none belongs to two clients.",
    );
    let tcp_ports = table.get("tcp_ports", tcp_ports);
    let expires = key::text(MOMENT, moment).without("never");
    let expires = table.get("expires", expires.doc("When the client's logins end: `2027-01-01T00:00:00Z`."));
    let limits = ClientLimits::read(&mut table.section("limits"));
    let token_hash = token_hash.unwrap_or_default();
    ClientEntry { token_hash, previous, names, domains, tcp_ports, expires, limits }
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

fn names(table: &mut Table<'_>, id: Option<&ClientId>, doc: &'static str) -> Vec<Claim> {
    let key = key::any("at least one; `*.` before one is every host below").without("`[\"ID\"]`").doc(doc);
    let Some(entries) = table.take("names", &key).map(Entry::list) else {
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

/// Stands for a code_hash that could not be read.
const UNKNOWN: Fingerprint = Fingerprint([0; 32]);

/// Reads an invitation; incomplete after a problem, like [`client`].
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
    let mut names = names(&mut table, id.as_ref(), doc);
    if has_names && !has_id {
        let message = "needs an id beside it: whoever chooses an id may claim that and nothing else";
        table.report().problem(table.key("names"), message);
        names.clear();
    }
    let expires = key::text(MOMENT, moment).required("until when does the invitation hold? 2027-01-01T00:00:00Z");
    let expires = table.get("expires", expires.doc("When the code stops working.")).unwrap_or(Timestamp::MAX);
    InviteEntry { code_hash, id, names, expires }
}

/// What [`moment`] reads.
const MOMENT: &str = "a moment with its offset";

fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("`{text}` is not a moment; write it with its offset, like 2027-01-01T00:00:00Z"))
}
