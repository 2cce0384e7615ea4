//! What lets a further lane join its tunnel.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::values::Secret;

/// The secret of one tunnel: 256 random bits, written as 43 characters of base64url. The server makes it, tells it
/// to the agent in `Welcome`, and a further lane shows it. It lives in memory only and dies with its tunnel.
#[derive(Debug, Clone)]
pub struct LaneSecret(Secret);

impl LaneSecret {
    /// A fresh one.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *bytes)?;
        Ok(Self(Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))))
    }

    /// The text to send.
    pub fn as_secret(&self) -> &Secret {
        &self.0
    }

    /// Whether `shown` is this secret. The time it takes tells nothing about how much of it was right.
    pub fn matches(&self, shown: &Secret) -> bool {
        // Whoever shows a text cannot steer its digest towards the one it is compared with.
        let digest = |secret: &Secret| Sha256::digest(secret.expose());
        digest(&self.0) == digest(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_matches() {
        let secret = LaneSecret::random().unwrap();
        let text = secret.as_secret().expose();
        assert_eq!(text.len(), 43);
        assert!(secret.matches(&Secret::new(text)));
        for wrong in ["", &text[..42], &format!("{text}A"), LaneSecret::random().unwrap().as_secret().expose()] {
            assert!(!secret.matches(&Secret::new(wrong)));
        }
        assert_eq!(format!("{secret:?}"), "LaneSecret(***)");
    }
}
