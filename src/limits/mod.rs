//! Limits: how fast one address may ask, how often it may fail to log in, how many things may run at once, and how often the
//! log has a line of such things.
//!
//! - `address`: [`AddressKey`], what counts as one visitor
//! - `keyed_rate_limiter`: governor's rate limiter for each of a bounded number of addresses
//! - `visitor_rate`: [`VisitorRate`], requests of one address
//! - `pace`: [`Delay`], for what is a little beyond a rate
//! - `failed_logins`: [`FailedLogins`], failed logins of one address
//! - `costly_checks`: [`Checks`], costly checks of one address, failed or not
//! - `client_rate`: [`ClientUse`], what all visitors of one client may ask together
//! - `permits`: [`Permits`] and [`PerAddress`], counting limits whose permits give themselves back
//! - `budget`: [`Budget`], bytes that may be held at once
//! - `shared_budget`: [`SharedBudget`], the same, divided by client, service and address
//! - `fair_queue`: [`FairQueue`], turns at something costly, in an order that is fair to clients and addresses
//! - `held_heads`: [`HeldHeads`], bytes of decoded request heads, and who holds them
//! - `log_throttle`: [`LogThrottle`], log lines that visitors and agents can cause
//!
//! Nothing here does I/O, and only the queue waits: a limit answers at once, and its caller decides what to tell the
//! visitor. This module imports only `values`.

mod address;
mod budget;
mod client_rate;
mod costly_checks;
mod failed_logins;
mod fair_queue;
mod held_heads;
mod keyed_rate_limiter;
mod log_throttle;
mod pace;
mod permits;
mod shared_budget;
mod visitor_rate;

pub use address::AddressKey;
pub use budget::{Budget, Share};
pub use client_rate::{Allowance, ClientUse};
pub use costly_checks::Checks;
pub use failed_logins::FailedLogins;
pub use fair_queue::{FairQueue, Party, Turn};
pub use held_heads::{FREE_HEAD, HeldHead, HeldHeads, Holder, TooManyHeads, head_memory, target_length};
pub use keyed_rate_limiter::RetryAfter;
pub use log_throttle::LogThrottle;
pub use pace::{Delay, LONGEST_DELAY};
pub use permits::{AddressPermit, FairShare, PerAddress, Permit, Permits};
pub use shared_budget::{Owner, Portion, SharedBudget};
pub use visitor_rate::VisitorRate;

/// The most addresses that a rate limit remembers one by one; further ones share one allowance.
pub const REMEMBERED_ADDRESSES: usize = 100_000;
