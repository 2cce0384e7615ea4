//! Where listeners get their certificate chains from.

use std::fmt;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::CertError;
use crate::values::Fingerprint;

/// A certificate chain for a listener, with its private key.
#[derive(Debug)]
pub struct ServerCertificate {
    /// The certificates in the order in which they are sent: the server's first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the server's certificate.
    pub key: PrivateKeyDer<'static>,
    /// The fingerprint that agents can pin: of the key of the last certificate in the chain.
    pub fingerprint: Fingerprint,
    /// The host names (including wildcards such as `*.example.com`) and IP addresses of the server's certificate.
    pub names: Vec<String>,
    /// The last second at which the server's certificate is valid, in seconds since 1970 UTC. It may be in the past:
    /// the caller warns, because a server that refuses to start helps less.
    pub expires_unix: u64,
    /// Where the certificate comes from.
    pub origin: Origin,
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The operator provides it.
    Operator,
    /// The local CA issued it just now; the CA itself is new, too.
    Created,
    /// The local CA, which existed already, issued it just now.
    Renewed,
    /// The local CA issued it earlier.
    Stored,
}

/// A source of one certificate chain: files of the operator ([`PemFiles`](super::PemFiles)) or the local CA
/// ([`LocalCa`](super::LocalCa)).
///
/// Listeners load a source at startup, whenever one of its files changes, whenever [`CertificateSource::changed`]
/// resolves, on each reload, and every 12 hours.
pub trait CertificateSource: fmt::Debug + Send + Sync {
    /// Returns the chain to serve from now on. Issues or renews it first if the source does so and it is due. May block
    /// on files.
    ///
    /// # Errors
    /// Everything that is wrong with the source; at least one error.
    fn load(&self) -> Result<ServerCertificate, Vec<SourceError>>;

    /// Returns what [`CertificateSource::load`] would fail with, without creating or changing anything. May block on
    /// files.
    fn check(&self) -> Vec<SourceError>;

    /// Returns the files to watch: after a change of one of them the source must be loaded again.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Resolves when a source that does not depend on files has a new chain. A change while nothing waits is reported to
    /// the next call. Cancel-safe.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// The setting of a source that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceSetting {
    /// The file of the chain.
    Cert,
    /// The file of the private key.
    Key,
    /// The directory of the local CA.
    Dir,
    /// The names for which the local CA issues the certificate.
    Names,
}

impl SourceSetting {
    /// Returns the configuration key of the setting, within the table of its source.
    pub fn key(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Key => "key",
            Self::Dir => "dir",
            Self::Names => "names",
        }
    }
}

/// An error of a source, and the setting that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct SourceError {
    /// The setting to look at.
    pub setting: SourceSetting,
    /// What is wrong.
    pub error: CertError,
}

impl SourceError {
    /// Returns `error` as one about `setting`.
    pub fn new(setting: SourceSetting, error: CertError) -> Self {
        Self { setting, error }
    }
}
