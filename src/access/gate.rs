//! Where passwords are compared.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Access;
use super::password::{Credential, Users};
use super::remembered::{Key, Remembered};
use crate::auth::{Compared, TokenVerifier, USUAL_COST, Work, work_of};
use crate::limits::{AddressKey, Checks, FailedLogins, Party, RetryAfter};
use crate::values::ClientId;

/// Passwords compared at once, of all services together. Each takes up to 64 MiB.
const COMPARISONS: usize = 2;

/// Passwords compared at once of the services of one client: the other places are for the others.
const COMPARISONS_OF_A_CLIENT: usize = 1;

/// How many passwords of one address are compared for each one that may be wrong. One that costs more than `adit password`'s
/// counts several times.
const CHECKS_FOR_A_FAILURE: u32 = 4;

/// Why a visitor with a name and a password is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotLetIn {
    /// Name or password is wrong; they are not told apart.
    Wrong,
    /// The address has been wrong too often, or has had too many passwords compared: even the right one waits.
    TooOften(RetryAfter),
    /// Too many wait to be compared.
    Busy,
}

/// Compares names and passwords, for all services of a server.
///
/// A password is slow to compare on purpose (argon2), and a browser sends it with every request. So: what was right is
/// remembered for ten minutes, as a keyed digest, for these very users only, and for each client on its own; each client has
/// one comparison at a time, all together two; who waits for one waits in a fair queue
/// ([`FairQueue`](crate::limits::FairQueue)); and an address that is wrong too often waits, as does one that has too many
/// right ones compared.
pub struct PasswordGate {
    pub(super) verifier: TokenVerifier,
    pub(super) failed: FailedLogins,
    /// Comparisons, whatever comes of them.
    checks: Checks,
    /// The bits of an IPv6 address that count.
    ipv6_prefix: AtomicU8,
    remembered: Mutex<Remembered>,
    /// Random for each process.
    key: Hmac<Sha256>,
}

impl std::fmt::Debug for PasswordGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordGate").field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// Counts a comparison that has begun as failed, unless it turns out otherwise: whoever leaves in the middle has cost as
/// much.
struct Attempt<'a> {
    failed: &'a FailedLogins,
    from: IpAddr,
    counts: bool,
}

impl Attempt<'_> {
    /// Counts the failure, once.
    fn record(&mut self) {
        if std::mem::take(&mut self.counts) {
            self.failed.failed(self.from);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.record();
    }
}

impl PasswordGate {
    /// Lets each address be wrong `per_minute` times at once, and as often in each minute after that. Of an IPv6 address
    /// the first `ipv6_prefix` bits count; up to `max_keys` addresses are remembered one by one.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn new(per_minute: NonZeroU32, ipv6_prefix: u8, max_keys: usize) -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *key)?;
        Ok(Self {
            verifier: TokenVerifier::new(COMPARISONS, COMPARISONS_OF_A_CLIENT),
            failed: FailedLogins::new(per_minute, ipv6_prefix, max_keys),
            checks: Checks::new(checks(per_minute), ipv6_prefix, max_keys),
            ipv6_prefix: AtomicU8::new(ipv6_prefix),
            remembered: Mutex::default(),
            // HMAC takes keys of any length (RFC 2104, section 3).
            key: Hmac::new_from_slice(&*key).map_err(|_| getrandom::Error::UNEXPECTED)?,
        })
    }

    /// Compares what a visitor at `from` has sent with the users of `access`, a service of `client`. Waits for its turn for
    /// no longer than `wait`.
    ///
    /// # Errors
    /// The visitor is not let in.
    pub async fn check(
        &self,
        client: &ClientId,
        access: &Access,
        credential: &Credential,
        from: IpAddr,
        wait: Duration,
    ) -> Result<(), NotLetIn> {
        let Some(users) = access.users() else { return Ok(()) };
        // First of all: whoever may not guess must not learn from what is remembered either.
        self.failed.allowed(from).map_err(NotLetIn::TooOften)?;
        let key = self.key_of(users, credential);
        if self.remembered.lock().contains(client, &key, Instant::now()) {
            return Ok(());
        }
        let _waiting = users.wait(from).ok_or(NotLetIn::Busy)?;
        let mut attempt = Attempt { failed: &self.failed, from, counts: false };
        let compared = tokio::time::timeout(wait, self.compare(client, users, credential, key, &mut attempt)).await;
        compared.unwrap_or_else(|_| {
            // The server was slow, not the visitor wrong.
            attempt.counts = false;
            Err(NotLetIn::Busy)
        })
    }

    async fn compare(
        &self,
        client: &ClientId,
        users: &Users,
        credential: &Credential,
        key: Key,
        attempt: &mut Attempt<'_>,
    ) -> Result<(), NotLetIn> {
        let (hash, is_known) = users.hash_of(credential.user());
        let address = AddressKey::new(attempt.from, self.ipv6_prefix.load(Ordering::Relaxed));
        let turn = self.verifier.turn(Party { client: client.clone(), address }, Some(hash)).await;
        // Others have had their turn in the meantime: a browser asks for many things at once, and so does a guesser.
        let is_known_now = match self.failed.allowed(attempt.from) {
            Ok(()) if self.remembered.lock().contains(client, &key, Instant::now()) => Ok(true),
            Ok(()) => self.checks.take(attempt.from, weight(hash)).map(|()| false),
            Err(wait) => Err(wait),
        };
        match is_known_now {
            Ok(false) => {}
            known => {
                turn.unused();
                return known.map(|_| ()).map_err(NotLetIn::TooOften);
            }
        }
        attempt.counts = true;
        let compared = TokenVerifier::verify_in(turn, &credential.password(), Some(hash)).await;
        // The turn is held until the outcome is recorded: the next guess must see it.
        let compared = compared.and_then(|Compared { result, turn }| Ok((result?, turn)));
        let (is_right, _turn) = match compared {
            Ok((is_right, turn)) => (is_right & is_known, turn),
            Err(error) => {
                attempt.counts = false;
                tracing::error!(%error, "a visitor's password cannot be compared");
                return Err(NotLetIn::Busy);
            }
        };
        if !is_right {
            attempt.record();
            return Err(NotLetIn::Wrong);
        }
        attempt.counts = false;
        self.remembered.lock().insert(client, key, Instant::now());
        Ok(())
    }

    /// Both parts in one: the users have a fixed length.
    fn key_of(&self, users: &Users, credential: &Credential) -> Key {
        self.key.clone().chain_update(users.id()).chain_update(credential.bytes()).finalize().into_bytes().into()
    }

    /// Goes by another rate and prefix from now on, as [`FailedLogins::change`].
    pub fn change(&self, per_minute: NonZeroU32, ipv6_prefix: u8) {
        self.failed.change(per_minute, ipv6_prefix);
        self.checks.change(checks(per_minute), ipv6_prefix);
        self.ipv6_prefix.store(ipv6_prefix, Ordering::Relaxed);
    }

    /// How many passwords are being compared, and how many wait for a place among all services.
    pub fn load(&self) -> (usize, usize) {
        self.verifier.load()
    }

    /// Forgets the addresses whose failures and checks are long past, and what is remembered no longer. Walks all of them:
    /// call it from time to time.
    pub fn evict_idle(&self) {
        self.failed.evict_idle();
        self.checks.evict_idle();
        self.remembered.lock().evict_idle(Instant::now());
    }
}

fn checks(failures: NonZeroU32) -> NonZeroU32 {
    failures.saturating_mul(NonZeroU32::MIN.saturating_add(CHECKS_FOR_A_FAILURE - 1))
}

/// How many usual comparisons one with `hash` costs.
fn weight(hash: &str) -> u64 {
    work_of(hash).map_or(1, |work: Work| work.cost().div_ceil(USUAL_COST))
}
