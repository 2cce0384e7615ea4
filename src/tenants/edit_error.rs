//! Why a change to the list of clients was refused.

use std::io;

use crate::schema::ConfigErrors;
use crate::values::ClientId;

/// Why a change was not made. The list is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is no client with this id.
    #[error("there is no client `{0}`")]
    NoClient(ClientId),
    /// There is no invitation with this key.
    #[error("there is no invitation {0}")]
    NoInvite(String),
    /// There is a client with this id already.
    #[error("the client `{0}` exists already; choose another id, or `adit token rotate {0}` gives it a new token")]
    ClientExists(ClientId),
    /// The id is already invited.
    #[error("`{id}` is invited already; `adit token revoke {key}` ends that invitation")]
    Invited {
        /// The id.
        id: ClientId,
        /// The invitation's key.
        key: String,
    },
    /// Another invitation has this key. Keys are random: a new code has another one.
    #[error("there is an invitation {0} already; try again")]
    InviteExists(String),
    /// The list was invalid before the change.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// The list is valid, and would be invalid after the change.
    #[error("with this change the clients file would be wrong:\n{0}")]
    Refused(ConfigErrors),
    /// The store cannot be read or written.
    #[error("{0}; check that the directory exists and who may write there")]
    Io(#[from] io::Error),
}

/// Why an invitation was not redeemed. The list is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// It never existed, was used, or was revoked.
    #[error("there is no such invitation, or it was used already")]
    NoSuchInvite,
    /// It has expired.
    #[error("the invitation has expired")]
    Expired,
    /// The invitation leaves the id open, and none was chosen.
    #[error("the invitation needs an id: choose one")]
    IdNeeded,
    /// The chosen id is a client, is invited, or is a name that belongs to another client.
    #[error("`{0}` is taken; choose another id")]
    IdTaken(ClientId),
    /// The chosen id is reserved, see [`is_reserved_for_operator`].
    ///
    /// [`is_reserved_for_operator`]: crate::values::is_reserved_for_operator
    #[error(
        "`{0}` is reserved; choose another id, or ask the operator for an invitation to it (`adit token invite {0}`)"
    )]
    IdReserved(ClientId),
    /// The invitation is for another id.
    #[error("the invitation is for another id than `{0}`")]
    OtherId(ClientId),
    /// The list could not be changed.
    #[error(transparent)]
    Edit(#[from] EditError),
}
