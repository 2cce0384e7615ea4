//! The secret of the operator's tools.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::files::{self, Lock, Readers};
use crate::values::{Secret, bare, text_in};

/// What every admin token starts with. It is no prefix of a client's token: 48 characters follow there.
const PREFIX: &str = "adit_admin_";
/// Random bytes in a token.
const RANDOM: usize = 32;
/// Bytes of the checksum.
const CHECK: usize = 4;

/// What the admin API asks for: 256 random bits, written `adit_admin_` and 48 characters of base64url (RFC 4648,
/// section 5), of which the last bytes are a checksum as in a client's token.
///
/// Whoever has it can do what the operator can. Unlike a client's token it is kept as it is, in a file that only its
/// owner can read: the operator's tools read it there. Prints as `***`.
#[derive(Clone)]
pub struct AdminToken {
    text: Secret,
    /// What is compared: whoever shows a text cannot steer its digest towards this one.
    digest: [u8; 32],
}

/// Why there is no token for the admin API.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    /// The file cannot be read or written; the message names it.
    #[error(transparent)]
    File(#[from] io::Error),
    /// There is a file, but no token in it.
    #[error(
        "{} holds no admin token (`adit_admin_…`), or a mistyped one: delete the file to have a new one made",
        .0.display()
    )]
    NotAToken(PathBuf),
    /// The operating system has no randomness to give.
    #[error("no randomness for an admin token: {0}")]
    Randomness(#[from] getrandom::Error),
}

impl AdminToken {
    /// Reads the token in the file at `path`, or makes one there (0600) if there is no such file. Blocks. Two processes
    /// that start at once get the same one.
    ///
    /// # Errors
    /// The file cannot be read or written, or what is in it is no token; it is then left as it is.
    pub fn load_or_create(path: &Path) -> Result<Self, AdminTokenError> {
        // Without the lock first: the folder may be read-only.
        files::refuse_foreign(files::directory_of(path))?;
        if let Some(token) = Self::look(path)? {
            return Ok(token);
        }
        let _lock = Lock::wait(files::directory_of(path))?;
        if let Some(token) = Self::look(path)? {
            return Ok(token);
        }
        let token = Self::generate()?;
        let line = Zeroizing::new(format!("{}\n", token.text.expose()));
        files::replace(path, line.as_bytes(), Readers::Owner)?;
        Ok(token)
    }

    /// Reads the token in the file at `path`, if there is one. Blocks.
    ///
    /// # Errors
    /// As [`AdminToken::load_or_create`].
    pub fn look(path: &Path) -> Result<Option<Self>, AdminTokenError> {
        let Some(bytes) = files::read_if_there(path)?.map(Zeroizing::new) else { return Ok(None) };
        let text = text_in(&bytes).unwrap_or_default();
        Self::parse(text).map(Some).ok_or_else(|| AdminTokenError::NotAToken(path.to_owned()))
    }

    /// What [`AdminToken::load_or_create`] would stumble over. Makes nothing. Blocks.
    ///
    /// # Errors
    /// As there.
    pub fn check(path: &Path) -> Result<(), AdminTokenError> {
        let folder = files::directory_of(path);
        Lock::look(folder)?;
        if Self::look(path)?.is_none() {
            files::look_at_place(folder)?;
        }
        Ok(())
    }

    /// Reads the token in the file at `path`, for whoever asks the server that made it. Blocks.
    ///
    /// # Errors
    /// There is no such file, it cannot be read, or what is in it is no token.
    pub fn read(path: &Path) -> Result<Self, AdminTokenError> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no {}", path.display()));
        Self::look(path)?.ok_or_else(|| missing().into())
    }

    /// The token as it is sent.
    pub fn as_secret(&self) -> &Secret {
        &self.text
    }

    fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0_u8; RANDOM + CHECK]);
        let (random, check) = bytes.split_at_mut(RANDOM);
        getrandom::fill(random)?;
        check.copy_from_slice(&checksum(random));
        let mut text = String::with_capacity(PREFIX.len() + (RANDOM + CHECK) * 4 / 3);
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        Ok(Self::of(&text))
    }

    /// Reads a token; white space and quotes around it do not count.
    fn parse(text: &str) -> Option<Self> {
        let text = bare(text);
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?);
        let (random, check) = bytes.split_at_checked(RANDOM)?;
        (check == checksum(random)).then(|| Self::of(text))
    }

    fn of(text: &str) -> Self {
        Self { text: Secret::new(text), digest: Sha256::digest(text).into() }
    }

    /// Whether `shown` is this token. The time it takes tells nothing about how much of it was right.
    pub fn matches(&self, shown: &[u8]) -> bool {
        self.digest == <[u8; 32]>::from(Sha256::digest(shown))
    }
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AdminToken({})", self.text)
    }
}

fn checksum(random: &[u8]) -> [u8; CHECK] {
    let digest = Sha256::new().chain_update(b"adit admin token").chain_update(random).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Token;

    fn kept(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn it_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/admin-token");
        let token = AdminToken::load_or_create(&path).unwrap();
        let text = kept(&path);
        assert!(text.starts_with("adit_admin_") && text.ends_with('\n') && text.trim_end().len() == 59, "{text}");
        assert!(token.matches(text.trim_end().as_bytes()));
        assert!(AdminToken::load_or_create(&path).unwrap().matches(text.trim_end().as_bytes()));
        assert_eq!(kept(&path), text);
        // As some editors save it.
        std::fs::write(&path, format!("\u{feff}\"{}\"\r\n", text.trim_end())).unwrap();
        assert!(AdminToken::read(&path).unwrap().matches(text.trim_end().as_bytes()));
        std::fs::write(&path, &text).unwrap();
        assert_eq!(format!("{token:?}"), "AdminToken(***)");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let other = AdminToken::load_or_create(&dir.path().join("other")).unwrap();
        assert!(!other.matches(text.trim_end().as_bytes()));
    }

    #[test]
    fn only_the_whole_token_matches() {
        let token = AdminToken::generate().unwrap();
        let text = token.text.expose();
        assert!(token.matches(text.as_bytes()));
        for wrong in ["", &text[..58], &format!("{text}A"), &text.to_uppercase(), &text[PREFIX.len()..]] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_holds_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin-token");
        let token = AdminToken::generate().unwrap();
        let good = token.text.expose();
        let mistyped = format!("{}{}", &good[..good.len() - 1], if good.ends_with('A') { "B" } else { "A" });
        let client = Token::generate().unwrap();
        for text in ["", "adit_admin_", "secret", &mistyped, &good[..40], client.as_secret().expose(), "adit_admin_é"]
        {
            std::fs::write(&path, text).unwrap();
            let error = AdminToken::load_or_create(&path).unwrap_err();
            assert!(matches!(error, AdminTokenError::NotAToken(_)), "{text}");
            let message = error.to_string();
            assert!(message.contains("admin-token") && (text.is_empty() || !message.contains(good)), "{message}");
            assert_eq!(kept(&path), text);
        }
        std::fs::write(&path, format!("  {good}\r\n")).unwrap();
        assert!(AdminToken::load_or_create(&path).unwrap().matches(good.as_bytes()));
        assert!(Token::parse(good).is_err(), "it is no token of a client");
    }

    #[test]
    fn the_form_stays_as_it_is() {
        // 32 zero bytes and the first four of SHA-256("adit admin token" and 32 zero bytes).
        let known = [&[0; RANDOM][..], &checksum(&[0; RANDOM])].concat();
        assert_eq!(URL_SAFE_NO_PAD.encode(known), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJIKJh");
    }
}
