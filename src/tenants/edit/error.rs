//! Why a change to the clients file was not made.

use std::io;
use std::path::PathBuf;

use crate::schema::ConfigErrors;
use crate::values::ClientId;

/// Why a change was not made. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is no client with this id.
    #[error("{}: there is no client `{id}`", .file.display())]
    NoClient {
        /// The clients file.
        file: PathBuf,
        /// The id.
        id: ClientId,
    },
    /// There is no invitation with this key.
    #[error("{}: there is no invitation {key}", .file.display())]
    NoInvite {
        /// The clients file.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// There is a client with this id already.
    #[error(
        "{}: the client `{id}` exists already; choose another id, or `adit token rotate {id}` gives it a new token",
        .file.display()
    )]
    ClientExists {
        /// The clients file.
        file: PathBuf,
        /// The id.
        id: ClientId,
    },
    /// Somebody is invited to become this client.
    #[error("{}: `{id}` is invited already; `adit token revoke {key}` ends that invitation", .file.display())]
    Invited {
        /// The clients file.
        file: PathBuf,
        /// The id.
        id: ClientId,
        /// The invitation's key.
        key: String,
    },
    /// Another invitation has this key. It is random: a new code has another one.
    #[error("{}: there is an invitation {key} already; try again", .file.display())]
    InviteExists {
        /// The clients file.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// The file has problems of its own.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// The file has none, and would have these after the change.
    #[error("with this change the clients file would be wrong:\n{0}")]
    Refused(ConfigErrors),
    /// The file, its directory or its lock cannot be read or written.
    #[error("{0}; check that the directory exists and who may write there")]
    Io(#[from] io::Error),
}

/// Why an invitation bought nothing. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// It was never made, is used up, or was ended.
    #[error("there is no such invitation, or it was used already")]
    NoSuchInvite,
    /// Its time is over.
    #[error("the invitation has expired")]
    Expired,
    /// The invitation leaves the id open, and none was chosen.
    #[error("the invitation needs an id: choose one")]
    IdNeeded,
    /// The id that was chosen belongs to somebody else, or somebody else is invited for it, or may claim its name.
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
    /// The file could not be changed.
    #[error(transparent)]
    Edit(#[from] EditError),
}
