//! Limits of logins: how many may be in progress, how often an address may fail, and how much password hashing it may
//! cause.

use std::io;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};

use crate::auth::{TokenVerifier, USUAL_COST};
use crate::limits::{
    AddressKey, AddressPermit, Checks, FailedLogins, PerAddress, Permit, Permits, REMEMBERED_ADDRESSES,
};
use crate::protocol::login::{Refusal, Refused};
use crate::server::agents::login::refused_tokens::{Attempt, RefusedTokens};
use crate::server::options::PerIpLimits;
use crate::tenants::clients::Credential;
use crate::values::{ClientId, Secret};

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
    /// `None` while a proxy has not told who the agent is.
    address: Option<AddressPermit>,
    total: Permit,
}

/// Permission to compare the token of an attempt.
pub(crate) struct Comparison<'a> {
    limits: &'a LoginLimits,
    attempt: Attempt,
    counted_by: &'a FailedLogins,
    from: IpAddr,
}

/// Why the token of an attempt is not compared.
pub(crate) enum NotCompared {
    /// It was refused before.
    RefusedBefore,
    /// The address has failed too often.
    Limited(Refused),
}

/// The limits of logins.
#[derive(Debug)]
pub(crate) struct LoginLimits {
    pub(crate) verifier: TokenVerifier,
    failed: FailedLogins,
    /// Logins that cost a password hash, failed or not.
    checks: Checks,
    /// Failures of addresses beyond their limit, each the first one for a client from that address.
    first_failures: FailedLogins,
    refused_tokens: RefusedTokens,
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
        Some(LoginPermit { address: Some(address), total: self.in_progress.try_acquire()? })
    }

    /// Takes a place for a login behind a proxy. [`LoginLimits::count_address`] follows when the proxy has told the address.
    pub(crate) fn permit_of_proxy(&self) -> Option<LoginPermit> {
        Some(LoginPermit { address: None, total: self.in_progress.try_acquire()? })
    }

    /// Takes the share of the address that a proxy has told. Returns `false` if it has none left.
    pub(crate) fn count_address(&self, permit: &mut LoginPermit, from: IpAddr) -> bool {
        let share = self.in_progress.fair_share(SHARE, MIN_IN_PROGRESS);
        permit.address = self.in_progress_by_address.try_acquire_within(from, share);
        permit.address.is_some()
    }

    /// Forgets addresses that have been idle. Walks all of them.
    pub(crate) fn evict_idle(&self) {
        self.failed.evict_idle();
        self.checks.evict_idle();
        self.first_failures.evict_idle();
        self.refused_tokens.evict_idle();
    }
    /// Checks that an address may still fail to log in. Only tokens need this: they are expensive to check and can be guessed.
    /// Tickets and lane secrets have 256 bits and are cheap to check.
    ///
    /// # Errors
    /// The address has failed too often.
    pub(crate) fn check_failures(&self, from: IpAddr) -> Result<(), Refused> {
        self.failed.allowed(from).map_err(|wait| Refused {
            retry_after_s: Some(wait.seconds()),
            ..Refused::new(Refusal::TooMany, "too many failed logins from this address; try again later")
        })
    }

    /// Counts a failed login of an address.
    pub(crate) fn record_failure(&self, from: IpAddr) {
        self.failed.failed(from);
    }

    /// Counts an argon2 computation against `from`, by its cost.
    ///
    /// # Errors
    /// The address has caused too many.
    pub(crate) fn check_rate(&self, from: IpAddr, cost: u64) -> Result<(), Refused> {
        self.checks.take(from, cost).map_err(|wait| Refused {
            retry_after_s: Some(wait.seconds()),
            ..Refused::new(Refusal::TooMany, "too many logins from this address; try again later")
        })
    }

    /// Permits the comparison of a token. An address with too many failures has to wait, except for clients that have not
    /// failed from it: those may be neighbours behind one NAT.
    ///
    /// # Errors
    /// The token was refused before, or the address has failed too often.
    pub(crate) fn permit_comparison(
        &self,
        from: IpAddr,
        ipv6_prefix: u8,
        client: &ClientId,
        token: &Secret,
        credentials: &[Credential],
    ) -> Result<Comparison<'_>, NotCompared> {
        let address = AddressKey::new(from, ipv6_prefix);
        let attempt = self.refused_tokens.attempt(address, client, token, credentials);
        if self.refused_tokens.contains(&attempt) {
            return Err(NotCompared::RefusedBefore);
        }
        let is_first = || !self.refused_tokens.contains_client(&attempt) && self.first_failures.allowed(from).is_ok();
        let counted_by = match self.check_failures(from) {
            Ok(()) => &self.failed,
            Err(_) if is_first() => &self.first_failures,
            Err(refused) => return Err(NotCompared::Limited(refused)),
        };
        Ok(Comparison { limits: self, attempt, counted_by, from })
    }
}

impl Comparison<'_> {
    /// Records that the token is wrong.
    pub(crate) fn failed(self) {
        if self.limits.refused_tokens.insert(&self.attempt) {
            self.counted_by.failed(self.from);
        }
    }
}

/// Returns what the logins of an address that are checked in a minute may cost if `failures` may fail, in the unit of
/// [`Work::cost`](crate::auth::Work::cost).
fn max_cost(failures: NonZeroU32) -> NonZeroU32 {
    let checks = failures.get().saturating_mul(CHECKS_PER_FAILURE).saturating_add(FIRST_FAILURES.get());
    let cost = u32::try_from(USUAL_COST).unwrap_or(u32::MAX);
    NonZeroU32::new(checks.saturating_mul(cost)).unwrap_or(NonZeroU32::MIN)
}
