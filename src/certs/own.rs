//! A certificate that the operator brought.

use std::path::Path;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::facts::{self, Facts};
use super::{CertError, fingerprint_of};
use crate::files;
use crate::values::Fingerprint;

/// A chain and its key from two PEM files, checked to belong together.
#[derive(Debug)]
pub struct Own {
    /// The certificates as they are sent: the server's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first one.
    pub key: PrivateKeyDer<'static>,
    /// The fingerprint of the key of the last one: of the server's own where it stands alone.
    pub fingerprint: Fingerprint,
    /// The host names and IP addresses the first one is for.
    pub names: Vec<String>,
    /// The last second at which the first one is good, counted from 1970, UTC. It may be past: that is for the
    /// caller to complain about, because a server that does not start helps nobody.
    pub expires_unix: u64,
}

/// Which of the two files a problem is with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnFile {
    /// That of the chain.
    Cert,
    /// That of the key.
    Key,
}

impl Own {
    /// Loads the chain in `cert` and the key in `key`. Blocks.
    ///
    /// # Errors
    /// A file is missing or cannot be read, holds nothing of its kind, or the two do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, CertError> {
        let first = |problems: Vec<(OwnFile, CertError)>| problems.into_iter().next().map(|(_, error)| error);
        // There is at least one.
        Self::read(cert, key)
            .map_err(|problems| first(problems).unwrap_or_else(|| CertError::NoCertificate(cert.to_owned())))
    }

    /// The same, and an error is everything that is wrong with the two files.
    ///
    /// # Errors
    /// As [`Own::load`].
    pub fn read(cert: &Path, key: &Path) -> Result<Self, Vec<(OwnFile, CertError)>> {
        let (chain, private) = match (chain_of(cert), key_of(key)) {
            (Ok(chain), Ok(private)) => (chain, private),
            (chain, private) => {
                let chain = chain.err().map(|error| (OwnFile::Cert, error));
                return Err(chain.into_iter().chain(private.err().map(|error| (OwnFile::Key, error))).collect());
            }
        };
        let own = || {
            let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
                return Err(CertError::NoCertificate(cert.to_owned()));
            };
            let is_pair = facts::is_pair((first, cert), (&private, key))?;
            let Facts { names, expires_unix } = Facts::of(first, cert)?;
            Ok((is_pair, names, expires_unix, fingerprint_of(last)?))
        };
        match own() {
            Ok((true, names, expires_unix, fingerprint)) => {
                let names = names.into_iter().collect();
                Ok(Self { chain, key: private, fingerprint, names, expires_unix })
            }
            Ok((false, ..)) => {
                Err(vec![(OwnFile::Key, CertError::NotAPair { cert: cert.to_owned(), key: key.to_owned() })])
            }
            Err(error) => Err(vec![(OwnFile::Cert, error)]),
        }
    }
}

fn chain_of(cert: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    facts::chain_in(&read(cert)?, cert)
}

/// A key that can be used.
fn key_of(key: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    let private = facts::key_in(&Zeroizing::new(read(key)?), key)?;
    facts::public_half(&private, key)?;
    Ok(private)
}

fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    files::read_if_there(path)?.ok_or_else(|| CertError::Missing(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_chain_and_its_key_are_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("fullchain.pem"), dir.path().join("key.pem"));
        let [ours, issuers] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let names = ["a.example", "192.0.2.1", "2001:db8::1"].map(String::from);
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2001, 9, 9);
        let [first, last] = [&ours, &issuers].map(|key| params.self_signed(key).unwrap());
        fs::write(&cert, format!("a comment\n{}{}", first.pem(), last.pem())).unwrap();
        fs::write(&key, ours.serialize_pem()).unwrap();
        let own = Own::load(&cert, &key).unwrap();
        assert_eq!(own.chain, [first.der().clone(), last.der().clone()]);
        assert_eq!(own.fingerprint, fingerprint_of(last.der()).unwrap());
        assert_eq!(own.names, ["192.0.2.1", "2001:db8::1", "a.example"]);
        assert_eq!(own.expires_unix, 999_993_600);
        assert!(!format!("{own:?}").contains(&format!("{:?}", ours.serialized_der())));

        fs::write(&key, issuers.serialize_pem()).unwrap();
        assert!(matches!(Own::load(&cert, &key), Err(CertError::NotAPair { .. })));
    }

    #[test]
    fn each_slip_has_its_own_message() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let pair = KeyPair::generate().unwrap();
        let pem = CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&pair).unwrap().pem();

        assert!(matches!(Own::load(&cert, &key), Err(CertError::Missing(path)) if path == cert));
        let both = Own::read(&cert, &key).unwrap_err();
        assert!(matches!(&both[..], [(OwnFile::Cert, _), (OwnFile::Key, CertError::Missing(path))] if *path == key));
        fs::write(&cert, pair.serialize_pem()).unwrap();
        assert!(matches!(Own::load(&cert, &key), Err(CertError::NoCertificate(path)) if path == cert));
        fs::write(&cert, &pem).unwrap();
        assert!(matches!(Own::load(&cert, &key), Err(CertError::Missing(path)) if path == key));
        fs::write(&key, &pem).unwrap();
        assert!(matches!(Own::load(&cert, &key), Err(CertError::NoKey(path)) if path == key));
        fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(matches!(Own::load(&cert, &key), Err(CertError::UnusableKey(path, _)) if path == key));
        fs::write(&key, pair.serialize_pem()).unwrap();
        fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let error = Own::load(&cert, &key).unwrap_err();
        assert!(matches!(error, CertError::Unreadable(..)) && error.to_string().contains("cert.pem"), "{error}");
    }
}
