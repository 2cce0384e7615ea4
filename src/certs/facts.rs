//! What is written in a certificate, and whether a key belongs to it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;
use x509_parser::extensions::GeneralName;

use super::CertError;

/// What the rest of the house asks of a certificate.
#[derive(Debug)]
pub(super) struct Facts {
    /// Host names and IP addresses of the subjectAltName extension (RFC 5280, section 4.2.1.6), as text.
    pub(super) names: BTreeSet<String>,
    /// The last second at which it is good, counted from 1970, UTC.
    pub(super) expires_unix: u64,
}

impl Facts {
    /// Reads `cert`; `place` is where it came from, for the message.
    pub(super) fn of(cert: &CertificateDer<'_>, place: &Path) -> Result<Self, CertError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(cert).map_err(|error| CertError::unreadable(place, error))?;
        let extension = parsed.subject_alternative_name().map_err(|error| CertError::unreadable(place, error))?;
        let names = extension.iter().flat_map(|names| &names.value.general_names).filter_map(text_of).collect();
        let expires = parsed.validity().not_after.timestamp();
        Ok(Self { names, expires_unix: u64::try_from(expires).unwrap_or(0) })
    }
}

fn text_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

/// The certificates in the text of `place`, in their order; at least one.
pub(super) fn chain_in(text: &[u8], place: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|error| CertError::unreadable(place, error))?;
    if chain.is_empty() { Err(CertError::NoCertificate(place.to_owned())) } else { Ok(chain) }
}

/// The first private key in the text of `place`.
pub(super) fn key_in(text: &[u8], place: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => CertError::NoKey(place.to_owned()),
        other => CertError::UnusableKey(place.to_owned(), other.to_string()),
    })
}

/// Whether `key` is the private half of the key in `cert`; the places are for the message.
pub(super) fn is_pair(
    (cert, cert_place): (&CertificateDer<'_>, &Path),
    (key, key_place): (&PrivateKeyDer<'_>, &Path),
) -> Result<bool, CertError> {
    let parsed = ParsedCertificate::try_from(cert).map_err(|error| CertError::unreadable(cert_place, error))?;
    Ok(public_half(key, key_place)? == parsed.subject_public_key_info())
}

/// The public half of `key`, which is of a kind that can be used; the place is for the message.
pub(super) fn public_half(
    key: &PrivateKeyDer<'_>,
    place: &Path,
) -> Result<SubjectPublicKeyInfoDer<'static>, CertError> {
    let unusable = |reason: String| CertError::UnusableKey(place.to_owned(), reason);
    let signer = any_supported_type(key).map_err(|error| unusable(error.to_string()))?;
    let public = signer.public_key().ok_or_else(|| unusable("it has no public half".to_owned()))?;
    Ok(public.into_owned())
}
