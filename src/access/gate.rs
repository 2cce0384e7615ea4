//! Where passwords are compared.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Access;
use super::password::{Credential, Users};
use super::remembered::{Key, Remembered};
use crate::auth::TokenVerifier;
use crate::limits::{FailedLogins, RetryAfter};

/// Passwords compared at once, of all services together. Each takes up to 64 MiB.
const COMPARISONS: usize = 2;

/// Why a visitor with a name and a password is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotLetIn {
    /// Name or password is wrong; they are not told apart.
    Wrong,
    /// The address has been wrong too often: even the right password waits.
    TooOften(RetryAfter),
    /// Too many wait to be compared.
    Busy,
}

/// Compares names and passwords, for all services of a server.
///
/// A password is slow to compare on purpose (argon2), and a browser sends it with every request. So: what was right is
/// remembered for ten minutes, as a keyed digest, for these very users only; each service has one comparison at a time
/// and 256 that wait, all services together two; and an address that is wrong too often waits.
pub struct PasswordGate {
    verifier: TokenVerifier,
    pub(super) failed: FailedLogins,
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

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.counts {
            self.failed.failed(self.from);
        }
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
            verifier: TokenVerifier::new(COMPARISONS),
            failed: FailedLogins::new(per_minute, ipv6_prefix, max_keys),
            remembered: Mutex::default(),
            // HMAC takes keys of any length (RFC 2104, section 3).
            key: Hmac::new_from_slice(&*key).map_err(|_| getrandom::Error::UNEXPECTED)?,
        })
    }

    /// Compares what a visitor at `from` has sent with the users of `access`. Waits for its turn for no longer than
    /// `wait`.
    ///
    /// # Errors
    /// The visitor is not let in.
    pub async fn check(
        &self,
        access: &Access,
        credential: &Credential,
        from: IpAddr,
        wait: Duration,
    ) -> Result<(), NotLetIn> {
        let Some(users) = access.users() else { return Ok(()) };
        // First of all: whoever may not guess must not learn from what is remembered either.
        self.failed.allowed(from).map_err(NotLetIn::TooOften)?;
        let key = self.key_of(users, credential);
        if self.remembered.lock().contains(&key, Instant::now()) {
            return Ok(());
        }
        let _waiting = users.waiting.try_acquire().ok_or(NotLetIn::Busy)?;
        let mut attempt = Attempt { failed: &self.failed, from, counts: false };
        let compared = tokio::time::timeout(wait, self.compare(users, credential, key, &mut attempt)).await;
        compared.unwrap_or_else(|_| {
            // The server was slow, not the visitor wrong.
            attempt.counts = false;
            Err(NotLetIn::Busy)
        })
    }

    async fn compare(
        &self,
        users: &Users,
        credential: &Credential,
        key: Key,
        attempt: &mut Attempt<'_>,
    ) -> Result<(), NotLetIn> {
        let _turn = users.turn.acquire().await.map_err(|_| NotLetIn::Busy)?;
        // Others have had their turn in the meantime: a browser asks for many things at once, and so does a guesser.
        self.failed.allowed(attempt.from).map_err(NotLetIn::TooOften)?;
        if self.remembered.lock().contains(&key, Instant::now()) {
            return Ok(());
        }
        let (hash, is_known) = users.hash_of(credential.user());
        attempt.counts = true;
        let is_right = match self.verifier.verify(&credential.password(), Some(hash)).await {
            Ok(is_right) => is_right & is_known,
            Err(error) => {
                attempt.counts = false;
                tracing::error!(%error, "a visitor's password cannot be compared");
                return Err(NotLetIn::Busy);
            }
        };
        if !is_right {
            return Err(NotLetIn::Wrong);
        }
        attempt.counts = false;
        self.remembered.lock().insert(key, Instant::now());
        Ok(())
    }

    /// Both parts in one: the users have a fixed length.
    fn key_of(&self, users: &Users, credential: &Credential) -> Key {
        self.key.clone().chain_update(users.id()).chain_update(credential.bytes()).finalize().into_bytes().into()
    }

    /// Goes by another rate and prefix from now on, as [`FailedLogins::change`].
    pub fn change(&self, per_minute: NonZeroU32, ipv6_prefix: u8) {
        self.failed.change(per_minute, ipv6_prefix);
    }

    /// How many passwords are being compared, and how many wait for a place among all services.
    pub fn load(&self) -> (usize, usize) {
        self.verifier.load()
    }

    /// Forgets the addresses whose failures are long past. Walks all of them: call it from time to time.
    pub fn evict_idle(&self) {
        self.failed.evict_idle();
    }
}
