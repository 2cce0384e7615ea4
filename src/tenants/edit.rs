//! Changes to `clients.toml` that leave every comment and line of the operator where it was.
//!
//! Each is one step: a reader sees the old file or the new one, two writers take turns by a lock file beside it, and
//! what would not load is not written. The digest of what was written is noted in that lock file, so that the server can
//! tell a change by command from a file that somebody is still editing ([`was_written_by_command`]). They block while another one writes. Owner and mode of the file stay: an
//! operator who is root must not lock the server out of its own file.

mod error;
mod places;
#[cfg(test)]
mod properties;
mod set;
#[cfg(test)]
mod tests;
mod text;

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::files::{self, Lock, Readers};
use crate::values::{ClientId, Domain, Fingerprint, Name, is_reserved_for_operator};

pub use error::{EditError, RedeemError};
pub use set::{ClientChange, Listing, listing, set_client};

use self::text::{Comments, NotThere, add, inline, insert_after, list, quoted, remove, set};
use crate::schema::ConfigErrors;
use crate::schema::FileText;
use crate::tenants::claim::{Claim, claims_of};
use crate::tenants::entry::{ClientsFile, digest_of, invite_key, port_text};

/// What is left in the file when the last client has gone. A file without a byte is what an editor leaves while it
/// writes, so a running server does not believe it ([`ClientsFile::load_again`]).
const NOBODY: &str = "# Nobody may log in.\n";

/// A client to add.
#[derive(Clone, Default)]
pub struct NewClient {
    /// The argon2id hash of its token.
    pub token_hash: String,
    /// What it may claim; nothing: its own id.
    pub names: Vec<Claim>,
    /// The domains that its services may have.
    pub domains: Vec<Domain>,
    /// The public ports that its services may have.
    pub tcp_ports: Vec<RangeInclusive<u16>>,
    /// When it may no longer log in.
    pub expires: Option<Timestamp>,
}

/// An invitation to add.
#[derive(Debug, Clone)]
pub struct NewInvite {
    /// The SHA-256 of its code.
    pub code_hash: Fingerprint,
    /// Who is invited; `None`: whoever has the code chooses.
    pub id: Option<ClientId>,
    /// What the new client may claim; nothing: its own id. Only together with `id`.
    pub names: Vec<Claim>,
    /// When it holds no more.
    pub expires: Timestamp,
}

/// An invitation that another one has taken the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its key.
    pub key: String,
    /// The names that the new one has from it, because it names none itself; nothing: the id alone.
    pub kept: Vec<Claim>,
}

/// What an invitation has bought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// The new client.
    pub id: ClientId,
    /// The names it may claim.
    pub names: Vec<Name>,
}

/// Adds a client to the clients file at `path`, and makes the file (0600) if there is none, and the folder that it is to be
/// in. Invitations that have expired go, so that none of them is in the way.
///
/// # Errors
/// The client or an invitation for it is there already, something of it belongs to somebody else, or the file cannot
/// be used or written; it is then as it was.
pub fn add_client(path: &Path, id: &ClientId, client: &NewClient) -> Result<(), EditError> {
    change(path, Missing::MakeOne, |draft| {
        draft.remove_expired_invites(Timestamp::now())?;
        draft.refuse_taken(path, id)?;
        draft.add_client(id, client)
    })
}

/// Begins a clients file at `path`, as [`add_client`] makes one, in which nobody is. One that is there stays as it is.
///
/// # Errors
/// The file cannot be used or written.
pub fn begin_clients_file(path: &Path) -> Result<(), EditError> {
    change(path, Missing::MakeOne, |_| Ok(()))
}

/// What [`begin_clients_file`] would stumble over. Makes nothing.
///
/// # Errors
/// As there.
pub fn look_at_beginning(path: &Path) -> Result<(), ConfigErrors> {
    let directory = files::directory_of(path);
    let look = files::refuse_foreign(path).and_then(|()| Lock::look(directory));
    look.and_then(|()| files::look_at_place(directory))
        .map_err(|error| ConfigErrors::one(Some(path.to_owned()), "", format!("cannot be made: {error}")))
}

/// Gives the client `id` another token. The one it has now holds on for `overlap`, in whole seconds, and the answer says
/// until when; the one before that ends at once.
///
/// # Errors
/// There is no such client, or the file cannot be used or written; it is then as it was.
pub fn rotate_token(
    path: &Path,
    id: &ClientId,
    new_hash: &str,
    overlap: Option<Duration>,
) -> Result<Option<Timestamp>, EditError> {
    change(path, Missing::Refuse, |draft| {
        let no_client = || EditError::NoClient { file: path.to_owned(), id: id.clone() };
        let entry = draft.file.clients.get(id).ok_or_else(no_client)?;
        let (old_hash, has_previous) = (quoted(&entry.token_hash), entry.previous.is_some());
        let client = ["clients", id.as_str()];
        let [hash, previous] = ["token_hash", "previous"].map(|key| [client[0], client[1], key]);
        let until = overlap.filter(|overlap| overlap.as_secs() > 0).map(|overlap| after(Timestamp::now(), overlap));
        match until {
            Some(until) if has_previous => {
                draft.edit(|text| set(text, &[&previous[..], &["token_hash"]].concat(), &old_hash))?;
                draft.edit(|text| set(text, &[&previous[..], &["until"]].concat(), &until.to_string()))?;
            }
            Some(until) => {
                let value = inline(&[("token_hash", old_hash), ("until", until.to_string())]);
                draft.edit(|text| insert_after(text, &hash, "previous", &value))?;
            }
            None if has_previous => draft.edit(|text| remove(text, &previous, Comments::Stay))?,
            None => {}
        }
        draft.edit(|text| set(text, &hash, &quoted(new_hash)))?;
        Ok(until)
    })
}

/// Removes the client `id` with the comments that belong to it: those on its lines and between them, and those
/// directly above or below without a blank line.
///
/// # Errors
/// There is no such client, or the file cannot be used or written; it is then as it was.
pub fn revoke_client(path: &Path, id: &ClientId) -> Result<(), EditError> {
    change(path, Missing::Refuse, |draft| {
        if !draft.file.clients.contains_key(id) {
            return Err(EditError::NoClient { file: path.to_owned(), id: id.clone() });
        }
        draft.edit(|text| remove(text, &["clients", id.as_str()], Comments::Go))
    })
}

/// Adds an invitation, as [`add_client`] adds a client, and gives its key.
///
/// # Errors
/// As [`add_client`].
pub fn add_invite(path: &Path, invite: &NewInvite) -> Result<String, EditError> {
    invite_with(path, invite, |_| Ok(invite.names.clone()))
}

/// As [`add_invite`], in place of an invitation of the same id that nobody has used, whose names stay if `invite` has none.
/// Gives the key, and the one before.
///
/// # Errors
/// As [`add_client`], but for that invitation.
pub fn replace_invite(path: &Path, invite: &NewInvite) -> Result<(String, Option<Replaced>), EditError> {
    let mut before = None;
    let key = invite_with(path, invite, |draft| {
        let unused = invite.id.as_ref().and_then(|id| draft.invite_of(id)).cloned();
        if let Some(key) = &unused {
            draft.edit(|text| remove(text, &["invites", key], Comments::Go))?;
        }
        let unused = unused.and_then(|key| draft.file.invites.remove_entry(&key));
        let of_it = unused.as_ref().filter(|_| invite.names.is_empty());
        let kept = of_it.map(|(_, entry)| claims_of(&entry.names, &entry.wildcards)).unwrap_or_default();
        let kept = if names_field(invite.id.as_ref(), &kept).is_some() { kept } else { Vec::new() };
        before = unused.map(|(key, _)| Replaced { key, kept: kept.clone() });
        Ok(if kept.is_empty() { invite.names.clone() } else { kept })
    })?;
    Ok((key, before))
}

fn invite_with(
    path: &Path,
    invite: &NewInvite,
    names: impl FnOnce(&mut Draft) -> Result<Vec<Claim>, EditError>,
) -> Result<String, EditError> {
    change(path, Missing::MakeOne, |draft| {
        draft.remove_expired_invites(Timestamp::now())?;
        let names = names(draft)?;
        if let Some(id) = &invite.id {
            draft.refuse_taken(path, id)?;
        }
        let key = invite_key(&invite.code_hash);
        if draft.file.invites.contains_key(&key) {
            return Err(EditError::InviteExists { file: path.to_owned(), key });
        }
        let mut fields = vec![("code_hash", quoted(&invite.code_hash.to_string()))];
        fields.extend(invite.id.iter().map(|id| ("id", quoted(id.as_str()))));
        fields.extend(names_field(invite.id.as_ref(), &names));
        fields.push(("expires", invite.expires.to_string()));
        draft.edit(|text| add(text, "invites", &key, &fields))?;
        Ok(key)
    })
}

/// Removes an invitation, as [`revoke_client`] removes a client.
///
/// # Errors
/// There is no such invitation, or the file cannot be used or written; it is then as it was.
pub fn revoke_invite(path: &Path, key: &str) -> Result<(), EditError> {
    change(path, Missing::Refuse, |draft| {
        if !draft.file.invites.contains_key(key) {
            return Err(EditError::NoInvite { file: path.to_owned(), key: key.to_owned() });
        }
        draft.edit(|text| remove(text, &["invites", key], Comments::Go))
    })
}

/// Turns the invitation whose code has this digest into a client with this token, in one step: whoever comes second
/// finds no invitation. `id` is what the invited one chose; it may be left out if the invitation says who is meant.
///
/// # Errors
/// A [`RedeemError`]; the file is then as it was.
pub fn redeem_invite(
    path: &Path,
    code_digest: &Fingerprint,
    id: Option<&ClientId>,
    token_hash: &str,
) -> Result<Redeemed, RedeemError> {
    change(path, Missing::Refuse, |draft| {
        let key = invite_key(code_digest);
        let invite = draft.file.invites.remove(&key).filter(|invite| invite.code_hash == *code_digest);
        let invite = invite.ok_or(RedeemError::NoSuchInvite)?;
        let now = Timestamp::now();
        if invite.has_expired(now) {
            return Err(RedeemError::Expired);
        }
        let id = match (invite.id, id) {
            (Some(invited), Some(chosen)) if invited != *chosen => return Err(RedeemError::OtherId(chosen.clone())),
            (Some(invited), _) => invited,
            (None, chosen) => chosen.filter(|id| !is_reserved_for_operator(id.as_str())).cloned().ok_or_else(|| {
                chosen.map_or(RedeemError::IdNeeded, |reserved| RedeemError::IdReserved(reserved.clone()))
            })?,
        };
        draft.edit(|text| remove(text, &["invites", &key], Comments::Go))?;
        draft.remove_expired_invites(now)?;
        let names = claims_of(&invite.names, &invite.wildcards);
        if draft.is_taken(&id) {
            return Err(RedeemError::IdTaken(id));
        }
        let client = NewClient { token_hash: token_hash.to_owned(), names, ..NewClient::default() };
        draft.add_client(&id, &client)?;
        let names = if invite.names.is_empty() { vec![id.clone().into()] } else { invite.names };
        Ok(Redeemed { id, names })
    })
}

/// What a change does where there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    MakeOne,
    Refuse,
}

/// The file while it is changed.
struct Draft {
    text: FileText,
    /// What was in it before the change.
    file: ClientsFile,
}

/// Makes a change to the file at `path`, or none.
fn change<T, E: From<EditError>>(
    path: &Path,
    missing: Missing,
    edit: impl FnOnce(&mut Draft) -> Result<T, E>,
) -> Result<T, E> {
    // The file behind a link is the one to change, and its directory the one to write in.
    files::refuse_foreign(path).map_err(EditError::Io)?;
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let lock = lock_beside(&target, missing).map_err(EditError::Io)?;
    let hint = format!("make one with `adit token new ID --clients {}`", path.display());
    let text = match FileText::read(&target, &hint) {
        Err(_) if missing == Missing::MakeOne && !target.exists() => FileText { path: target, text: String::new() },
        read => read.map_err(EditError::Invalid)?,
    };
    let file = ClientsFile::from_file(&text).map_err(EditError::Invalid)?;
    let before = digest_of(&text.text);
    let mut draft = Draft { text, file };
    if draft.text.text == NOBODY {
        // What comes now would make a lie of it.
        draft.text.text.clear();
    }
    let outcome = edit(&mut draft)?;
    let mut text = draft.text;
    if text.text.is_empty() {
        NOBODY.clone_into(&mut text.text);
    }
    ClientsFile::from_file(&text).map_err(EditError::Refused)?;
    // Without the note the server treats the change as an edit by hand, which it may delay.
    let mut note = digest_of(&text.text).to_string();
    if was_written_by_command(&text.path, &before) {
        // The server may be about to read the text from before.
        note = format!("{note} {before}");
    }
    let _ = lock.note(&note);
    files::replace(&text.path, text.text.as_bytes(), Readers::Owner).map_err(EditError::Io)?;
    Ok(outcome)
}

/// Returns whether a command or the API wrote the version with this digest to the clients file at `path`, in one step.
/// Blocks.
pub fn was_written_by_command(path: &Path, digest: &Fingerprint) -> bool {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let digest = digest.to_string();
    Lock::noted(files::directory_of(&target)).is_some_and(|note| note.split(' ').any(|noted| noted == digest))
}

/// The folder is made with the file, like `config` in a new place. A longer path that is not there is more likely mistyped.
fn lock_beside(file: &Path, missing: Missing) -> io::Result<Lock> {
    let directory = files::directory_of(file);
    if missing == Missing::MakeOne && !directory.exists() && files::directory_of(directory).is_dir() {
        files::make_folder(directory)?;
    }
    directory.metadata().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))?;
    Lock::wait(directory)
}

impl Draft {
    fn edit(&mut self, edit: impl FnOnce(&str) -> Result<String, NotThere>) -> Result<(), EditError> {
        self.text.text = edit(&self.text.text).map_err(|NotThere| {
            let message = "is written in a way that cannot be changed here; change it by hand";
            ConfigErrors::one(Some(self.text.path.clone()), "", message)
        })?;
        Ok(())
    }

    fn add_client(&mut self, id: &ClientId, client: &NewClient) -> Result<(), EditError> {
        let mut fields = vec![("token_hash", quoted(&client.token_hash))];
        fields.extend(names_field(Some(id), &client.names));
        let domains = distinct(&client.domains, PartialEq::eq);
        fields.extend((!domains.is_empty()).then(|| ("domains", list(&domains))));
        let ports: Vec<_> = distinct(&client.tcp_ports, contains).into_iter().map(port_text).collect();
        fields.extend((!ports.is_empty()).then(|| ("tcp_ports", list(&ports))));
        fields.extend(client.expires.map(|expires| ("expires", expires.to_string())));
        self.edit(|text| add(text, "clients", id.as_str(), &fields))
    }

    fn remove_expired_invites(&mut self, now: Timestamp) -> Result<(), EditError> {
        for (key, _) in self.file.invites.extract_if(.., |_, invite| invite.has_expired(now)).collect::<Vec<_>>() {
            self.edit(|text| remove(text, &["invites", &key], Comments::Go))?;
        }
        Ok(())
    }

    fn refuse_taken(&self, path: &Path, id: &ClientId) -> Result<(), EditError> {
        let file = || path.to_owned();
        if self.file.clients.contains_key(id) {
            return Err(EditError::ClientExists { file: file(), id: id.clone() });
        }
        match self.invite_of(id) {
            Some(key) => Err(EditError::Invited { file: file(), id: id.clone(), key: key.clone() }),
            None => Ok(()),
        }
    }

    /// The key of the invitation for `id`, if there is one.
    fn invite_of(&self, id: &ClientId) -> Option<&String> {
        let mut invites = self.file.invites.iter();
        invites.find(|(_, invite)| invite.id.as_ref() == Some(id)).map(|(key, _)| key)
    }

    /// Whether somebody is called `id`, will be, or may claim that name.
    fn is_taken(&self, id: &ClientId) -> bool {
        let claims = |names: &[Name]| names.iter().any(|name| name.as_str() == id.as_str());
        self.file.clients.contains_key(id)
            || self.file.clients.values().any(|client| claims(&client.names))
            || self.file.invites.values().any(|invite| invite.id.as_ref() == Some(id) || claims(&invite.names))
    }
}

/// `names`, unless they are what they would be anyway.
fn names_field(id: Option<&ClientId>, names: &[Claim]) -> Option<(&'static str, String)> {
    let names = distinct(names, PartialEq::eq);
    let by_default = |id: &ClientId| matches!(&*names, [Claim::Name(name)] if name.as_str() == id.as_str());
    (!names.is_empty() && !id.is_some_and(by_default)).then(|| ("names", list(&names)))
}

/// `items` without those that another one covers; of two that are alike, the first.
fn distinct<T>(items: &[T], covers: impl Fn(&T, &T) -> bool) -> Vec<&T> {
    let is_covered = |at: usize, item: &T| {
        let mut others = items.iter().enumerate().filter(|(other_at, _)| *other_at != at);
        others.any(|(other_at, other)| covers(other, item) && (other_at < at || !covers(item, other)))
    };
    items.iter().enumerate().filter(|(at, item)| !is_covered(*at, item)).map(|(_, item)| item).collect()
}

/// Whether every port of `inner` is one of `outer`.
fn contains(outer: &RangeInclusive<u16>, inner: &RangeInclusive<u16>) -> bool {
    outer.contains(inner.start()) && outer.contains(inner.end())
}

/// `duration` after `now`, in whole seconds.
fn after(now: Timestamp, duration: Duration) -> Timestamp {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(Timestamp::MAX)
}
