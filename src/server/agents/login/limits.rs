//! Limits the failed logins and the token comparisons of each address.

use std::net::IpAddr;
use std::num::NonZeroU32;

use crate::auth::USUAL_COST;
use crate::limits::{AddressKey, Checks, FailedLogins};
use crate::protocol::login::{Refusal, Refused};
use crate::server::agents::login::refused_tokens::{Attempt, RefusedTokens};
use crate::server::options::PerIpLimits;
use crate::tenants::clients::Credential;
use crate::values::{ClientId, Secret};

/// How many logins by token of an address are checked for each one that may fail. A fleet behind one address may reconnect at
/// once, but valid tokens cannot keep the processor busy. [`FIRST_FAILURES`] are on top of that.
const CHECKS_PER_FAILURE: u32 = 10;

/// How many clients' first wrong tokens are checked for an address beyond its limit. Refilled at the rate of the limit.
const FIRST_FAILURES: NonZeroU32 = NonZeroU32::new(128).expect("128 is not zero");

/// The limits of logins by token and by invitation.
#[derive(Debug)]
pub(crate) struct LoginLimits {
    failures: FailedLogins,
    /// Logins that cost an argon2 computation, failed or not.
    checks: Checks,
    /// Failures of addresses beyond their limit, each the first one for a client from that address.
    first_failures: FailedLogins,
    refused_tokens: RefusedTokens,
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

impl LoginLimits {
    /// Creates the limits. They remember up to `max_addresses`.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn new(per_ip: &PerIpLimits, max_addresses: usize) -> Result<Self, getrandom::Error> {
        let (per_minute, prefix) = (per_ip.logins_per_minute, per_ip.ipv6_prefix);
        Ok(Self {
            failures: FailedLogins::new(per_minute, prefix, max_addresses),
            checks: Checks::new(checks_per_minute(per_minute), prefix, max_addresses),
            first_failures: FailedLogins::with_burst(per_minute, FIRST_FAILURES, prefix, max_addresses),
            refused_tokens: RefusedTokens::new()?,
        })
    }

    /// Applies changed options.
    pub(crate) fn apply(&self, per_ip: &PerIpLimits) {
        let (per_minute, prefix) = (per_ip.logins_per_minute, per_ip.ipv6_prefix);
        self.failures.change(per_minute, prefix);
        self.checks.change(checks_per_minute(per_minute), prefix);
        self.first_failures.change_with_burst(per_minute, FIRST_FAILURES, prefix);
    }

    /// Forgets addresses without recent attempts. Walks all of them: call it from time to time.
    pub(crate) fn evict_idle(&self) {
        self.failures.evict_idle();
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
        self.failures.allowed(from).map_err(|wait| Refused {
            retry_after_s: Some(wait.seconds()),
            ..Refused::new(Refusal::TooMany, "too many failed logins from this address; try again later")
        })
    }

    /// Counts a failed login of an address.
    pub(crate) fn record_failure(&self, from: IpAddr) {
        self.failures.failed(from);
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
            Ok(()) => &self.failures,
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

/// Returns the cost of the comparisons that an address may cause in a minute if it may fail so many times, in the unit of
/// [`Work::cost`](crate::auth::Work::cost).
fn checks_per_minute(failures: NonZeroU32) -> NonZeroU32 {
    let checks = failures.get().saturating_mul(CHECKS_PER_FAILURE).saturating_add(FIRST_FAILURES.get());
    let cost = u32::try_from(USUAL_COST).unwrap_or(u32::MAX);
    NonZeroU32::new(checks.saturating_mul(cost)).unwrap_or(NonZeroU32::MIN)
}
