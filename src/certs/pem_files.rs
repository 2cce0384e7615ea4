//! A certificate that the operator provides.

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::x509::{self, CertificateFields};
use super::{CertError, CertificateSource, Origin, ServerCertificate, SourceError, SourceSetting, fingerprint_of};
use crate::files;

/// A certificate chain and its private key in two PEM files.
#[derive(Debug, Clone)]
pub struct PemFiles {
    cert: PathBuf,
    key: PathBuf,
}

impl PemFiles {
    /// Returns the source that reads the chain from `cert` and the key from `key`.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { cert: cert.into(), key: key.into() }
    }

    fn pair(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerCertificate, SourceError> {
        let of_cert = |error| SourceError::new(SourceSetting::Cert, error);
        let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
            return Err(of_cert(CertError::NoCertificate(self.cert.clone())));
        };
        let is_pair = x509::is_pair(first, &self.cert, &key, &self.key).map_err(of_cert)?;
        let CertificateFields { names, expires_unix } = CertificateFields::of(first, &self.cert).map_err(of_cert)?;
        let fingerprint = fingerprint_of(last).map_err(of_cert)?;
        if !is_pair {
            let error = CertError::NotAPair { cert: self.cert.clone(), key: self.key.clone() };
            return Err(SourceError::new(SourceSetting::Key, error));
        }
        let names = names.into_iter().collect();
        Ok(ServerCertificate { chain, key, fingerprint, names, expires_unix, origin: Origin::Operator })
    }
}

impl CertificateSource for PemFiles {
    fn load(&self) -> Result<ServerCertificate, Vec<SourceError>> {
        match (read_chain(&self.cert), read_key(&self.key)) {
            (Ok(chain), Ok(key)) => self.pair(chain, key).map_err(|error| vec![error]),
            (chain, key) => {
                let chain = chain.err().map(|error| SourceError::new(SourceSetting::Cert, error));
                let key = key.err().map(|error| SourceError::new(SourceSetting::Key, error));
                Err(chain.into_iter().chain(key).collect())
            }
        }
    }

    fn check(&self) -> Vec<SourceError> {
        self.load().err().unwrap_or_default()
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.cert.clone(), self.key.clone()]
    }
}

fn read_chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    x509::chain_in(&read(cert)?, cert)
}

/// Reads a key that rustls supports.
fn read_key(key: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    let private = x509::key_in(&Zeroizing::new(read(key)?), key)?;
    x509::public_key(&private, key)?;
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

    /// Loads the pair; the first error is the one that a start fails with.
    fn load_first(files: &PemFiles) -> Result<ServerCertificate, CertError> {
        files.load().map_err(|mut errors| errors.remove(0).error)
    }

    #[test]
    fn a_chain_and_its_key_are_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("fullchain.pem"), dir.path().join("key.pem"));
        let files = PemFiles::new(&cert, &key);
        let [ours, issuers] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let names = ["a.example", "192.0.2.1", "2001:db8::1"].map(String::from);
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2001, 9, 9);
        let [first, last] = [&ours, &issuers].map(|key| params.self_signed(key).unwrap());
        fs::write(&cert, format!("a comment\n{}{}", first.pem(), last.pem())).unwrap();
        fs::write(&key, ours.serialize_pem()).unwrap();
        let own = load_first(&files).unwrap();
        assert_eq!(own.chain, [first.der().clone(), last.der().clone()]);
        assert_eq!(own.fingerprint, fingerprint_of(last.der()).unwrap());
        assert_eq!(own.names, ["192.0.2.1", "2001:db8::1", "a.example"]);
        assert_eq!(own.expires_unix, 999_993_600);
        assert!(!format!("{own:?}").contains(&format!("{:?}", ours.serialized_der())));

        // As some editors save them.
        fs::write(&cert, format!("\u{feff}{}{}", first.pem(), last.pem())).unwrap();
        fs::write(&key, format!("\u{feff}{}", ours.serialize_pem())).unwrap();
        assert_eq!(load_first(&files).unwrap().chain, own.chain);

        fs::write(&key, issuers.serialize_pem()).unwrap();
        assert!(matches!(load_first(&files), Err(CertError::NotAPair { .. })));
    }

    #[test]
    fn each_slip_has_its_own_message() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let files = PemFiles::new(&cert, &key);
        let pair = KeyPair::generate().unwrap();
        let pem = CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&pair).unwrap().pem();

        assert!(matches!(load_first(&files), Err(CertError::Missing(path)) if path == cert));
        let both = files.load().unwrap_err();
        assert!(matches!(
            &both[..],
            [SourceError { setting: SourceSetting::Cert, .. },
             SourceError { setting: SourceSetting::Key, error: CertError::Missing(path) }] if *path == key
        ));
        fs::write(&cert, b"\xff\xfe-\0").unwrap();
        let message = load_first(&files).unwrap_err().to_string();
        assert_eq!(message, format!("{} is UTF-16 text; save it as UTF-8", cert.display()));
        fs::write(&cert, pair.serialize_pem()).unwrap();
        assert!(matches!(load_first(&files), Err(CertError::NoCertificate(path)) if path == cert));
        fs::write(&cert, &pem).unwrap();
        assert!(matches!(load_first(&files), Err(CertError::Missing(path)) if path == key));
        fs::write(&key, &pem).unwrap();
        assert!(matches!(load_first(&files), Err(CertError::NoKey(path)) if path == key));
        fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(matches!(load_first(&files), Err(CertError::UnusableKey(path, _)) if path == key));
        fs::write(&key, pair.serialize_pem()).unwrap();
        fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let error = load_first(&files).unwrap_err();
        assert!(matches!(error, CertError::Unreadable(..)) && error.to_string().contains("cert.pem"), "{error}");
    }
}
