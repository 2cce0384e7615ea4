//! The changes that can be made to the list of clients, whatever store it is kept in. Whether a changed list is valid is
//! checked when it is stored.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;

use crate::tenants::claim::{Claim, default_names, names_of};
use crate::tenants::edit_error::{EditError, RedeemError};
use crate::tenants::entry::{ClientEntry, ClientsFile, InviteEntry, PreviousToken, invite_key};
use crate::tenants::list_change::{ListChange, ListItem, distinct};
use crate::values::{ClientId, Domain, Fingerprint, Name, is_reserved_for_operator};

/// Changes to what a client owns. `None` leaves a property as it is.
#[derive(Debug, Clone, Default)]
pub struct ClientChange {
    /// What it may claim; by default its own id.
    pub names: Option<ListChange<Claim>>,
    /// The domains that its services may have; by default none.
    pub domains: Option<ListChange<Domain>>,
    /// The public ports that its services may have; by default none.
    pub tcp_ports: Option<ListChange<RangeInclusive<u16>>>,
    /// When its logins end; an inner `None` means never.
    pub expires: Option<Option<Timestamp>>,
}

/// An invitation that another one has replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its key.
    pub key: String,
    /// The names that the new invitation keeps, because it names none itself. Empty if it keeps the id alone.
    pub kept: Vec<Claim>,
}

/// The client that a redeemed invitation has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// Its id.
    pub id: ClientId,
    /// The names it may claim.
    pub names: Vec<Name>,
}

impl ClientsFile {
    /// Adds a client; without names it may claim its own id. Removes expired invitations, so that none is in the way.
    ///
    /// # Errors
    /// The id is a client or is invited.
    pub fn add_client(&mut self, id: &ClientId, entry: &ClientEntry) -> Result<(), EditError> {
        self.remove_expired_invites(Timestamp::now());
        self.refuse_taken(id)?;
        let names = if entry.names.is_empty() { default_names(id) } else { distinct(&entry.names) };
        let (domains, tcp_ports) = (distinct(&entry.domains), distinct(&entry.tcp_ports));
        self.clients.insert(id.clone(), ClientEntry { names, domains, tcp_ports, ..entry.clone() });
        Ok(())
    }

    /// Changes what a client owns.
    ///
    /// # Errors
    /// There is no such client.
    pub fn set_client(&mut self, id: &ClientId, changes: &ClientChange) -> Result<(), EditError> {
        let entry = self.client_mut(id)?;
        apply(changes.names.as_ref(), &mut entry.names);
        if entry.names.is_empty() {
            entry.names = default_names(id);
        }
        apply(changes.domains.as_ref(), &mut entry.domains);
        apply(changes.tcp_ports.as_ref(), &mut entry.tcp_ports);
        entry.expires = changes.expires.unwrap_or(entry.expires);
        Ok(())
    }

    /// Replaces the token of a client. The current token stays valid for `overlap`, in whole seconds; the one before it
    /// becomes invalid. Returns when the overlap ends.
    ///
    /// # Errors
    /// There is no such client.
    pub fn rotate_token(
        &mut self,
        id: &ClientId,
        new_hash: &str,
        overlap: Option<Duration>,
    ) -> Result<Option<Timestamp>, EditError> {
        let entry = self.client_mut(id)?;
        let until = overlap.filter(|overlap| overlap.as_secs() > 0).map(|overlap| after(Timestamp::now(), overlap));
        let token_hash = std::mem::replace(&mut entry.token_hash, new_hash.into());
        entry.previous = until.map(|until| PreviousToken { token_hash, until });
        Ok(until)
    }

    /// Removes a client.
    ///
    /// # Errors
    /// There is no such client.
    pub fn revoke_client(&mut self, id: &ClientId) -> Result<(), EditError> {
        self.clients.remove(id).map(drop).ok_or_else(|| EditError::NoClient(id.clone()))
    }

    /// Adds an invitation and returns its key. With an id and without names, the new client may claim its id. Removes
    /// expired invitations.
    ///
    /// # Errors
    /// The id is a client or is invited, or another invitation has the same key.
    pub fn add_invite(&mut self, invite: &InviteEntry) -> Result<String, EditError> {
        self.remove_expired_invites(Timestamp::now());
        if let Some(id) = &invite.id {
            self.refuse_taken(id)?;
        }
        let key = invite_key(&invite.code_hash);
        if self.invites.contains_key(&key) {
            return Err(EditError::InviteExists(key));
        }
        let by_default = || invite.id.as_ref().map(default_names).unwrap_or_default();
        let names = if invite.names.is_empty() { by_default() } else { distinct(&invite.names) };
        self.invites.insert(key.clone(), InviteEntry { names, ..invite.clone() });
        Ok(key)
    }

    /// Adds an invitation in place of one for the same id that is not used yet; without names, it keeps those of that
    /// invitation. Returns its key, and the invitation that it replaces.
    ///
    /// # Errors
    /// As [`ClientsFile::add_invite`], except for that invitation.
    pub fn replace_invite(&mut self, invite: &InviteEntry) -> Result<(String, Option<Replaced>), EditError> {
        self.remove_expired_invites(Timestamp::now());
        let unused = invite.id.as_ref().and_then(|id| self.invite_of(id)).cloned();
        let before = unused.and_then(|key| self.invites.remove_entry(&key)).map(|(key, before)| {
            let keeps =
                invite.names.is_empty() && !invite.id.as_ref().is_some_and(|id| before.names == default_names(id));
            Replaced { key, kept: if keeps { before.names } else { Vec::new() } }
        });
        let kept = before.iter().flat_map(|before| &before.kept).cloned();
        let names = kept.chain(invite.names.iter().cloned()).collect();
        let key = self.add_invite(&InviteEntry { names, ..invite.clone() })?;
        Ok((key, before))
    }

    /// Removes an invitation.
    ///
    /// # Errors
    /// There is no such invitation.
    pub fn revoke_invite(&mut self, key: &str) -> Result<(), EditError> {
        self.invites.remove(key).map(drop).ok_or_else(|| EditError::NoInvite(key.to_owned()))
    }

    /// Turns the invitation whose code has this digest into a client with this token. `id` is the id that the invited
    /// person chose; it may be left out if the invitation names one.
    ///
    /// # Errors
    /// The invitation cannot be redeemed, or not for this id.
    pub fn redeem_invite(
        &mut self,
        code_digest: &Fingerprint,
        id: Option<&ClientId>,
        token_hash: &str,
    ) -> Result<Redeemed, RedeemError> {
        let invite = self.invites.remove(&invite_key(code_digest));
        let invite = invite.filter(|invite| invite.code_hash == *code_digest).ok_or(RedeemError::NoSuchInvite)?;
        let now = Timestamp::now();
        if invite.has_expired(now) {
            return Err(RedeemError::Expired);
        }
        let id = match (invite.id, id) {
            (Some(invited), Some(chosen)) if invited != *chosen => return Err(RedeemError::OtherId(chosen.clone())),
            (Some(invited), _) => invited,
            (None, None) => return Err(RedeemError::IdNeeded),
            (None, Some(id)) if is_reserved_for_operator(id.as_str()) => {
                return Err(RedeemError::IdReserved(id.clone()));
            }
            (None, Some(id)) => id.clone(),
        };
        self.remove_expired_invites(now);
        if self.is_taken(&id) {
            return Err(RedeemError::IdTaken(id));
        }
        let entry = ClientEntry { token_hash: token_hash.into(), names: invite.names, ..ClientEntry::default() };
        self.add_client(&id, &entry)?;
        let names = names_of(&self.client_mut(&id)?.names);
        Ok(Redeemed { id, names })
    }

    fn client_mut(&mut self, id: &ClientId) -> Result<&mut ClientEntry, EditError> {
        self.clients.get_mut(id).ok_or_else(|| EditError::NoClient(id.clone()))
    }

    fn remove_expired_invites(&mut self, now: Timestamp) {
        self.invites.retain(|_, invite| !invite.has_expired(now));
    }

    fn refuse_taken(&self, id: &ClientId) -> Result<(), EditError> {
        if self.clients.contains_key(id) {
            return Err(EditError::ClientExists(id.clone()));
        }
        let invited = |key: &String| EditError::Invited { id: id.clone(), key: key.clone() };
        self.invite_of(id).map_or(Ok(()), |key| Err(invited(key)))
    }

    /// Returns the key of the invitation for `id`.
    fn invite_of(&self, id: &ClientId) -> Option<&String> {
        self.invites.iter().find(|(_, invite)| invite.id.as_ref() == Some(id)).map(|(key, _)| key)
    }

    /// Returns whether `id` is a client, is invited, or is a name that belongs to another client or invitation.
    fn is_taken(&self, id: &ClientId) -> bool {
        let claims = |names: &[Claim]| names.iter().filter_map(Claim::name).any(|name| name.as_str() == id.as_str());
        self.clients.contains_key(id)
            || self.clients.values().any(|client| claims(&client.names))
            || self.invites.values().any(|invite| invite.id.as_ref() == Some(id) || claims(&invite.names))
    }
}

fn apply<T: ListItem>(change: Option<&ListChange<T>>, list: &mut Vec<T>) {
    if let Some(change) = change {
        change.apply(list);
    }
}

/// Returns the time `duration` after `now`, in whole seconds.
fn after(now: Timestamp, duration: Duration) -> Timestamp {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(Timestamp::MAX)
}
