//! A short-lived statement of the server that a client has logged in.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::files::{self, Lock, Readers};
use crate::values::{ClientId, Secret};

/// The version of the ticket format.
const VERSION: u8 = 2;
/// The previous version, without the number of the agent's start. It is read but no longer issued.
const WITHOUT_START: u8 = 1;
/// Bytes of the version and the expiry.
const HEAD: usize = 9;
/// Bytes of the number of a start.
const START: usize = 8;
/// Bytes of the HMAC-SHA256 at the end.
const MAC: usize = 32;
/// Characters of the longest ticket: head, start, an id of 63 bytes and two MACs, in base64url.
const MAX_TEXT: usize = ((HEAD + START + 63 + 2 * MAC) * 4).div_ceil(3);
/// Bytes of a key file.
const KEY: usize = 32;

/// The server's key for tickets. Whoever has it can log in as anybody, so its file is its owner's alone (0600).
#[derive(Clone)]
pub struct TicketKey(Hmac<Sha256>);

/// A ticket as an agent showed it: well-formed, and nothing more. [`TicketKey::verify`] says whether it is true.
#[derive(Clone)]
pub struct Ticket {
    client: ClientId,
    expires: u64,
    start: Option<Start>,
    mac: [u8; MAC],
}

/// The number of the agent's start with a separate MAC: it stays valid after the ticket expires or the token changes.
#[derive(Clone)]
struct Start {
    number: u64,
    mac: [u8; MAC],
}

/// Why a ticket is refused. In each case the agent may still log in with its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not the form of a ticket.
    #[error("this is not a ticket; log in with the token")]
    Malformed,
    /// Not signed by this server, or the client's token has been rotated or revoked since.
    #[error("the ticket does not hold any more; log in with the token")]
    NotValid,
    /// Its time is over.
    #[error("the ticket has expired; log in with the token")]
    Expired,
}

/// Why there is no key for tickets.
#[derive(Debug, thiserror::Error)]
pub enum TicketKeyError {
    /// The file cannot be read or written; the message names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// There is a file, but it holds no key; the numbers are its size and the right one, in bytes.
    #[error(
        "{0} has {1} bytes and a ticket key has 32: delete it to have a new one made (agents then log in with their tokens)"
    )]
    Size(String, usize),
    /// The operating system has no randomness to give.
    #[error("no randomness for a ticket key: {0}")]
    Randomness(#[from] getrandom::Error),
}

impl TicketKey {
    /// Reads the key at `path`, or makes one there if there is no such file. Blocks. Two processes that start at once
    /// get the same key.
    ///
    /// # Errors
    /// The file cannot be read or written, or what is there is not 32 bytes long; it is then left as it is.
    pub fn load_or_create(path: &Path) -> Result<Self, TicketKeyError> {
        // Without the lock first: the folder may be read-only.
        files::refuse_foreign(files::directory_of(path))?;
        if let Some(key) = Self::look(path)? {
            return Ok(key);
        }
        let _lock = Lock::wait(files::directory_of(path))?;
        if let Some(key) = Self::look(path)? {
            return Ok(key);
        }
        let mut bytes = Zeroizing::new([0_u8; KEY]);
        getrandom::fill(&mut *bytes)?;
        files::replace(path, &*bytes, Readers::Owner)?;
        Self::from_bytes(&*bytes, path)
    }

    /// Reads the key at `path`, if there is one. Blocks.
    ///
    /// # Errors
    /// As [`TicketKey::load_or_create`].
    pub fn look(path: &Path) -> Result<Option<Self>, TicketKeyError> {
        let bytes = files::read_if_there(path)?.map(Zeroizing::new);
        bytes.map(|bytes| Self::from_bytes(&bytes, path)).transpose()
    }

    /// What [`TicketKey::load_or_create`] would stumble over. Makes nothing. Blocks.
    ///
    /// # Errors
    /// As there.
    pub fn check(path: &Path) -> Result<(), TicketKeyError> {
        let folder = files::directory_of(path);
        Lock::look(folder)?;
        if Self::look(path)?.is_none() {
            files::look_at_place(folder)?;
        }
        Ok(())
    }

    /// Derives a key for another purpose, named by `label`.
    pub fn derive(&self, label: &str) -> Zeroizing<[u8; KEY]> {
        let mac = self.0.clone().chain_update(b"adit derived key").chain_update(label.as_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, TicketKeyError> {
        let wrong_size = || TicketKeyError::Size(path.display().to_string(), bytes.len());
        if bytes.len() != KEY {
            return Err(wrong_size());
        }
        Hmac::new_from_slice(bytes).map(Self).map_err(|_| wrong_size())
    }

    /// Writes a ticket for `client`, good until `expires_unix` (seconds since 1970, UTC) and for as long as
    /// `token_hash` is the client's current one. `start` is the number of its agent's first login.
    pub fn issue(&self, client: &ClientId, token_hash: &str, expires_unix: u64, start: u64) -> Secret {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&expires_unix.to_be_bytes());
        bytes.extend_from_slice(&start.to_be_bytes());
        bytes.extend_from_slice(client.as_str().as_bytes());
        let start = Start { number: start, mac: self.start_mac(client, start).finalize().into_bytes().into() };
        bytes.extend_from_slice(&start.mac);
        bytes.extend_from_slice(&self.mac(client, expires_unix, Some(&start), token_hash).finalize().into_bytes());
        Secret::new(URL_SAFE_NO_PAD.encode(Zeroizing::new(bytes)))
    }

    /// Checks `ticket` against its client's current `token_hash` at `now_unix` (seconds since 1970, UTC) and says who
    /// has logged in. Without a hash, because the client is unknown, it does the same work and refuses.
    ///
    /// # Errors
    /// This server did not issue it for this client and token, or it has expired.
    pub fn verify(&self, ticket: &Ticket, token_hash: Option<&str>, now_unix: u64) -> Result<ClientId, TicketError> {
        let expected = self.mac(&ticket.client, ticket.expires, ticket.start.as_ref(), token_hash.unwrap_or_default());
        // In constant time, as `hmac` compares.
        let signed = expected.verify_slice(&ticket.mac).is_ok();
        if !signed || token_hash.is_none() {
            return Err(TicketError::NotValid);
        }
        if now_unix >= ticket.expires {
            return Err(TicketError::Expired);
        }
        Ok(ticket.client.clone())
    }

    /// Returns the number of the agent's start in this ticket, if a server with this key signed it for `client`. The ticket
    /// may have expired, or the token may have changed.
    pub fn start_of(&self, ticket: &Ticket, client: &ClientId) -> Option<u64> {
        let start = ticket.start.as_ref().filter(|_| ticket.client == *client)?;
        let is_signed = self.start_mac(client, start.number).verify_slice(&start.mac).is_ok();
        is_signed.then_some(start.number)
    }

    /// All fields have a fixed length, except the id, which has a length prefix. The version tells whether there is a start.
    fn mac(&self, client: &ClientId, expires: u64, start: Option<&Start>, token_hash: &str) -> Hmac<Sha256> {
        let id = client.as_str().as_bytes();
        let mac = self
            .0
            .clone()
            .chain_update(b"adit ticket")
            .chain_update([start.map_or(WITHOUT_START, |_| VERSION)])
            .chain_update(expires.to_be_bytes());
        let with_start =
            |mac: Hmac<Sha256>, start: &Start| mac.chain_update(start.number.to_be_bytes()).chain_update(start.mac);
        let mac = start.into_iter().fold(mac, with_start);
        mac.chain_update((id.len() as u64).to_be_bytes()).chain_update(id).chain_update(Sha256::digest(token_hash))
    }

    fn start_mac(&self, client: &ClientId, start: u64) -> Hmac<Sha256> {
        let mac = self.0.clone().chain_update(b"adit start").chain_update(start.to_be_bytes());
        mac.chain_update(client.as_str().as_bytes())
    }
}

impl Ticket {
    /// Reads a ticket, without believing it.
    ///
    /// # Errors
    /// It is too long, not base64url, of an unknown version, or names no client.
    pub fn parse(text: &Secret) -> Result<Self, TicketError> {
        Self::read(text.expose()).ok_or(TicketError::Malformed)
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let (version, rest) = bytes.split_first()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (rest, mac) = rest.split_last_chunk()?;
        let (id, start) = match *version {
            WITHOUT_START => (rest, None),
            VERSION => {
                let (number, rest) = rest.split_first_chunk()?;
                let (id, mac) = rest.split_last_chunk()?;
                (id, Some(Start { number: u64::from_be_bytes(*number), mac: *mac }))
            }
            _ => return None,
        };
        let client = ClientId::new(std::str::from_utf8(id).ok()?).ok()?;
        Some(Self { client, expires: u64::from_be_bytes(*expires), start, mac: *mac })
    }

    /// Whom the ticket claims to be for: good for looking up that client's token hash, and for nothing else.
    pub fn claimed_client(&self) -> &ClientId {
        &self.client
    }
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey(***)")
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("client", &self.client).field("expires", &self.expires).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA";

    fn key() -> TicketKey {
        let dir = tempfile::tempdir().unwrap();
        TicketKey::load_or_create(&dir.path().join("ticket.key")).unwrap()
    }

    fn alice() -> ClientId {
        ClientId::new("alice").unwrap()
    }

    fn verify(key: &TicketKey, text: &Secret, hash: Option<&str>, now: u64) -> Result<ClientId, TicketError> {
        key.verify(&Ticket::parse(text)?, hash, now)
    }

    #[test]
    fn a_look_finds_what_making_the_key_would_and_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certs/ticket.key");
        TicketKey::check(&path).unwrap();
        assert!(!dir.path().join("certs").exists());
        TicketKey::load_or_create(&path).unwrap();
        TicketKey::check(&path).unwrap();
        std::fs::write(&path, "junk").unwrap();
        assert!(matches!(TicketKey::check(&path), Err(TicketKeyError::Size(..))));
        // Where not even root makes anything.
        #[cfg(target_os = "linux")]
        assert!(matches!(TicketKey::check(Path::new("/proc/nowhere/ticket.key")), Err(TicketKeyError::File(_))));
    }

    #[test]
    fn a_ticket_holds_until_it_expires() {
        let key = key();
        let text = key.issue(&alice(), HASH, 1_000, 7);
        assert_eq!(Ticket::parse(&text).unwrap().claimed_client(), &alice());
        assert_eq!(verify(&key, &text, Some(HASH), 999), Ok(alice()));
        assert_eq!(verify(&key, &text, Some(HASH), 1_000), Err(TicketError::Expired));
    }

    #[test]
    fn a_new_token_or_another_server_ends_it() {
        let key_here = key();
        let text = key_here.issue(&alice(), HASH, 1_000, 7);
        assert_eq!(verify(&key_here, &text, Some("another hash"), 0), Err(TicketError::NotValid));
        assert_eq!(verify(&key_here, &text, None, 0), Err(TicketError::NotValid));
        assert_eq!(verify(&key(), &text, Some(HASH), 0), Err(TicketError::NotValid));
        let of_nobody = key_here.issue(&alice(), "", 1_000, 7);
        assert_eq!(verify(&key_here, &of_nobody, None, 0), Err(TicketError::NotValid));
    }

    #[test]
    fn no_bit_of_it_can_be_changed() {
        let key = key();
        let bytes = URL_SAFE_NO_PAD.decode(key.issue(&alice(), HASH, 1_000, 7).expose()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let forged = Secret::new(URL_SAFE_NO_PAD.encode(forged));
            assert!(verify(&key, &forged, Some(HASH), 0).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_longest_id_fits_and_nothing_longer() {
        let key = key();
        let longest = ClientId::new(&"x".repeat(63)).unwrap();
        let text = key.issue(&longest, HASH, u64::MAX, u64::MAX);
        assert_eq!(text.expose().len(), MAX_TEXT);
        assert_eq!(verify(&key, &text, Some(HASH), 0), Ok(longest));
        let malformed =
            ["", "AQ", "not base64!", &"A".repeat(MAX_TEXT), &"A".repeat(1 << 20), &format!("{}=", text.expose())];
        for text in malformed {
            assert_eq!(Ticket::parse(&Secret::new(text)).unwrap_err(), TicketError::Malformed);
        }
    }

    #[test]
    fn the_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/ticket.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| TicketKey::load_or_create(&path).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let text = keys[0].issue(&alice(), HASH, 1, 7);
        assert!(keys.iter().all(|key| verify(key, &text, Some(HASH), 0).is_ok()));
        assert_eq!(std::fs::read(&path).unwrap().len(), KEY);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.key");
        std::fs::write(&path, "short").unwrap();
        let error = TicketKey::load_or_create(&path).unwrap_err();
        assert!(matches!(error, TicketKeyError::Size(_, 5)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn a_start_outlives_its_ticket_and_is_the_client_s_alone() {
        let key = key();
        let ticket = Ticket::parse(&key.issue(&alice(), HASH, 1_000, 7)).unwrap();
        assert_eq!(key.verify(&ticket, Some("another hash"), 2_000), Err(TicketError::NotValid));
        assert_eq!(key.start_of(&ticket, &alice()), Some(7));
        assert_eq!(key.start_of(&ticket, &ClientId::new("bob").unwrap()), None);
        assert_eq!(self::key().start_of(&ticket, &alice()), None, "another server's");
    }

    #[test]
    fn no_bit_of_a_start_can_be_changed() {
        let key = key();
        let bytes = URL_SAFE_NO_PAD.decode(key.issue(&alice(), HASH, 1_000, 7).expose()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let Ok(forged) = Ticket::parse(&Secret::new(URL_SAFE_NO_PAD.encode(forged))) else { continue };
            // What is signed is the client and the number; the rest is the ticket's own.
            let number = key.start_of(&forged, &alice());
            assert!(number.is_none_or(|number| number == 7), "bit {bit}");
        }
    }

    /// As servers wrote it before they numbered starts.
    #[test]
    fn a_ticket_without_a_start_holds() {
        let key = key();
        let mut bytes = vec![WITHOUT_START];
        bytes.extend_from_slice(&1_000_u64.to_be_bytes());
        bytes.extend_from_slice(b"alice");
        let mut mac =
            key.0.clone().chain_update(b"adit ticket").chain_update([1]).chain_update(1_000_u64.to_be_bytes());
        mac.update(&5_u64.to_be_bytes());
        mac.update(b"alice");
        mac.update(&Sha256::digest(HASH));
        bytes.extend_from_slice(&mac.finalize().into_bytes());
        let ticket = Ticket::parse(&Secret::new(URL_SAFE_NO_PAD.encode(bytes))).unwrap();
        assert_eq!(key.verify(&ticket, Some(HASH), 999), Ok(alice()));
        assert_eq!(key.start_of(&ticket, &alice()), None);
    }
}
