//! Names and passwords, as `Authorization` has them (RFC 7617).

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{AccessError, MAX_ENTRIES};
use crate::auth::{HashError, Work, work_of};
use crate::limits::{AddressPermit, PerAddress, Permit, Permits};
use crate::protocol::access::BasicUser;
use crate::values::Secret;

/// The most characters in a user's name.
pub(super) const MAX_USER: usize = 128;

/// The most that a visitor's password may cost to compare. Less than for tokens: those hashes are the operator's own,
/// these come from clients, and visitors of all clients wait for one another.
pub(super) const MOST: Work = Work { memory_kib: 64 * 1024, passes: 5, lanes: 4 };

/// The most that memory and passes may be together, in the unit of [`Work::cost`]: those of RFC 9106's second recommended
/// option, 64 MiB and three passes. It is five times what `adit password` asks for.
pub(super) const MOST_COST: u64 = 3 * 64;

/// Requests to one service that may wait for the comparison of their passwords. Until half of the places are taken, an
/// address has as many as it likes: a browser has 256 requests open at once over HTTP/2, which need one comparison together.
/// Then it has a sixteenth of those that are left, and eight in any case. Others are told to come back.
const WAITING: usize = 512;
const SHARE: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");
const LEAST: usize = 8;

/// Who may log in to a service.
pub(super) struct Users {
    /// At least one.
    users: Vec<BasicUser>,
    /// Of each user: a digest of name and hash.
    digests: Vec<[u8; 32]>,
    id: [u8; 32],
    pub(super) waiting: Permits,
    waiting_of: PerAddress,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.users.iter().map(|user| &user.user)).finish()
    }
}

impl Users {
    pub(super) fn new(users: &[BasicUser]) -> Result<Self, AccessError> {
        if users.len() > MAX_ENTRIES {
            return Err(AccessError::TooMany { what: "basic_auth", number: users.len() });
        }
        let (mut id, mut digests) = (Sha256::new(), Vec::new());
        for (at, BasicUser { user, hash }) in users.iter().enumerate() {
            check_user(user)?;
            if users[..at].iter().any(|earlier| earlier.user == *user) {
                return Err(AccessError::UserTwice(user.clone()));
            }
            check_hash(user, hash)?;
            let mut digest = Sha256::new();
            for text in [user, hash] {
                for sum in [&mut id, &mut digest] {
                    sum.update((text.len() as u64).to_be_bytes());
                    sum.update(text);
                }
            }
            digests.push(digest.finalize().into());
        }
        Ok(Self {
            users: users.to_vec(),
            digests,
            id: id.finalize().into(),
            waiting: Permits::new(WAITING),
            waiting_of: PerAddress::new(NonZeroU32::MAX, 64),
        })
    }

    /// A place to wait for a comparison for a visitor at `from`; `None` if its address has its share, or all are taken.
    pub(super) fn wait(&self, from: IpAddr) -> Option<(AddressPermit, Permit)> {
        let share = self.waiting.fair_share(SHARE, LEAST);
        Some((self.waiting_of.try_acquire_within(from, share)?, self.waiting.try_acquire()?))
    }

    /// The same for the same names with the same hashes, and for no others: what was right for them once, is.
    pub(super) fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// Returns what stands for a user with the current password hash; `None` for an unknown name.
    pub(super) fn digest_of(&self, name: &str) -> Option<&[u8; 32]> {
        self.digests.get(self.users.iter().position(|user| user.user == name)?)
    }

    /// Returns the digest that begins so.
    pub(super) fn digest_that_begins(&self, beginning: &[u8]) -> Option<&[u8; 32]> {
        self.digests.iter().find(|digest| digest.starts_with(beginning))
    }

    /// The hash to compare with, and whether it counts: for a name that is not known, it is somebody else's, so that
    /// the answer takes as long.
    pub(super) fn hash_of(&self, name: &str) -> (&str, bool) {
        let known = self.users.iter().find(|user| user.user == name);
        let compared = known.or_else(|| self.users.first()).map_or("", |user| &user.hash);
        (compared, known.is_some())
    }
}

fn check_user(user: &str) -> Result<(), AccessError> {
    let is_odd = |c: char| c == ':' || c.is_control();
    if user.is_empty() || user.chars().count() > MAX_USER || user.contains(is_odd) {
        return Err(AccessError::User(crate::values::harmless_line(user).chars().take(80).collect()));
    }
    Ok(())
}

fn check_hash(user: &str, hash: &str) -> Result<(), AccessError> {
    let too_costly = |Work { memory_kib, passes, lanes }| {
        Err(AccessError::TooCostly { user: user.to_owned(), memory_kib, passes, lanes })
    };
    match work_of(hash) {
        Ok(work)
            if work.memory_kib > MOST.memory_kib
                || work.passes > MOST.passes
                || work.lanes > MOST.lanes
                || work.cost() > MOST_COST =>
        {
            too_costly(work)
        }
        Ok(_) => Ok(()),
        Err(HashError::TooCostly(memory_kib, passes, lanes)) => too_costly(Work { memory_kib, passes, lanes }),
        Err(HashError::Broken(reason)) => Err(AccessError::Hash { user: user.to_owned(), reason }),
        Err(error) => Err(AccessError::Hash { user: user.to_owned(), reason: error.to_string() }),
    }
}

/// A name and a password that a visitor has sent. Not compared yet.
pub struct Credential {
    /// `name:password`
    text: Zeroizing<String>,
    /// Where the colon is: a password may have some of its own.
    colon: usize,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not even the name: people type passwords into the wrong box.
        f.write_str("Credential(***)")
    }
}

impl Credential {
    /// Reads the one `Authorization` of a request; `None` if there is none, or more than one, or another scheme, or not
    /// base64 of UTF-8 with a colon and no control characters (RFC 7617, section 2).
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let (field, None) = (fields.next()?, fields.next()) else { return None };
        Self::parse(field)
    }

    fn parse(field: &HeaderValue) -> Option<Self> {
        let (scheme, encoded) = field.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let mut decoded = Zeroizing::new(STANDARD.decode(encoded.trim_start_matches(' ')).ok()?);
        std::str::from_utf8(&decoded).ok()?;
        // Checked just above; what is moved here is not left behind unwiped.
        let text = Zeroizing::new(String::from_utf8(std::mem::take(&mut *decoded)).unwrap_or_default());
        let colon = text.find(':')?;
        (!text.chars().any(|c| c.is_ascii_control())).then_some(Self { text, colon })
    }

    /// The name.
    pub(super) fn user(&self) -> &str {
        &self.text[..self.colon]
    }

    /// The password.
    pub(super) fn password(&self) -> Secret {
        Secret::new(&self.text[self.colon + 1..])
    }

    /// Both, as they were sent.
    pub(super) fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn read(values: &[&[u8]]) -> Option<(String, String)> {
        let credential = Credential::of(&headers(values))?;
        Some((credential.user().to_owned(), credential.password().expose().to_owned()))
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        // RFC 7617, sections 2 and 2.1.
        assert_eq!(read(&[b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]), pair("Aladdin", "open sesame"));
        assert_eq!(read(&[b"Basic dGVzdDoxMjPCow=="]), pair("test", "123£"));
        assert_eq!(read(&[b"bASIC   QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]), pair("Aladdin", "open sesame"));
        let colons = STANDARD.encode(":a:b:");
        assert_eq!(read(&[format!("Basic {colons}").as_bytes()]), pair("", "a:b:"));
    }

    #[test]
    fn what_is_not_one_readable_credential_is_none() {
        let good: &[u8] = b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[good, good]), None, "two fields");
        let encoded = |bytes: &[u8]| format!("Basic {}", STANDARD.encode(bytes)).into_bytes();
        for bad in [
            b"".to_vec(),
            b"Basic".to_vec(),
            b"Basic ".to_vec(),
            b"Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_vec(),
            b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ".to_vec(),
            b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==, Basic QTpC".to_vec(),
            b"Basic \xe9\xe9".to_vec(),
            encoded(b"no colon"),
            encoded(b"latin:\xe9"),
            encoded(b"a:line\nbreak"),
            encoded(b"a\0:b"),
        ] {
            assert_eq!(read(&[&bad]), None, "{:?}", String::from_utf8_lossy(&bad));
        }
    }

    #[test]
    fn a_credential_never_prints() {
        let credential = Credential::of(&headers(&[b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="])).unwrap();
        assert_eq!(format!("{credential:?}"), "Credential(***)");
    }

    proptest! {
        #[test]
        fn no_field_makes_it_panic(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..3)) {
            let values: Vec<&[u8]> =
                values.iter().map(Vec::as_slice).filter(|value| HeaderValue::from_bytes(value).is_ok()).collect();
            let _ = read(&values);
        }

        #[test]
        fn what_is_encoded_comes_back(user in "[^:\\p{Cc}]{0,20}", password in "\\P{Cc}{0,20}") {
            let field = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            prop_assert_eq!(read(&[field.as_bytes()]), Some((user, password)));
        }
    }
}
