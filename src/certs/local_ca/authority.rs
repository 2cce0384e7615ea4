//! The key and certificate of the local CA, with which it signs server certificates.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::Offset;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use zeroize::Zeroizing;

use crate::certs::x509::{self, CertificateFields};
use crate::certs::{CertError, fingerprint_of};
use crate::files::{self, Readers};
use crate::values::Fingerprint;

/// Seconds in a day.
pub(super) const DAY: u64 = 86_400;
/// How many days the CA certificate is valid: ten years.
const AUTHORITY_DAYS: u64 = 3_652;
/// How many days a server certificate is valid. Some clients refuse more than 398, including the day before issuance.
const SERVER_DAYS: u64 = 397;

const CERT_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

/// The CA certificate with its key.
pub(super) struct Authority {
    pub(super) cert: CertificateDer<'static>,
    /// The content of `ca.pem`, which is appended to each server certificate.
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    pub(super) expires_unix: u64,
    /// Whether the key was created just now.
    pub(super) created: bool,
}

/// A server certificate followed by the CA certificate, and its key; both in PEM form.
pub(super) struct Signed {
    pub(super) chain: String,
    pub(super) key: Zeroizing<String>,
}

impl Authority {
    /// Loads the CA in `dir`, or creates it if neither of its files exists. If only the key exists, its certificate is
    /// created again: a client that trusts the key or the old certificate trusts this one too. The caller holds the
    /// lock of `dir`.
    pub(super) fn load_or_create(dir: &Path, now: u64) -> Result<Self, CertError> {
        let Files { key, pem } = Files::read(dir)?;
        let created = key.is_none();
        let key = match key {
            Some(key) => key,
            None => new_key(&dir.join(KEY_FILE))?,
        };
        let pem = match pem {
            Some(pem) => pem,
            None => new_certificate(&key, &dir.join(CERT_FILE), now)?,
        };
        Self::new(dir, key, pem, now).map(|authority| Self { created, ..authority })
    }

    /// Returns whether `dir` has any file of a CA, or this user may not look.
    pub(super) fn exists(dir: &Path) -> bool {
        [CERT_FILE, KEY_FILE].iter().any(|file| dir.join(file).try_exists().unwrap_or(true))
    }

    /// Loads the CA in `dir` if both of its files are there.
    pub(super) fn load(dir: &Path, now: u64) -> Result<Option<Self>, CertError> {
        match Files::read(dir)? {
            Files { key: Some(key), pem: Some(pem) } => Self::new(dir, key, pem, now).map(Some),
            _ => Ok(None),
        }
    }

    /// Returns the error that [`Authority::load_or_create`] would fail with, without creating anything.
    pub(super) fn check(dir: &Path, now: u64) -> Result<(), CertError> {
        Self::load(dir, now).map(drop)
    }

    fn new(dir: &Path, key: KeyPair, pem: Vec<u8>, now: u64) -> Result<Self, CertError> {
        let (cert_path, key_path) = (dir.join(CERT_FILE), dir.join(KEY_FILE));
        let pem = String::from_utf8(pem).map_err(|_| wrong(&cert_path, "is not a text in PEM form"))?;
        let cert = match x509::chain_in(pem.as_bytes(), &cert_path).as_deref() {
            Ok([cert]) => cert.clone(),
            _ => return Err(wrong(&cert_path, "does not hold one certificate in PEM form")),
        };
        let key_der =
            PrivateKeyDer::try_from(key.serialized_der()).map_err(|reason| CertError::Making(reason.into()))?;
        if !x509::is_pair(&cert, &cert_path, &key_der, &key_path)? {
            return Err(wrong(&key_path, "does not belong to ca.pem"));
        }
        let expires_unix = CertificateFields::of(&cert, &cert_path)?.expires_unix;
        if now >= expires_unix {
            return Err(CertError::AuthorityExpired(cert_path));
        }
        let issuer = Issuer::from_ca_cert_der(&cert, key)?;
        Ok(Self { cert, pem, issuer, expires_unix, created: false })
    }

    /// Issues a server certificate for `names`, with a new key.
    pub(super) fn sign(&self, names: &[String], now: u64) -> Result<Signed, CertError> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "adit server");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, (now + SERVER_DAYS * DAY).min(self.expires_unix))?;
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Signed { chain: format!("{}{}", cert.pem(), self.pem), key: Zeroizing::new(key.serialize_pem()) })
    }

    /// Returns whether a client that trusts this CA accepts `cert` as a server certificate at the time `at`. Does not
    /// check names.
    pub(super) fn has_issued(&self, cert: &CertificateDer<'_>, at: u64) -> bool {
        let mut roots = RootCertStore::empty();
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        roots.add(self.cert.clone()).is_ok()
            && ParsedCertificate::try_from(cert)
                .and_then(|cert| verify_server_cert_signed_by_trust_anchor(&cert, &roots, &[], at, algorithms))
                .is_ok()
    }
}

/// The files of a CA that exist.
struct Files {
    key: Option<KeyPair>,
    /// The certificate; `Some` only if `key` is, too.
    pem: Option<Vec<u8>>,
}

impl Files {
    fn read(dir: &Path) -> Result<Self, CertError> {
        let key_path = dir.join(KEY_FILE);
        let pem = files::read_if_there(&dir.join(CERT_FILE))?;
        let key = match files::read_if_there(&key_path)?.map(Zeroizing::new) {
            Some(text) => Some(key_pair(&text).ok_or_else(|| wrong(&key_path, "holds no usable key"))?),
            None if pem.is_none() => None,
            None => return Err(wrong(&key_path, "is missing")),
        };
        Ok(Self { key, pem })
    }
}

fn wrong(file: &Path, problem: &'static str) -> CertError {
    CertError::Authority { file: file.to_owned(), problem }
}

/// Returns the fingerprint of the local CA in `dir`, or `None` if there is no CA yet. Creates nothing.
///
/// # Errors
/// The CA certificate cannot be read.
pub fn authority_fingerprint(dir: &Path) -> Result<Option<Fingerprint>, CertError> {
    let path = dir.join(CERT_FILE);
    let Some(text) = files::read_if_there(&path)? else { return Ok(None) };
    let chain = x509::chain_in(&text, &path)?;
    chain.first().map(fingerprint_of).transpose()
}

fn key_pair(text: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pem(std::str::from_utf8(text).ok()?).ok()
}

fn new_key(path: &Path) -> Result<KeyPair, CertError> {
    let key = KeyPair::generate()?;
    files::replace(path, Zeroizing::new(key.serialize_pem()).as_bytes(), Readers::Owner)?;
    Ok(key)
}

fn new_certificate(key: &KeyPair, path: &Path, now: u64) -> Result<Vec<u8>, CertError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "adit CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    set_validity(&mut params, now, now + AUTHORITY_DAYS * DAY)?;
    let pem = params.self_signed(key)?.pem();
    files::replace(path, pem.as_bytes(), Readers::Everyone)?;
    Ok(pem.into_bytes())
}

/// Makes the certificate valid from the day before `now`, because clocks of agents may be slow, until the day of `until`.
fn set_validity(params: &mut CertificateParams, now: u64, until: u64) -> Result<(), CertError> {
    let midnight = |unix: u64| {
        let out_of_range = |_| CertError::Making("the clock of this machine is far off; set it first".to_owned());
        let seconds = i64::try_from(unix).unwrap_or(i64::MAX);
        let date = Offset::UTC.to_datetime(Timestamp::from_second(seconds).map_err(out_of_range)?).date();
        let [month, day] = [date.month(), date.day()].map(i8::unsigned_abs);
        Ok::<_, CertError>(rcgen::date_time_ymd(date.year().into(), month, day))
    };
    params.not_before = midnight(now.saturating_sub(DAY))?;
    params.not_after = midnight(until)?;
    Ok(())
}
