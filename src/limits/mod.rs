//! Limits: how fast one address may ask, how often it may fail to log in, how many things may run at once, and how often the
//! log has a line of such things.
//!
//! - `address`: [`AddressKey`], what counts as one visitor
//! - `cells`: governor's rate limiter over a bounded number of addresses
//! - `rate`: [`VisitorRate`], requests of one address
//! - `logins`: [`FailedLogins`], failed logins of one address
//! - `client`: [`ClientUse`], what all visitors of one client may ask together
//! - `permits`: [`Permits`] and [`PerAddress`], counting limits whose permits give themselves back
//! - `budget`: [`Budget`], bytes that may be held at once
//! - `heads`: [`HeldHeads`], bytes of decoded request heads, and who holds them
//! - `seldom`: [`Seldom`], lines of the log that strangers can cause
//!
//! Nothing here waits or does I/O: a limit answers at once, and its caller decides what to tell the visitor. No room
//! above is imported.

mod address;
mod budget;
mod cells;
mod client;
mod heads;
mod logins;
mod permits;
mod rate;
mod seldom;

pub use address::AddressKey;
pub use budget::{Budget, Share};
pub use cells::RetryAfter;
pub use client::{Allowance, ClientUse};
pub use heads::{FREE_HEAD, HeldHead, HeldHeads, Holder, TooManyHeads, head_memory, target_length};
pub use logins::FailedLogins;
pub use permits::{AddressPermit, FairShare, PerAddress, Permit, Permits};
pub use rate::VisitorRate;
pub use seldom::Seldom;
