//! Limits of logins: how many may be in progress, how often an address may fail, and how much password hashing it may
//! cause.

use std::io;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};

use crate::auth::{TokenVerifier, USUAL_COST};
use crate::limits::{AddressPermit, Checks, FailedLogins, PerAddress, Permit, Permits, REMEMBERED_ADDRESSES};
use crate::server::agents::login::RefusedTokens;
use crate::server::options::PerIpLimits;

/// Token hashes computed at once. Each takes about 19 MiB.
const CONCURRENT_HASHES: usize = 2;

/// Logins by token of an address that are checked for each one that may fail. A fleet behind one address reconnects at
/// once, and a valid token must not keep the processor busy. [`FIRST_FAILURES`] are on top of that.
const CHECKS_PER_FAILURE: u32 = 10;

/// Connections of agents that may be in the TLS handshake or the login at once.
pub(crate) const MAX_IN_PROGRESS: usize = 1024;

/// Of these, how many one address may have. A fleet behind one address that reconnects at once is admitted within a few
/// attempts, because a login takes milliseconds.
const MAX_IN_PROGRESS_PER_ADDRESS: NonZeroU32 = NonZeroU32::new(32).expect("32 is not zero");

/// The part of the free places that one address may have, and how many it may have in any case.
const SHARE: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not zero");
const MIN_IN_PROGRESS: usize = 2;

/// Clients whose first wrong token is checked for an address beyond its limit. Refilled at the rate of the limit.
const FIRST_FAILURES: NonZeroU32 = NonZeroU32::new(128).expect("128 is not zero");

/// Counts one login in progress until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "the permits are held, never read")]
pub(crate) struct LoginPermit {
    address: AddressPermit,
    total: Permit,
}

/// The limits of logins.
#[derive(Debug)]
pub(crate) struct LoginLimits {
    pub(crate) verifier: TokenVerifier,
    pub(crate) failed: FailedLogins,
    /// Logins that cost a password hash, failed or not.
    pub(crate) checks: Checks,
    /// Failures of addresses beyond their limit, each the first one for a client from that address.
    pub(crate) first_failures: FailedLogins,
    pub(crate) refused_tokens: RefusedTokens,
    pub(crate) in_progress: Permits,
    in_progress_by_address: PerAddress,
}

impl LoginLimits {
    /// Creates the limits for up to `max_in_progress` logins at once.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn new(per_ip: &PerIpLimits, max_in_progress: usize) -> io::Result<Self> {
        let (failures, prefix) = (per_ip.logins_per_minute, per_ip.ipv6_prefix);
        Ok(Self {
            verifier: TokenVerifier::new(CONCURRENT_HASHES, CONCURRENT_HASHES),
            failed: FailedLogins::new(failures, prefix, REMEMBERED_ADDRESSES),
            checks: Checks::new(max_cost(failures), prefix, REMEMBERED_ADDRESSES),
            first_failures: FailedLogins::with_burst(failures, FIRST_FAILURES, prefix, REMEMBERED_ADDRESSES),
            refused_tokens: RefusedTokens::new().map_err(io::Error::other)?,
            in_progress: Permits::new(max_in_progress),
            in_progress_by_address: PerAddress::new(MAX_IN_PROGRESS_PER_ADDRESS, prefix),
        })
    }

    /// Applies changed settings.
    pub(crate) fn apply(&self, per_ip: &PerIpLimits) {
        let Self {
            verifier: _,
            failed,
            checks,
            first_failures,
            refused_tokens: _,
            in_progress: _,
            in_progress_by_address,
        } = self;
        let (failures, prefix) = (per_ip.logins_per_minute, per_ip.ipv6_prefix);
        failed.change(failures, prefix);
        checks.change(max_cost(failures), prefix);
        first_failures.change_with_burst(failures, FIRST_FAILURES, prefix);
        in_progress_by_address.change(MAX_IN_PROGRESS_PER_ADDRESS, prefix);
    }

    /// Takes a place for a login from `from`. The fewer places are free, the fewer of them one address may have. Its own
    /// limit comes first, so that a stranger beyond it takes nothing from others.
    pub(crate) fn permit(&self, from: IpAddr) -> Option<LoginPermit> {
        let share = self.in_progress.fair_share(SHARE, MIN_IN_PROGRESS);
        let address = self.in_progress_by_address.try_acquire_within(from, share)?;
        Some(LoginPermit { address, total: self.in_progress.try_acquire()? })
    }

    /// Forgets addresses that have been idle. Walks all of them.
    pub(crate) fn evict_idle(&self) {
        self.failed.evict_idle();
        self.checks.evict_idle();
        self.first_failures.evict_idle();
        self.refused_tokens.evict_idle();
    }
}

/// Returns what the logins of an address that are checked in a minute may cost if `failures` may fail, in the unit of
/// [`Work::cost`](crate::auth::Work::cost).
fn max_cost(failures: NonZeroU32) -> NonZeroU32 {
    let checks = failures.get().saturating_mul(CHECKS_PER_FAILURE).saturating_add(FIRST_FAILURES.get());
    let cost = u32::try_from(USUAL_COST).unwrap_or(u32::MAX);
    NonZeroU32::new(checks.saturating_mul(cost)).unwrap_or(NonZeroU32::MIN)
}
