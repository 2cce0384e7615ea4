//! Why a policy cannot be used.

use super::webhook::{MAX_BODY, MAX_TOLERANCE_S};
use super::{MAX_ENTRIES, password};
use crate::protocol::login::ServiceKind;

/// A policy cannot be used as it is. The text is for the owner of the agent; it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// More entries than a policy may have.
    #[error("`{what}` has {number} entries; the most is {MAX_ENTRIES}")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// How many there are.
        number: usize,
    },
    /// A name that no visitor could give (RFC 7617, section 2).
    #[error("`{0}` cannot be a user: a name has 1 to {most} characters, no colon and no control characters", most = password::MAX_USER)]
    User(String),
    /// One name with two passwords.
    #[error("the user `{0}` is there twice")]
    UserTwice(String),
    /// A hash that no password can be compared with.
    #[error("the password hash of `{user}` is not an argon2id hash (`$argon2id$v=19$m=…`): {reason}")]
    Hash {
        /// Whose it is.
        user: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A hash that costs more than a visitor may cost the server.
    #[error(
        "the password hash of `{user}` asks for m={memory_kib} KiB, t={passes}, p={lanes}; the most is m={}, t={}, p={}, and \
         m × t = {}; `adit password` makes one that fits",
        password::MOST.memory_kib, password::MOST.passes, password::MOST.lanes, password::MOST_COST * 1024
    )]
    TooCostly {
        /// Whose it is.
        user: String,
        /// Memory, in KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// Not the name of a field (RFC 9110, section 5.1).
    #[error("`{0}` is not the name of a header")]
    HeaderName(String),
    /// A field that is needed for something else.
    #[error(
        "the header `{0}` cannot hold the shared secret: it means something else here, and the secret is taken off"
    )]
    HeaderInUse(String),
    /// A signature that anybody could make.
    #[error("the webhook has no secret")]
    NoSecret,
    /// A window in which old signatures count that is none, or too long.
    #[error("the webhook's tolerance is {0} s, but must be between 1 and {MAX_TOLERANCE_S}")]
    Tolerance(u64),
    /// A largest body that is none, or more than is held.
    #[error("the webhook's largest body is {0} bytes, but must be between 1 and {MAX_BODY}")]
    Body(usize),
    /// Conditions that only HTTP can meet.
    #[error("a {} service can allow and deny addresses, and nothing else", .0.word())]
    AddressesOnly(ServiceKind),
}
