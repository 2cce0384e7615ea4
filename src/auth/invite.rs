//! The code of an invitation.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::token;
use crate::values::{ClientId, Fingerprint, Secret, bare};

/// What every code starts with.
pub(crate) const PREFIX: &str = "adit_invite_";
/// Random bytes in a code.
const RANDOM: usize = 20;
/// Bytes of a fingerprint.
const PIN: usize = 32;
/// Bytes of the checksum.
const CHECK: usize = 4;
/// Set in the first byte if a fingerprint follows the random bytes.
const HAS_PIN: u8 = 1;
/// Set in the first byte if an id is between those and the checksum.
const HAS_ID: u8 = 2;
/// Characters of the longest code: with a fingerprint and an id of 63 bytes.
const MAX_TEXT: usize = PREFIX.len() + ((1 + RANDOM + PIN + 63 + CHECK) * 4).div_ceil(3);

/// What an operator gives a newcomer, who buys a token with it, once: 160 random bits, written `adit_invite_` and
/// base64url (RFC 4648, section 5, without padding).
///
/// It may say by which key the server is known, so that the newcomer needs nothing else, and for which id it is. The
/// bytes are: flags, 20 random ones, the fingerprint, the id, and as a checksum the first four of SHA-256 over
/// `adit invite` and all before. The server's file keeps the SHA-256 of the text alone. Prints as `***`.
#[derive(Clone)]
pub struct InviteCode {
    text: Secret,
    pin: Option<Fingerprint>,
    id: Option<ClientId>,
}

/// Why a text is not a code. The text itself is never repeated: it may be nearly right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// It does not begin as a code does.
    #[error("this is not an invitation of adit: one starts with `adit_invite_`; `adit token invite` makes one")]
    NotAnInvite,
    /// It is a token, whole or in part.
    #[error("this is a token, not an invitation: log in with `--token` instead of `--invite`")]
    AToken,
    /// The checksum does not fit, or a character cannot be in a code.
    #[error("the invitation is mistyped or cut: its checksum does not fit; copy it again from where it was printed")]
    Mistyped,
    /// It says more than this version understands.
    #[error("the invitation was made by a newer version of adit; use that version here, too")]
    Newer,
}

impl InviteCode {
    /// A fresh code that pins the server by `pin` and is for `id`.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate(pin: Option<Fingerprint>, id: Option<&ClientId>) -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new(vec![0_u8; 1 + RANDOM]);
        getrandom::fill(&mut bytes[1..])?;
        if let Some(pin) = &pin {
            bytes[0] |= HAS_PIN;
            bytes.extend_from_slice(&pin.0);
        }
        if let Some(id) = id {
            bytes[0] |= HAS_ID;
            bytes.extend_from_slice(id.as_str().as_bytes());
        }
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        let mut text = String::with_capacity(MAX_TEXT);
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        Ok(Self { text: Secret::new(text), pin, id: id.cloned() })
    }

    /// Reads a code; white space around it does not count.
    ///
    /// # Errors
    /// An [`InviteError`] that tells a slip of the hand from a text that never was a code, and from a token.
    pub fn parse(text: &str) -> Result<Self, InviteError> {
        let text = bare(text);
        let Some(digits) = text.strip_prefix(PREFIX) else {
            return Err(if text.starts_with(token::PREFIX) { InviteError::AToken } else { InviteError::NotAnInvite });
        };
        if text.len() > MAX_TEXT {
            return Err(InviteError::Mistyped);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(digits).map_err(|_| InviteError::Mistyped)?);
        let (bytes, check) = bytes.split_last_chunk::<CHECK>().ok_or(InviteError::Mistyped)?;
        if *check != checksum(bytes) {
            return Err(InviteError::Mistyped);
        }
        let (flags, rest) = bytes.split_first().ok_or(InviteError::Newer)?;
        let rest = rest.get(RANDOM..).filter(|_| flags & !(HAS_PIN | HAS_ID) == 0).ok_or(InviteError::Newer)?;
        let (pin, rest) = match rest.split_first_chunk::<PIN>() {
            Some((pin, rest)) if flags & HAS_PIN != 0 => (Some(Fingerprint(*pin)), rest),
            _ if flags & HAS_PIN != 0 => return Err(InviteError::Newer),
            _ => (None, rest),
        };
        let id = match std::str::from_utf8(rest).map(ClientId::new) {
            Ok(Ok(id)) if flags & HAS_ID != 0 => Some(id),
            _ if flags & HAS_ID == 0 && rest.is_empty() => None,
            _ => return Err(InviteError::Newer),
        };
        Ok(Self { text: Secret::new(text), pin, id })
    }

    /// By which key the server is known: what an agent pins.
    pub fn pin(&self) -> Option<Fingerprint> {
        self.pin
    }

    /// Whom it is for; `None`: whoever has it chooses an id.
    pub fn id(&self) -> Option<&ClientId> {
        self.id.as_ref()
    }

    /// The SHA-256 of the text: what the server keeps.
    pub fn digest(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.text.expose()).into())
    }

    /// The code as it is given out and sent.
    pub fn as_secret(&self) -> &Secret {
        &self.text
    }
}

impl From<InviteCode> for Secret {
    fn from(code: InviteCode) -> Self {
        code.text
    }
}

impl std::fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InviteCode").field("pin", &self.pin).field("id", &self.id).finish_non_exhaustive()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECK] {
    let digest = Sha256::new().chain_update(b"adit invite").chain_update(bytes).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Token, TokenError};

    fn id(text: &str) -> ClientId {
        ClientId::new(text).unwrap()
    }

    fn text(code: &InviteCode) -> &str {
        code.as_secret().expose()
    }

    /// The code whose bytes before the checksum are these.
    fn code_of(bytes: &[u8]) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([bytes, &checksum(bytes)].concat()))
    }

    #[test]
    fn a_fresh_code_can_be_read_back_with_all_it_says() {
        let pin = Fingerprint(std::array::from_fn(|i| i as u8));
        for pin in [None, Some(pin)] {
            for id in [None, Some(id("bob")), Some(id(&"x".repeat(63)))] {
                let code = InviteCode::generate(pin, id.as_ref()).unwrap();
                assert!(text(&code).starts_with("adit_invite_") && text(&code).len() <= MAX_TEXT);
                let read = InviteCode::parse(&format!(" {}\n", text(&code))).unwrap();
                assert_eq!((read.pin(), read.id(), text(&read)), (pin, id.as_ref(), text(&code)));
                assert_eq!(read.digest(), code.digest());
                assert!(!format!("{code:?}").contains(text(&code)));
            }
        }
        let [one, other] = [(); 2].map(|()| InviteCode::generate(None, None).unwrap());
        assert!(one.digest() != other.digest() && text(&one) != text(&other));
    }

    #[test]
    fn the_form_stays_as_it_is() {
        // Checksum and digest as `sha256sum` says.
        let known = "adit_invite_AgAAAAAAAAAAAAAAAAAAAAAAAAAAYm9i0aEWqw";
        assert_eq!(code_of(&[&[HAS_ID][..], &[0; RANDOM], b"bob"].concat()), known);
        let code = InviteCode::parse(known).unwrap();
        assert_eq!((code.pin(), code.id()), (None, Some(&id("bob"))));
        assert_eq!(
            code.digest().to_string(),
            "sha256:f9194930d7718491f0a784710b06df159975012fc1db2897ba8fd1357d9eb6d9"
        );
    }

    #[test]
    fn every_slip_of_one_character_is_noticed() {
        let code = InviteCode::generate(Some(Fingerprint([7; 32])), Some(&id("bob"))).unwrap();
        let printed = text(&code);
        for at in PREFIX.len()..printed.len() {
            let other = if printed.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut slip = printed.to_owned();
            slip.replace_range(at..=at, other);
            assert_eq!(InviteCode::parse(&slip).unwrap_err(), InviteError::Mistyped, "character {at}");
            assert_eq!(InviteCode::parse(&printed[..at]).unwrap_err(), InviteError::Mistyped, "cut at {at}");
        }
    }

    #[test]
    fn a_token_and_an_invitation_are_told_apart() {
        let token = Token::generate().unwrap();
        assert_eq!(InviteCode::parse(token.as_secret().expose()).unwrap_err(), InviteError::AToken);
        let code = InviteCode::generate(None, None).unwrap();
        assert_eq!(Token::parse(text(&code)).unwrap_err(), TokenError::AnInvite);
        for other in ["", "bob", "ADIT_INVITE_AAAA"] {
            assert_eq!(InviteCode::parse(other).unwrap_err(), InviteError::NotAnInvite, "{other}");
        }
        for message in [InviteError::AToken.to_string(), TokenError::AnInvite.to_string()] {
            assert!(message.contains("--token") && message.contains("--invite"), "{message}");
        }
    }

    #[test]
    fn what_is_whole_but_not_understood_is_of_a_newer_version() {
        let random = [1; RANDOM];
        for (flags, rest) in [(4, &b""[..]), (0, b"x"), (HAS_ID, b""), (HAS_ID, b"B b"), (HAS_PIN, &[0; 31])] {
            let code = code_of(&[&[flags][..], &random, rest].concat());
            assert_eq!(InviteCode::parse(&code).unwrap_err(), InviteError::Newer, "{flags} {rest:?}");
        }
        assert_eq!(InviteCode::parse(&code_of(&[])).unwrap_err(), InviteError::Newer);
        assert_eq!(InviteCode::parse(&format!("{PREFIX}{}", "A".repeat(1 << 20))).unwrap_err(), InviteError::Mistyped);
    }
}
