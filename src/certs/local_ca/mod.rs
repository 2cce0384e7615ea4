//! A local CA, so that the first start of a server needs no certificate files.

pub(super) mod authority;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::certs::x509::{self, CertificateFields};
use crate::certs::{
    CertError, CertificateSource, Origin, ServerCertificate, SourceError, SourceSetting, fingerprint_of,
};
use crate::files::{self, Lock, Readers};
use crate::values::unix_now;
use authority::{Authority, DAY, authority_fingerprint};
use names::{own_addresses, wanted_names};

const CERT_FILE: &str = "server.pem";
const KEY_FILE: &str = "server.key";

/// The CA renews a server certificate that is valid for fewer days than this.
const RENEW_DAYS: u64 = 30;

/// A CA and the server certificate that it issues, both stored in one directory.
///
/// The CA (`ca.pem`, `ca.key`) is valid for ten years and is what agents trust. The server certificate (`server.pem`,
/// `server.key`) is valid for 397 days and is renewed when needed.
#[derive(Debug, Clone)]
pub struct LocalCa {
    dir: PathBuf,
    names: Vec<String>,
}

/// What one issuance depends on, apart from the CA itself.
#[derive(Debug, Clone, Copy)]
struct Issuance<'a> {
    /// The addresses of this machine.
    addresses: &'a [IpAddr],
    /// Seconds since 1970 UTC.
    now: u64,
    /// Whether to issue the server certificate even if the stored one is current.
    force: bool,
}

impl LocalCa {
    /// Returns the CA in `dir`. It issues the server certificate for `names`, which are host names (also wildcards) and IP
    /// addresses; `localhost`, the loopback addresses and the machine's own addresses are always added.
    pub fn new(dir: impl Into<PathBuf>, names: Vec<String>) -> Self {
        Self { dir: dir.into(), names }
    }

    /// Returns the server certificate. Creates the CA if it does not exist, and issues the server certificate if it does
    /// not exist, is valid for fewer than 30 days, lacks a wanted name, or does not match its key or the CA. If the folder is
    /// read-only, one that is still valid and lacks only addresses of this machine is enough.
    ///
    /// Never replaces the CA. Blocks; of two processes that start at once, one waits for the other and gets the same.
    ///
    /// # Errors
    /// A name cannot be in a certificate, a file cannot be read or written, or the files of the CA are incomplete, broken
    /// or expired.
    pub fn ensure(&self) -> Result<ServerCertificate, CertError> {
        self.issue(Issuance { addresses: &own_addresses(), now: unix_now(), force: false })
    }

    /// Issues a new server certificate, even if the stored one is current. Never creates the CA. Blocks.
    ///
    /// # Errors
    /// As [`LocalCa::ensure`]; also if there is no CA.
    pub fn renew(&self) -> Result<ServerCertificate, CertError> {
        if !Authority::exists(&self.dir) {
            return Err(CertError::NothingToRenew(self.dir.clone()));
        }
        self.issue(Issuance { addresses: &own_addresses(), now: unix_now(), force: true })
    }

    /// Checks what [`LocalCa::ensure`] would fail with, without creating or renewing anything. Blocks.
    ///
    /// # Errors
    /// As [`LocalCa::ensure`].
    pub fn dry_run_ensure(&self) -> Result<(), CertError> {
        wanted_names(&self.names, &[])?;
        Lock::look(&self.dir)?;
        Authority::check(&self.dir, unix_now())?;
        if authority_fingerprint(&self.dir)?.is_none() || StoredPair::load(&self.dir)?.is_none() {
            files::look_at_place(&self.dir)?;
        }
        Ok(())
    }

    /// Returns the stored server certificate, or `None` if there is no usable one. Creates nothing. Blocks.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn stored(&self) -> Result<Option<ServerCertificate>, CertError> {
        StoredPair::load(&self.dir)?.map(|pair| pair.into_certificate(Origin::Stored)).transpose()
    }

    fn issue(&self, issuance: Issuance<'_>) -> Result<ServerCertificate, CertError> {
        let (dir, Issuance { addresses, now, force }) = (&self.dir, issuance);
        let wanted = wanted_names(&self.names, addresses)?;
        if !force && let Some(current) = current(dir, &wanted, now) {
            return current.into_certificate(Origin::Stored);
        }
        match self.issue_under_lock(&wanted, now, force) {
            Err(CertError::File(error)) if !force && is_read_only(&error) => match self.usable(now)? {
                Some(pair) => {
                    tracing::warn!("the certificate in {} is not made anew, though it is due: {error}", dir.display());
                    pair.into_certificate(Origin::Stored)
                }
                None => Err(error.into()),
            },
            issued => issued,
        }
    }

    /// Returns the stored certificate if it is still valid and only lacks addresses of this machine, or will end soon.
    fn usable(&self, now: u64) -> Result<Option<StoredPair>, CertError> {
        let wanted = wanted_names(&self.names, &[])?;
        let Some(authority) = Authority::load(&self.dir, now)? else { return Ok(None) };
        Ok(StoredPair::load(&self.dir)?.filter(|pair| pair.is_usable(&authority, &wanted, now)))
    }

    fn issue_under_lock(
        &self,
        wanted: &BTreeSet<String>,
        now: u64,
        force: bool,
    ) -> Result<ServerCertificate, CertError> {
        let dir = &self.dir;
        let _lock = Lock::wait(dir)?;
        let authority = Authority::load_or_create(dir, now)?;
        let origin = |issued| match (authority.created, issued) {
            (true, _) => Origin::Created,
            (false, true) => Origin::Renewed,
            (false, false) => Origin::Stored,
        };
        if let Some(pair) = StoredPair::load(dir)?.filter(|pair| !force && pair.is_current(&authority, wanted, now)) {
            return pair.into_certificate(origin(false));
        }
        let signed = authority.sign(&wanted.iter().cloned().collect::<Vec<_>>(), now)?;
        // The key first: if the process stops in between, the next start finds that they do not match and issues both again.
        files::replace(&dir.join(KEY_FILE), signed.key.as_bytes(), Readers::Owner)?;
        files::replace(&dir.join(CERT_FILE), signed.chain.as_bytes(), Readers::Everyone)?;
        match StoredPair::load(dir)?.filter(|pair| pair.is_current(&authority, wanted, now)) {
            Some(pair) => pair.into_certificate(origin(true)),
            None => Err(CertError::Making(format!("what was written to {} is not what was meant", dir.display()))),
        }
    }
}

/// Returns the stored certificate if nothing has to be written. It needs no lock: the folder may be read-only. What another
/// process is just writing does not fit together, and is then looked at again under the lock.
fn current(dir: &Path, wanted: &BTreeSet<String>, now: u64) -> Option<StoredPair> {
    files::refuse_foreign(dir).ok()?;
    let authority = Authority::load(dir, now).ok()??;
    StoredPair::load(dir).ok()?.filter(|pair| pair.is_current(&authority, wanted, now))
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn source_error(error: CertError) -> SourceError {
    let setting = if matches!(error, CertError::Name(_)) { SourceSetting::Names } else { SourceSetting::Dir };
    SourceError::new(setting, error)
}

impl CertificateSource for LocalCa {
    fn load(&self) -> Result<ServerCertificate, Vec<SourceError>> {
        self.ensure().map_err(|error| vec![source_error(error)])
    }

    fn check(&self) -> Vec<SourceError> {
        self.dry_run_ensure().err().map(source_error).into_iter().collect()
    }

    /// Returns the file of the server certificate, which changes with every renewal.
    fn files(&self) -> Vec<PathBuf> {
        vec![self.dir.join(CERT_FILE)]
    }
}

/// The server certificate and its key as stored in the directory.
struct StoredPair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    fields: CertificateFields,
}

impl StoredPair {
    /// Returns `None` if either file is missing or unusable: the CA issues both again.
    fn load(dir: &Path) -> Result<Option<Self>, CertError> {
        let (cert_path, key_path) = (dir.join(CERT_FILE), dir.join(KEY_FILE));
        let cert_text = files::read_if_there(&cert_path)?;
        let key_text = files::read_if_there(&key_path)?.map(Zeroizing::new);
        let (Some(cert_text), Some(key_text)) = (cert_text, key_text) else { return Ok(None) };
        let parse = || {
            let chain = x509::chain_in(&cert_text, &cert_path)?;
            let key = x509::key_in(&key_text, &key_path)?;
            let first = chain.first().ok_or_else(|| CertError::NoCertificate(cert_path.clone()))?;
            let fields = CertificateFields::of(first, &cert_path)?;
            let fits = x509::is_pair(first, &cert_path, &key, &key_path)?;
            Ok::<_, CertError>(fits.then_some(Self { chain, key, fields }))
        };
        Ok(parse().unwrap_or(None))
    }

    fn is_current(&self, authority: &Authority, wanted: &BTreeSet<String>, now: u64) -> bool {
        let ahead = (now + RENEW_DAYS * DAY).min(authority.expires_unix);
        self.is_usable(authority, wanted, now) && self.is_usable(authority, wanted, ahead)
    }

    fn is_usable(&self, authority: &Authority, wanted: &BTreeSet<String>, at: u64) -> bool {
        matches!(&*self.chain, [server, ca] if *ca == authority.cert && authority.has_issued(server, at))
            && wanted.is_subset(&self.fields.names)
    }

    fn into_certificate(self, origin: Origin) -> Result<ServerCertificate, CertError> {
        let last = self.chain.last().ok_or_else(|| CertError::Making("the chain is empty".to_owned()))?;
        Ok(ServerCertificate {
            fingerprint: fingerprint_of(last)?,
            chain: self.chain,
            key: self.key,
            names: self.fields.names.into_iter().collect(),
            expires_unix: self.fields.expires_unix,
            origin,
        })
    }
}
