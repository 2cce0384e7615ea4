//! Who an agent is, and how it proves it.
//!
//! - `token`: [`Token`], the client's long-lived secret, `adit_…`
//! - `hash`: what the server keeps of a token ([`hash()`]), and [`TokenVerifier`], which compares without letting a
//!   stranger spend the server's memory and time
//! - `ticket`: [`TicketKey`] and [`Ticket`], a short-lived proof of an earlier login, cheap to check
//! - `invite`: [`InviteCode`], which buys a token once
//! - `lane_secret`: [`LaneSecret`], by which further lanes join a tunnel
//! - `admin_token`: [`AdminToken`], which the admin API asks for; `admin_proof`: [`AdminNonce`], by which a server shows that
//!   it has it
//!
//! A login with a token costs some 19 MiB and tens of milliseconds on purpose; a login with a ticket costs microseconds.
//! Both are bound to the client's current token hash, so rotating or revoking the token ends both. The list
//! of clients is in [`tenants`](crate::tenants).

mod admin_proof;
mod admin_token;
mod hash;
mod invite;
mod lane_secret;
mod ticket;
mod token;

pub use admin_proof::{AdminNonce, NONCE_FIELD, PROOF_FIELD};
pub use admin_token::{AdminToken, AdminTokenError};
#[cfg(test)]
pub(crate) use hash::cheap_hash;
pub use hash::{Compared, HashError, TokenVerifier, USUAL_COST, Work, check_hash, hash, work_of};
pub use invite::{InviteCode, InviteError};
pub use lane_secret::LaneSecret;
pub use ticket::{Ticket, TicketError, TicketKey, TicketKeyError};
pub use token::{Token, TokenError};
