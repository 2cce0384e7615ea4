//! What the server keeps of a token, and how it compares.

use crate::limits::{FairQueue, Party, Turn};
use crate::values::Secret;
use argon2::password_hash::Error as PhcError;
use argon2::password_hash::phc::PasswordHash;
use argon2::{ARGON2ID_IDENT, Argon2, Params, PasswordHasher as _, PasswordVerifier as _};

/// The most a stored hash may ask for: memory in KiB, passes, lanes. More would let a slip in a file stop the server.
const MOST: (u32, u32, u32) = (256 * 1024, 10, 16);
/// The fewest bytes of output that cannot be met by trying.
const LEAST_OUTPUT: usize = 16;

/// What a new hash costs: 19 MiB of memory, two passes, one lane, the least that OWASP's password storage cheat sheet asks of
/// argon2id. A comparison costs what its stored hash asks for.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Returns the parameters of a new hash. argon2 accepts them, as a test asserts; its own defaults are the same.
fn new_params() -> Params {
    Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or(Params::DEFAULT)
}

/// Why a hash could not be made or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The stored text is no argon2id hash in PHC form; the reason is argon2's.
    #[error("the token hash is not a hash that `adit token` writes (`$argon2id$v=19$m=…`): {0}; make a new token")]
    Broken(String),
    /// The stored hash asks for more than any login should cost.
    #[error("the token hash asks for m={0} KiB, t={1}, p={2}; the most is m=262144, t=10, p=16; make a new token")]
    TooCostly(u32, u32, u32),
    /// argon2 could not do its work: no memory or no randomness.
    #[error("the token could not be hashed: {0}")]
    Failed(String),
    /// The runtime stopped in the middle of a comparison.
    #[error("the comparison of a token was cut short: the server is stopping")]
    CutShort,
}

/// Makes the hash of `token` to keep (argon2id, RFC 9106, as a PHC string). Takes tens of milliseconds and 19 MiB:
/// not for an asynchronous task.
///
/// # Errors
/// There is no memory or no randomness to be had.
pub fn hash(token: &Secret) -> Result<String, HashError> {
    hash_with(token, new_params())
}

/// Makes a hash that costs next to nothing, for tests that log in hundreds of times.
///
/// # Errors
/// As [`hash()`].
#[cfg(test)]
pub(crate) fn cheap_hash(token: &Secret) -> Result<String, HashError> {
    let params = Params::new(8, 1, 1, None).map_err(|error| HashError::Failed(error.to_string()))?;
    hash_with(token, params)
}

fn hash_with(token: &Secret, params: Params) -> Result<String, HashError> {
    let hashed = Argon2::from(params).hash_password(token.expose().as_bytes());
    hashed.map(|hash: PasswordHash| hash.to_string()).map_err(|error| HashError::Failed(error.to_string()))
}

/// What a comparison with a hash made by [`hash()`] costs, in the unit of [`Work::cost`].
pub const USUAL_COST: u64 = 2 * 19;

/// What a comparison with a hash costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// How often all of it is gone through.
    pub passes: u32,
    /// Lanes, which run one after the other here.
    pub lanes: u32,
}

impl Work {
    /// How long it takes, in passes over a MiB.
    pub fn cost(self) -> u64 {
        u64::from(self.memory_kib).saturating_mul(u64::from(self.passes)).div_ceil(1024).max(1)
    }
}

/// What a comparison with `text` would cost: for whoever takes hashes from others and has limits of its own.
///
/// # Errors
/// As [`check_hash`].
pub fn work_of(text: &str) -> Result<Work, HashError> {
    let params = Params::try_from(&parse(text)?).map_err(|error: PhcError| HashError::Broken(error.to_string()))?;
    Ok(Work { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() })
}

/// Says whether `text` can be kept as a token's hash: for whoever reads one from a file. Costs nothing.
///
/// # Errors
/// It is not argon2id in PHC form, is cut short, or asks for more than a login may cost.
pub fn check_hash(text: &str) -> Result<(), HashError> {
    parse(text).map(drop)
}

fn parse(text: &str) -> Result<PasswordHash, HashError> {
    let broken = |reason: &str| HashError::Broken(reason.to_owned());
    let hash = PasswordHash::new(text).map_err(|error| HashError::Broken(error.to_string()))?;
    if hash.algorithm != ARGON2ID_IDENT {
        return Err(broken("the algorithm is not argon2id"));
    }
    let params = Params::try_from(&hash).map_err(|error| HashError::Broken(error.to_string()))?;
    let cost = (params.m_cost(), params.t_cost(), params.p_cost());
    if cost.0 > MOST.0 || cost.1 > MOST.1 || cost.2 > MOST.2 {
        return Err(HashError::TooCostly(cost.0, cost.1, cost.2));
    }
    if hash.salt.is_none() || hash.hash.as_ref().is_none_or(|output| output.len() < LEAST_OUTPUT) {
        return Err(broken("it ends too early"));
    }
    Ok(hash)
}

/// A finished comparison, which still holds its turn.
#[derive(Debug)]
pub struct Compared {
    /// Whether the token is the one that the hash was made of.
    ///
    /// # Errors
    /// As of [`TokenVerifier::verify`].
    pub result: Result<bool, HashError>,
    /// The turn of the comparison.
    pub turn: Turn,
}

/// Compares tokens with their hashes, a few at a time, away from the asynchronous tasks. Clones share the places.
///
/// argon2 is made to be expensive, which is a lever for whoever may ask for it. So: a fixed number of comparisons
/// at once (some 19 MiB each), the others wait in a [`FairQueue`], where each client and each address waits for what it has
/// asked for itself; and a client that does not exist costs what one that does costs, so that the time of an answer names
/// nobody. Put a limit for each address and a deadline before it.
#[derive(Debug, Clone)]
pub struct TokenVerifier {
    queue: FairQueue,
}

impl TokenVerifier {
    /// Lets `concurrency` comparisons run at once, and `of_a_client` of one client; at least 1 of each.
    pub fn new(concurrency: usize, of_a_client: usize) -> Self {
        Self { queue: FairQueue::new(concurrency, of_a_client) }
    }

    /// How many comparisons run at the moment, and how many wait for a place.
    pub fn load(&self) -> (usize, usize) {
        self.queue.load()
    }

    /// Waits for a turn at a comparison with `hash`. Dropping the future leaves the queue.
    pub async fn turn(&self, party: Party, hash: Option<&str>) -> Turn {
        let cost = hash.and_then(|hash| work_of(hash).ok()).map_or(USUAL_COST, Work::cost);
        self.queue.turn(party, cost).await
    }

    /// Whether `token` is the one `hash` was made of; never, with no hash. Dropping the future leaves the queue; a
    /// comparison that has begun keeps its place until it is done.
    ///
    /// # Errors
    /// The hash is unusable ([`check_hash`]), memory ran out, or the runtime is stopping. None of them is the
    /// visitor's to see.
    pub async fn verify(&self, party: Party, token: &Secret, hash: Option<&str>) -> Result<bool, HashError> {
        let turn = self.turn(party, hash).await;
        Self::verify_in(turn, token, hash).await?.result
    }

    /// As [`TokenVerifier::verify`], with a turn that the caller has waited for, and gets back: the next comparison begins
    /// when the caller drops it, so the caller can record the outcome first.
    ///
    /// # Errors
    /// The runtime is stopping.
    pub async fn verify_in(turn: Turn, token: &Secret, hash: Option<&str>) -> Result<Compared, HashError> {
        let parsed = hash.map(parse).transpose();
        let token = token.clone();
        let compared = tokio::task::spawn_blocking(move || {
            let result = match parsed {
                Ok(Some(hash)) => compare(&token, &hash),
                Ok(None) => pretend(&token).map(|()| false),
                Err(broken) => pretend(&token).and(Err(broken)),
            };
            Compared { result, turn }
        });
        compared.await.map_err(|_| HashError::CutShort)
    }

    /// Makes the hash of a new token, with a turn that the caller has waited for.
    ///
    /// # Errors
    /// As [`hash()`], or the runtime is stopping.
    pub async fn hash_in(turn: Turn, token: &Secret) -> Result<String, HashError> {
        let token = token.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            hash(&token)
        });
        hashed.await.map_err(|_| HashError::CutShort)?
    }
}

fn compare(token: &Secret, hash: &PasswordHash) -> Result<bool, HashError> {
    match Argon2::default().verify_password(token.expose().as_bytes(), hash) {
        Ok(()) => Ok(true),
        Err(PhcError::PasswordInvalid) => Ok(false),
        Err(error) => Err(HashError::Failed(error.to_string())),
    }
}

/// Does the work of a comparison with a hash made by [`hash()`], and compares nothing.
fn pretend(token: &Secret) -> Result<(), HashError> {
    let mut output = [0_u8; Params::DEFAULT_OUTPUT_LEN];
    Argon2::from(new_params())
        .hash_password_into(token.expose().as_bytes(), b"nobody's salt...", &mut output)
        .map_err(|error| HashError::Failed(error.to_string()))?;
    std::hint::black_box(output);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    fn party() -> Party {
        let address = crate::limits::AddressKey::new([192, 0, 2, 1].into(), 64);
        Party { client: "alice".parse().unwrap(), address }
    }

    #[test]
    fn a_hash_asks_for_what_owasp_asks() {
        let text = hash(&secret("token")).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_eq!(check_hash(&text), Ok(()));
        assert_eq!(work_of(&text), Ok(Work { memory_kib: 19 * 1024, passes: 2, lanes: 1 }));
        assert_eq!(work_of(&text).map(Work::cost), Ok(USUAL_COST));
        assert_ne!(hash(&secret("token")).unwrap(), text, "the salt is fresh");
    }

    #[test]
    fn pretending_costs_what_comparing_costs() {
        let stored = parse(&hash(&secret("token")).unwrap()).unwrap();
        let (stored, pretended) = (Params::try_from(&stored).unwrap(), new_params());
        let cost = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
        assert_eq!(cost(&stored), cost(&pretended));
        assert_eq!(stored.output_len(), Some(Params::DEFAULT_OUTPUT_LEN));
    }

    #[tokio::test]
    async fn only_the_right_token_of_a_known_client_passes() {
        let verifier = TokenVerifier::new(2, 2);
        let stored = cheap_hash(&secret("right")).unwrap();
        assert_eq!(verifier.verify(party(), &secret("right"), Some(&stored)).await, Ok(true));
        assert_eq!(verifier.verify(party(), &secret("wrong"), Some(&stored)).await, Ok(false));
        assert_eq!(verifier.verify(party(), &secret("right"), None).await, Ok(false));
        let stored = hash(&secret("right")).unwrap();
        assert_eq!(verifier.verify(party(), &secret("right"), Some(&stored)).await, Ok(true));
    }

    #[tokio::test]
    async fn an_unusable_hash_lets_nobody_in() {
        let good = cheap_hash(&secret("right")).unwrap();
        let cut = good.rsplit_once('$').unwrap().0.to_owned();
        let short = format!("{cut}$AAAAAA");
        let other = good.replace("argon2id", "argon2i");
        for bad in ["", "right", &cut, &short, &other, &good.replace("m=8", "m=1")] {
            assert!(matches!(check_hash(bad), Err(HashError::Broken(_))), "{bad}");
        }
        let greedy = good.replace("m=8,", "m=4000000,");
        assert_eq!(check_hash(&greedy), Err(HashError::TooCostly(4_000_000, 1, 1)));
        let verifier = TokenVerifier::new(1, 1);
        assert_eq!(verifier.verify(party(), &secret("right"), Some(&greedy)).await, check_hash(&greedy).map(|()| true));
    }

    #[tokio::test]
    async fn no_more_than_the_places_run_at_once() {
        // None would be a server nobody can enter.
        let verifier = TokenVerifier::new(0, 0);
        let held = verifier.turn(party(), None).await;
        let stored = cheap_hash(&secret("right")).unwrap();
        let token = secret("right");
        let mut waiting = std::pin::pin!(verifier.verify(party(), &token, Some(&stored)));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        assert_eq!(verifier.load(), (1, 1));
        drop(held);
        assert_eq!(waiting.await, Ok(true));
        assert_eq!(verifier.load(), (0, 0));
        let turn = verifier.turn(party(), None).await;
        assert!(check_hash(&TokenVerifier::hash_in(turn, &token).await.unwrap()).is_ok());
        assert_eq!(verifier.load(), (0, 0));
    }
}
