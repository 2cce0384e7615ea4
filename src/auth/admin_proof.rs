//! How a server shows the operator's tools that it is the one which they mean, before they show it the admin token.

use std::fmt;
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::AdminToken;
use crate::values::{digest_in, hex_of};

/// The field of a request in which a nonce is.
pub const NONCE_FIELD: &str = "x-adit-nonce";
/// The field of an answer in which the proof is.
pub const PROOF_FIELD: &str = "x-adit-proof";

/// Random bytes in a nonce, and bytes of a proof.
const SIZE: usize = 32;
/// Nothing else is ever signed with the token.
const LABEL: &[u8] = b"adit-admin-proof-1\0";

/// A number that is used once: 32 random bytes, written as 64 hexadecimal digits.
///
/// Whoever knows the admin token answers with a proof: HMAC-SHA256 over a label, the nonce and the address at which the
/// connection arrived, so that nobody can have another server make it. It tells nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminNonce([u8; SIZE]);

impl AdminNonce {
    /// A fresh one.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; SIZE];
        getrandom::fill(&mut bytes).map(|()| Self(bytes))
    }

    /// Reads one; `None`, if it is anything but 64 hexadecimal digits.
    pub fn parse(text: &[u8]) -> Option<Self> {
        digest_in(text).map(Self)
    }

    /// The proof that whoever has `token` takes connections at `arrived`.
    pub fn proof(&self, token: &AdminToken, arrived: SocketAddr) -> Option<String> {
        Some(hex_of(&self.mac(token, arrived)?.finalize().into_bytes().into()))
    }

    /// Whether `shown` is that proof. Compares in constant time, as `hmac` does.
    pub fn is_proved(&self, token: &AdminToken, dialled: SocketAddr, shown: &[u8]) -> bool {
        let (mac, shown) = (self.mac(token, dialled), digest_in(shown));
        mac.zip(shown).is_some_and(|(mac, shown)| mac.verify_slice(&shown).is_ok())
    }

    fn mac(&self, token: &AdminToken, at: SocketAddr) -> Option<Hmac<Sha256>> {
        // A listener for both families sees IPv4 as a part of IPv6.
        let at = SocketAddr::new(at.ip().to_canonical(), at.port()).to_string();
        // There is no key that HMAC does not take.
        let mac = Hmac::<Sha256>::new_from_slice(token.as_secret().expose().as_bytes()).ok()?;
        Some(mac.chain_update(LABEL).chain_update(self.0).chain_update(at))
    }
}

impl fmt::Display for AdminNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex_of(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn token() -> AdminToken {
        let dir = tempfile::tempdir().unwrap();
        AdminToken::load_or_create(&dir.path().join("token")).unwrap()
    }

    #[test]
    fn only_whoever_has_the_token_can_prove_it_and_only_for_this_nonce_and_place() {
        let (token, nonce) = (token(), AdminNonce::generate().unwrap());
        let here = at("127.0.0.1:9091");
        let proof = nonce.proof(&token, here).unwrap();
        assert!(proof.len() == 64 && nonce.is_proved(&token, here, proof.as_bytes()), "{proof}");
        assert!(nonce.is_proved(&token, at("[::ffff:127.0.0.1]:9091"), proof.as_bytes()), "the same place");
        assert!(nonce.is_proved(&token, here, proof.to_uppercase().as_bytes()));
        for (nonce, token, place) in [
            (AdminNonce::generate().unwrap(), &token, here),
            (nonce, &self::token(), here),
            (nonce, &token, at("127.0.0.1:9092")),
            (nonce, &token, at("127.0.0.2:9091")),
        ] {
            assert!(!nonce.is_proved(token, place, proof.as_bytes()), "{nonce} {place}");
        }
        for wrong in ["", &proof[..62], &format!("{proof}00"), &nonce.to_string(), &"0".repeat(64)] {
            assert!(!nonce.is_proved(&token, here, wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn the_form_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "adit_admin_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJIKJh\n").unwrap();
        let token = AdminToken::read(&file).unwrap();
        // As another implementation has it, in a few lines: docs/admin.md says how.
        let proof = "bf1e1010edb21b85170dde674d0119a8da1e12ffb43c5a9bc08c64fa3fbf273c";
        let nonce = AdminNonce::parse("0".repeat(64).as_bytes()).unwrap();
        assert_eq!(nonce.proof(&token, at("127.0.0.1:9091")).as_deref(), Some(proof));
    }

    #[test]
    fn a_nonce_is_64_hexadecimal_digits_and_nothing_else() {
        let nonce = AdminNonce::generate().unwrap();
        assert_ne!(nonce, AdminNonce::generate().unwrap());
        assert_eq!(AdminNonce::parse(nonce.to_string().as_bytes()), Some(nonce));
        let (good, wrong) = ("0aF9".repeat(16), "0aFg".repeat(16));
        assert_eq!(AdminNonce::parse(good.as_bytes()).unwrap().to_string(), "0af9".repeat(16));
        for text in ["", &good[1..], &format!("{good}0"), &wrong, &format!("+{}", &good[1..]), &"é".repeat(32)] {
            assert_eq!(AdminNonce::parse(text.as_bytes()), None, "{text}");
        }
    }
}
