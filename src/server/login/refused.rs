//! Tokens that were refused, so that the same question is answered again at no cost.
//!
//! An agent with a stale token asks again and again. Its repeats need no argon2 computation and are no guesses: they are
//! answered from here and are not charged to the address, so sixty stale agents behind one NAT lock nobody out.
//!
//! An entry holds for a client, a token and the client's token hashes as they are: when the operator changes those, the
//! question is a new one. Entries are keyed digests, with a key of this process alone: no token can be told from them.
//! Each address has entries of its own, so none displaces those of another.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::auth::Credential;
use crate::limits::AddressKey;
use crate::values::{ClientId, Secret};

/// Addresses that are remembered, and refused tokens of each; the oldest are forgotten first.
const MAX_ADDRESSES: usize = 1024;
const MAX_TOKENS: usize = 256;

/// An address that has not asked for so long is forgotten. Agents ask at least every 15 minutes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);

/// Token hashes that a client may have at once: the current one, and one that is being rotated out.
const HASHES: usize = 2;

/// Bytes of an HMAC-SHA256.
type Digest = [u8; 32];

/// The refused tokens of all addresses.
pub(in crate::server) struct RefusedTokens {
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
    last_asked: Instant,
    /// The oldest first.
    tokens: VecDeque<Question>,
}

/// Whether a token is a client's, as an agent asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    client: Digest,
    all: Digest,
}

/// The same, with the address that it came from.
#[derive(Debug)]
pub(in crate::server) struct Asked {
    from: AddressKey,
    question: Question,
}

impl RefusedTokens {
    /// Remembers nothing yet.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(in crate::server) fn new() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *key)?;
        // HMAC takes keys of any length.
        let key = Hmac::new_from_slice(&*key).map_err(|_| getrandom::Error::UNEXPECTED)?;
        Ok(Self { key, addresses: Mutex::default() })
    }

    /// The question whether `token` is `client`'s, which has these credentials; none, if there is no such client. It takes
    /// the same work for any client.
    pub(in crate::server) fn question(
        &self,
        from: AddressKey,
        client: &ClientId,
        token: &Secret,
        credentials: &[Credential],
    ) -> Asked {
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
        Asked { from, question: Question { client, all: mac.finalize().into_bytes().into() } }
    }

    /// Whether this very question was answered with a refusal.
    pub(in crate::server) fn has(&self, asked: &Asked) -> bool {
        let mut addresses = self.addresses.lock();
        let Some(address) = addresses.get_mut(&asked.from) else { return false };
        let has = address.tokens.contains(&asked.question);
        if has {
            address.last_asked = Instant::now();
        }
        has
    }

    /// Whether another token of the same client was refused to this address.
    pub(in crate::server) fn has_of_client(&self, asked: &Asked) -> bool {
        let addresses = self.addresses.lock();
        let of_client = |question: &Question| question.client == asked.question.client;
        addresses.get(&asked.from).is_some_and(|address| address.tokens.iter().any(of_client))
    }

    /// The question was answered with a refusal. Returns whether that is new: several may have asked at once.
    pub(in crate::server) fn remember(&self, asked: &Asked) -> bool {
        let now = Instant::now();
        let mut addresses = self.addresses.lock();
        if addresses.len() >= MAX_ADDRESSES && !addresses.contains_key(&asked.from) {
            let oldest = addresses.iter().min_by_key(|(_, address)| address.last_asked).map(|(from, _)| *from);
            oldest.map(|oldest| addresses.remove(&oldest));
        }
        let new = || Address { last_asked: now, tokens: VecDeque::new() };
        let address = addresses.entry(asked.from).or_insert_with(new);
        address.last_asked = now;
        if address.tokens.contains(&asked.question) {
            return false;
        }
        if address.tokens.len() >= MAX_TOKENS {
            address.tokens.pop_front();
        }
        address.tokens.push_back(asked.question);
        true
    }

    /// Forgets the addresses that have not asked for long. Walks all of them: call it from time to time.
    pub(in crate::server) fn evict_idle(&self) {
        let now = Instant::now();
        let mut addresses = self.addresses.lock();
        addresses.retain(|_, address| now.duration_since(address.last_asked) < FORGOTTEN_AFTER);
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

    fn ask(tokens: &RefusedTokens, from: u32, client: &str, token: &str, hashes: &[&str]) -> Asked {
        tokens.question(address(from), &id(client), &Secret::new(token), &credentials(hashes))
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_is_known_until_the_clients_hashes_change() {
        let tokens = RefusedTokens::new().unwrap();
        let asked = ask(&tokens, 1, "alice", "stale", &["one"]);
        assert!(!tokens.has(&asked) && !tokens.has_of_client(&asked));
        assert!(tokens.remember(&asked) && !tokens.remember(&asked));
        assert!(tokens.has(&ask(&tokens, 1, "alice", "stale", &["one"])));
        for (from, client, token, hashes) in [
            (1, "alice", "stale", &["two"][..]),
            (1, "alice", "stale", &["two", "one"]),
            (1, "alice", "stale", &[]),
            (1, "alice", "other", &["one"]),
            (1, "bob", "stale", &["one"]),
            (2, "alice", "stale", &["one"]),
        ] {
            assert!(!tokens.has(&ask(&tokens, from, client, token, hashes)), "{from} {client} {token} {hashes:?}");
        }
        assert!(tokens.has_of_client(&ask(&tokens, 1, "alice", "other", &[])));
        assert!(!tokens.has_of_client(&ask(&tokens, 1, "bob", "stale", &["one"])));
        assert!(!tokens.has_of_client(&ask(&tokens, 2, "alice", "stale", &["one"])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_exist_is_remembered_like_one_that_does() {
        let tokens = RefusedTokens::new().unwrap();
        let nobody = ask(&tokens, 1, "nobody", "stale", &[]);
        assert!(tokens.remember(&nobody) && tokens.has(&nobody));
        assert!(!tokens.has(&ask(&tokens, 1, "nobody", "stale", &["added"])));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_displaces_only_its_own() {
        let tokens = RefusedTokens::new().unwrap();
        let stale = ask(&tokens, 1, "alice", "stale", &["one"]);
        tokens.remember(&stale);
        let guesses: Vec<Asked> =
            (0..3 * MAX_TOKENS).map(|guess| ask(&tokens, 2, "alice", &guess.to_string(), &["one"])).collect();
        assert!(guesses.iter().all(|guess| tokens.remember(guess)));
        assert!(tokens.has(&stale));
        assert_eq!(guesses.iter().filter(|guess| tokens.has(guess)).count(), MAX_TOKENS);
        assert!(tokens.has(guesses.last().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_bounded_and_those_that_ask_stay() {
        let tokens = RefusedTokens::new().unwrap();
        let first = ask(&tokens, 0, "alice", "stale", &["one"]);
        tokens.remember(&first);
        for from in 1..2 * MAX_ADDRESSES as u32 {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(tokens.has(&first), "{from}");
            tokens.remember(&ask(&tokens, from, "alice", "stale", &["one"]));
        }
        assert_eq!(tokens.addresses.lock().len(), MAX_ADDRESSES);
        tokio::time::advance(FORGOTTEN_AFTER).await;
        tokens.evict_idle();
        assert!(tokens.addresses.lock().is_empty());
    }

    proptest! {
        /// A question counts as refused only if this very question was: no right token is ever refused from here.
        #[test]
        fn only_what_was_refused_is_known(
            refused in proptest::collection::vec((0_u32..3, 0_usize..3, 0_usize..3, 0_usize..3), 0..40),
            asked in (0_u32..3, 0_usize..3, 0_usize..3, 0_usize..3),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let tokens = RefusedTokens::new().unwrap();
                let question = |(from, client, token, hashes): (u32, usize, usize, usize)| {
                    let hashes: &[&str] = [&[][..], &["one"], &["two", "one"]][hashes];
                    ask(&tokens, from, ["alice", "bob", "carol"][client], ["x", "y", "z"][token], hashes)
                };
                for each in &refused {
                    tokens.remember(&question(*each));
                }
                assert_eq!(tokens.has(&question(asked)), refused.contains(&asked));
            });
        }
    }
}
