//! The errors of certificates, with messages that tell the operator what to do.

use std::path::{Path, PathBuf};

use crate::values::NotText;

/// Why no certificate could be loaded or issued. Each message names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file or directory cannot be read or written; the message names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// A file that the configuration names does not exist.
    #[error("there is no file {}: correct the path in the configuration, or put the file there", .0.display())]
    Missing(PathBuf),
    /// A file holds no certificate in PEM form.
    #[error("there is no certificate in {}: it should hold `-----BEGIN CERTIFICATE-----`, the server's own first", .0.display())]
    NoCertificate(PathBuf),
    /// A file holds no private key in PEM form.
    #[error("there is no private key in {}: it should hold `-----BEGIN PRIVATE KEY-----` (not an encrypted one)", .0.display())]
    NoKey(PathBuf),
    /// A file has an encoding that PEM cannot have.
    #[error("{} {}", .0.display(), .1)]
    NotPem(PathBuf, NotText),
    /// A certificate cannot be parsed.
    #[error("a certificate in {0} cannot be read: {1}")]
    Unreadable(String, String),
    /// The algorithm or size of the key is not supported.
    #[error("the key in {} cannot be used: {}; use ECDSA (P-256, P-384), Ed25519 or RSA of 2048 bits and more", .0.display(), .1)]
    UnusableKey(PathBuf, String),
    /// The key does not match the certificate.
    #[error("the key in {} does not belong to the first certificate in {}: bring the two that were made together", .key.display(), .cert.display())]
    NotAPair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// One file of the local CA is missing or broken while the other one exists.
    #[error(
        "{} {problem}. Agents trust this authority, so it is not replaced unasked: put the file back from a backup, \
         or delete ca.pem and ca.key to start over (each agent then needs the new ca.pem or fingerprint)", .file.display()
    )]
    Authority {
        /// The missing or broken file.
        file: PathBuf,
        /// What is wrong with the file.
        problem: &'static str,
    },
    /// There is no local CA that could renew a certificate.
    #[error(
        "there is no authority in {} (tunnel.tls.dir) that could make a certificate: start `adit server` once, which makes \
         both, or name the server's configuration with --config", .0.display()
    )]
    NothingToRenew(PathBuf),
    /// The local CA has expired.
    #[error("{} has expired: delete ca.pem and ca.key to start over (each agent then needs the new ca.pem or fingerprint)", .0.display())]
    AuthorityExpired(PathBuf),
    /// A name for the certificate is neither a host name nor an IP address.
    #[error(
        "`{0}` cannot be in a certificate: use a host name (`tunnel.example.com`, `*.example.com`) or an IP address"
    )]
    Name(String),
    /// A key or certificate could not be created.
    #[error("a certificate could not be made: {0}")]
    Making(String),
}

impl CertError {
    pub(super) fn unreadable(place: &Path, reason: impl ToString) -> Self {
        Self::Unreadable(place.display().to_string(), reason.to_string())
    }
}

impl From<rcgen::Error> for CertError {
    fn from(error: rcgen::Error) -> Self {
        Self::Making(error.to_string())
    }
}
