//! The client's secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::invite;
use crate::values::{Secret, bare};

/// What every token starts with, so that a secret scanner knows one when it sees it.
pub(crate) const PREFIX: &str = "adit_";
/// Characters after the prefix: 36 bytes in base64url (RFC 4648, section 5) without padding.
const DIGITS: usize = 48;
/// Random bytes in a token.
const RANDOM: usize = 32;

/// A client's token: 256 random bits with a checksum, written `adit_` and 48 characters of `A-Z a-z 0-9 - _`.
///
/// The last four of the 36 bytes are the beginning of SHA-256 over `adit token` and the 32 random ones. They prove
/// nothing; they tell a mistyped token from a wrong one before anything is sent. Prints as `***`.
#[derive(Debug, Clone)]
pub struct Token(Secret);

/// Why a text is not a token. The text itself is never repeated: it may be nearly right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as a token does.
    #[error("this is not a token of adit: one starts with `adit_`; `adit token new ID` makes one")]
    NotAToken,
    /// It is the code of an invitation.
    #[error(
        "this is an invitation, not a token: `adit login HOST:PORT --invite CODE` buys a token with it, for `--token`"
    )]
    AnInvite,
    /// Too short or too long; the number is its length in characters.
    #[error("a token has 53 characters and this has {0}: was it cut or copied together with something else?")]
    Length(usize),
    /// The checksum does not fit, or a character cannot be in a token.
    #[error("the token is mistyped: its checksum does not fit; copy it again from where it was printed")]
    Mistyped,
}

impl Token {
    /// A fresh token.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0_u8; RANDOM + 4]);
        let (random, check) = bytes.split_at_mut(RANDOM);
        getrandom::fill(random)?;
        check.copy_from_slice(&checksum(random));
        let mut text = String::with_capacity(PREFIX.len() + DIGITS);
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        Ok(Self(Secret::new(text)))
    }

    /// Reads a token; white space, quotes and a byte order mark around it do not count.
    ///
    /// # Errors
    /// A [`TokenError`] that tells a slip of the hand from a text that never was a token.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = bare(text);
        match Self::read(text) {
            Err(_) if text.starts_with(invite::PREFIX) => Err(TokenError::AnInvite),
            read => read,
        }
    }

    fn read(text: &str) -> Result<Self, TokenError> {
        let digits = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if digits.chars().count() != DIGITS {
            return Err(TokenError::Length(text.chars().count()));
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(digits).map_err(|_| TokenError::Mistyped)?);
        match bytes.split_at_checked(RANDOM) {
            Some((random, check)) if check == checksum(random) => Ok(Self(Secret::new(text))),
            _ => Err(TokenError::Mistyped),
        }
    }

    /// The token as it is sent, hashed and compared.
    pub fn as_secret(&self) -> &Secret {
        &self.0
    }
}

impl From<Token> for Secret {
    fn from(token: Token) -> Self {
        token.0
    }
}

fn checksum(random: &[u8]) -> [u8; 4] {
    let digest = Sha256::new().chain_update(b"adit token").chain_update(random).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(token: &Token) -> String {
        token.as_secret().expose().to_owned()
    }

    #[test]
    fn a_fresh_token_can_be_read_back() {
        let token = Token::generate().unwrap();
        let printed = text(&token);
        assert_eq!(printed.len(), 53);
        assert!(printed.starts_with("adit_"));
        for around in [format!(" {printed}\n"), format!("\u{feff}\"{printed}\"\r\n"), format!("'{printed}'")] {
            assert_eq!(text(&Token::parse(&around).unwrap()), printed);
        }
        assert_ne!(text(&Token::generate().unwrap()), printed);
        assert_eq!(format!("{token:?}"), "Token(***)");
    }

    #[test]
    fn the_form_stays_as_it_is() {
        // 32 zero bytes and the first four of SHA-256("adit token" and 32 zero bytes).
        let known = "adit_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAqsTD8";
        assert!(Token::parse(known).is_ok());
    }

    #[test]
    fn every_slip_of_one_character_is_noticed() {
        let printed = text(&Token::generate().unwrap());
        for at in 5..printed.len() {
            let other = if printed.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut slip = printed.clone();
            slip.replace_range(at..=at, other);
            assert_eq!(Token::parse(&slip).unwrap_err(), TokenError::Mistyped, "character {at}");
        }
    }

    #[test]
    fn anything_else_says_what_it_is() {
        let printed = text(&Token::generate().unwrap());
        assert_eq!(Token::parse("").unwrap_err(), TokenError::NotAToken);
        assert_eq!(Token::parse(&printed.to_uppercase()).unwrap_err(), TokenError::NotAToken);
        assert_eq!(Token::parse(&printed[..52]).unwrap_err(), TokenError::Length(52));
        assert_eq!(Token::parse(&format!("{printed}=")).unwrap_err(), TokenError::Length(54));
        assert_eq!(Token::parse("adit_").unwrap_err(), TokenError::Length(5));
        assert_eq!(Token::parse(&format!("{}+", &printed[..52])).unwrap_err(), TokenError::Mistyped);
        assert_eq!(Token::parse(&format!("adit_{}", "é".repeat(48))).unwrap_err(), TokenError::Mistyped);
        assert!(!Token::parse(&printed[..52]).unwrap_err().to_string().contains(&printed[5..52]));
    }
}
