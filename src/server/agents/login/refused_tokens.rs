//! A cache of refused tokens, so that repeated attempts cost nothing.
//!
//! An agent with a stale token retries forever. Its retries need no argon2 computation and are not guesses: the cache
//! answers them, and they do not count as failures of the address. So sixty stale agents behind one NAT lock nobody out.
//!
//! An entry is valid for a client, a token and the client's current token hashes: when the operator changes those, the
//! token is checked again. Entries are digests keyed with a key of this process, so they do not reveal the token. Each
//! address has its own entries, so an address cannot evict those of another.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::limits::AddressKey;
use crate::tenants::clients::Credential;
use crate::values::{ClientId, Secret};

/// Maximum number of addresses, and of refused tokens of each; the oldest are evicted first.
const MAX_ADDRESSES: usize = 1024;
const MAX_TOKENS: usize = 256;

/// How long an address without attempts is remembered. Agents retry at least every 15 minutes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);

/// Token hashes that a client may have at once: the current one, and one that is being rotated out.
const HASHES: usize = 2;

/// Bytes of an HMAC-SHA256.
type Digest = [u8; 32];

/// The refused tokens of all addresses.
pub(crate) struct RefusedTokens {
    key: Hmac<Sha256>,
    addresses: Mutex<HashMap<AddressKey, Address>>,
}

impl std::fmt::Debug for RefusedTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RefusedTokens({} addresses)", self.addresses.lock().len())
    }
}

#[derive(Debug)]
struct Address {
    last_attempt: Instant,
    /// The oldest first.
    tokens: VecDeque<TokenKey>,
}

/// The key of an entry: a client, a token and the client's token hashes, as a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TokenKey {
    client: Digest,
    all: Digest,
}

/// An attempt to log in: the key of its entry, and the address that it came from.
#[derive(Debug)]
pub(crate) struct Attempt {
    from: AddressKey,
    key: TokenKey,
}

impl RefusedTokens {
    /// Creates an empty cache.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *key)?;
        // HMAC takes keys of any length.
        let key = Hmac::new_from_slice(&*key).map_err(|_| getrandom::Error::UNEXPECTED)?;
        Ok(Self { key, addresses: Mutex::default() })
    }

    /// Returns the attempt to log in with `token` as `client`, which has these credentials (none if there is no such
    /// client). Takes the same time for any client.
    pub(crate) fn attempt(
        &self,
        from: AddressKey,
        client: &ClientId,
        token: &Secret,
        credentials: &[Credential],
    ) -> Attempt {
        let id = Sha256::digest(client.as_str());
        let mut mac = self.key.clone().chain_update(id).chain_update(Sha256::digest(token.expose()));
        for at in 0..HASHES {
            // As long as a hash in the clients file.
            const NO_HASH: &str =
                "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
            let hash = credentials.get(at).map_or(NO_HASH, |credential| &credential.hash);
            mac.update(&Sha256::digest(hash));
        }
        let client = self.key.clone().chain_update(id).finalize().into_bytes().into();
        Attempt { from, key: TokenKey { client, all: mac.finalize().into_bytes().into() } }
    }

    /// Returns whether exactly this attempt was refused before.
    pub(crate) fn contains(&self, attempt: &Attempt) -> bool {
        let mut addresses = self.addresses.lock();
        let Some(address) = addresses.get_mut(&attempt.from) else { return false };
        let has = address.tokens.contains(&attempt.key);
        if has {
            address.last_attempt = Instant::now();
        }
        has
    }

    /// Returns whether another token for the same client was refused to this address.
    pub(crate) fn contains_client(&self, attempt: &Attempt) -> bool {
        let addresses = self.addresses.lock();
        let of_client = |key: &TokenKey| key.client == attempt.key.client;
        addresses.get(&attempt.from).is_some_and(|address| address.tokens.iter().any(of_client))
    }

    /// Stores a refusal. Returns whether it is new: concurrent attempts may have stored it already.
    pub(crate) fn insert(&self, attempt: &Attempt) -> bool {
        let now = Instant::now();
        let mut addresses = self.addresses.lock();
        if addresses.len() >= MAX_ADDRESSES && !addresses.contains_key(&attempt.from) {
            let oldest = addresses.iter().min_by_key(|(_, address)| address.last_attempt).map(|(from, _)| *from);
            oldest.map(|oldest| addresses.remove(&oldest));
        }
        let new = || Address { last_attempt: now, tokens: VecDeque::new() };
        let address = addresses.entry(attempt.from).or_insert_with(new);
        address.last_attempt = now;
        if address.tokens.contains(&attempt.key) {
            return false;
        }
        if address.tokens.len() >= MAX_TOKENS {
            address.tokens.pop_front();
        }
        address.tokens.push_back(attempt.key);
        true
    }

    /// Removes the addresses without recent attempts. Walks all of them: call it from time to time.
    pub(crate) fn evict_idle(&self) {
        let now = Instant::now();
        let mut addresses = self.addresses.lock();
        addresses.retain(|_, address| now.duration_since(address.last_attempt) < FORGOTTEN_AFTER);
        addresses.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn address(number: u32) -> AddressKey {
        AddressKey::new(IpAddr::V4(Ipv4Addr::from(number)), 64)
    }

    fn id(text: &str) -> ClientId {
        ClientId::new(text).unwrap()
    }

    fn credentials(hashes: &[&str]) -> Vec<Credential> {
        hashes.iter().map(|hash| Credential { hash: (*hash).into(), until: None }).collect()
    }

    fn ask(tokens: &RefusedTokens, from: u32, client: &str, token: &str, hashes: &[&str]) -> Attempt {
        tokens.attempt(address(from), &id(client), &Secret::new(token), &credentials(hashes))
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_is_known_until_the_clients_hashes_change() {
        let tokens = RefusedTokens::new().unwrap();
        let attempt = ask(&tokens, 1, "alice", "stale", &["one"]);
        assert!(!tokens.contains(&attempt) && !tokens.contains_client(&attempt));
        assert!(tokens.insert(&attempt) && !tokens.insert(&attempt));
        assert!(tokens.contains(&ask(&tokens, 1, "alice", "stale", &["one"])));
        for (from, client, token, hashes) in [
            (1, "alice", "stale", &["two"][..]),
            (1, "alice", "stale", &["two", "one"]),
            (1, "alice", "stale", &[]),
            (1, "alice", "other", &["one"]),
            (1, "bob", "stale", &["one"]),
            (2, "alice", "stale", &["one"]),
        ] {
            assert!(!tokens.contains(&ask(&tokens, from, client, token, hashes)), "{from} {client} {token} {hashes:?}");
        }
        assert!(tokens.contains_client(&ask(&tokens, 1, "alice", "other", &[])));
        assert!(!tokens.contains_client(&ask(&tokens, 1, "bob", "stale", &["one"])));
        assert!(!tokens.contains_client(&ask(&tokens, 2, "alice", "stale", &["one"])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_exist_is_remembered_like_one_that_does() {
        let tokens = RefusedTokens::new().unwrap();
        let nobody = ask(&tokens, 1, "nobody", "stale", &[]);
        assert!(tokens.insert(&nobody) && tokens.contains(&nobody));
        assert!(!tokens.contains(&ask(&tokens, 1, "nobody", "stale", &["added"])));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_displaces_only_its_own() {
        let tokens = RefusedTokens::new().unwrap();
        let stale = ask(&tokens, 1, "alice", "stale", &["one"]);
        tokens.insert(&stale);
        let guesses: Vec<Attempt> =
            (0..3 * MAX_TOKENS).map(|guess| ask(&tokens, 2, "alice", &guess.to_string(), &["one"])).collect();
        assert!(guesses.iter().all(|guess| tokens.insert(guess)));
        assert!(tokens.contains(&stale));
        assert_eq!(guesses.iter().filter(|guess| tokens.contains(guess)).count(), MAX_TOKENS);
        assert!(tokens.contains(guesses.last().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_bounded_and_those_that_ask_stay() {
        let tokens = RefusedTokens::new().unwrap();
        let first = ask(&tokens, 0, "alice", "stale", &["one"]);
        tokens.insert(&first);
        for from in 1..2 * MAX_ADDRESSES as u32 {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(tokens.contains(&first), "{from}");
            tokens.insert(&ask(&tokens, from, "alice", "stale", &["one"]));
        }
        assert_eq!(tokens.addresses.lock().len(), MAX_ADDRESSES);
        tokio::time::advance(FORGOTTEN_AFTER).await;
        tokens.evict_idle();
        assert!(tokens.addresses.lock().is_empty());
    }

    proptest! {
        /// An attempt counts as refused only if exactly this attempt was: the cache never refuses a right token.
        #[test]
        fn only_what_was_refused_is_known(
            refused in proptest::collection::vec((0_u32..3, 0_usize..3, 0_usize..3, 0_usize..3), 0..40),
            asked in (0_u32..3, 0_usize..3, 0_usize..3, 0_usize..3),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let tokens = RefusedTokens::new().unwrap();
                let attempt = |(from, client, token, hashes): (u32, usize, usize, usize)| {
                    let hashes: &[&str] = [&[][..], &["one"], &["two", "one"]][hashes];
                    ask(&tokens, from, ["alice", "bob", "carol"][client], ["x", "y", "z"][token], hashes)
                };
                for each in &refused {
                    tokens.insert(&attempt(*each));
                }
                assert_eq!(tokens.contains(&attempt(asked)), refused.contains(&asked));
            });
        }
    }
}
