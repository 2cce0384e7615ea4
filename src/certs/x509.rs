//! Reads certificates and keys in PEM form, and the fields of a certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;
use x509_parser::extensions::GeneralName;

use super::CertError;
use crate::values::without_bom;

/// The fields of a certificate that the server uses.
#[derive(Debug)]
pub(super) struct CertificateFields {
    /// Host names and IP addresses of the subjectAltName extension (RFC 5280, section 4.2.1.6), as text.
    pub(super) names: BTreeSet<String>,
    /// The last second at which the certificate is valid, in seconds since 1970 UTC.
    pub(super) expires_unix: u64,
}

impl CertificateFields {
    /// Parses `cert`; `path` is its file, for error messages.
    pub(super) fn of(cert: &CertificateDer<'_>, path: &Path) -> Result<Self, CertError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(cert).map_err(|error| CertError::unreadable(path, error))?;
        let extension = parsed.subject_alternative_name().map_err(|error| CertError::unreadable(path, error))?;
        let names = extension.iter().flat_map(|names| &names.value.general_names).filter_map(name_text).collect();
        let expires = parsed.validity().not_after.timestamp();
        Ok(Self { names, expires_unix: u64::try_from(expires).unwrap_or(0) })
    }
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

/// Returns the certificates in `text`, the content of `path`, in their order; at least one.
pub(super) fn chain_in(text: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let text = without_bom(text).map_err(|error| CertError::NotPem(path.to_owned(), error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|error| CertError::unreadable(path, error))?;
    if chain.is_empty() { Err(CertError::NoCertificate(path.to_owned())) } else { Ok(chain) }
}

/// Returns the first private key in `text`, the content of `path`.
pub(super) fn key_in(text: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    let text = without_bom(text).map_err(|error| CertError::NotPem(path.to_owned(), error))?;
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => CertError::NoKey(path.to_owned()),
        other => CertError::UnusableKey(path.to_owned(), other.to_string()),
    })
}

/// Returns whether `key`, from the file `key_path`, is the private key of `cert`, which was read from `cert_path`.
pub(super) fn is_pair(
    cert: &CertificateDer<'_>,
    cert_path: &Path,
    key: &PrivateKeyDer<'_>,
    key_path: &Path,
) -> Result<bool, CertError> {
    let parsed = ParsedCertificate::try_from(cert).map_err(|error| CertError::unreadable(cert_path, error))?;
    Ok(public_key(key, key_path)? == parsed.subject_public_key_info())
}

/// Returns the public key of `key`. Fails if rustls does not support its algorithm; `path` is its file, for error messages.
pub(super) fn public_key(key: &PrivateKeyDer<'_>, path: &Path) -> Result<SubjectPublicKeyInfoDer<'static>, CertError> {
    let unusable = |reason: String| CertError::UnusableKey(path.to_owned(), reason);
    let signer = any_supported_type(key).map_err(|error| unusable(error.to_string()))?;
    let public = signer.public_key().ok_or_else(|| unusable("it has no public half".to_owned()))?;
    Ok(public.into_owned())
}
