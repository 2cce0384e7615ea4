//! TLS with local applications.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerified;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;

use super::verifier::{Judge, Shown, believing};
use super::{TlsError, ca_file, certificates_in, provider, system_roots};

/// What the certificate of an `https` application is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalTrust {
    /// The certificate authorities of the system.
    System,
    /// The authorities in this PEM file, and no others.
    CaFile(PathBuf),
    /// Nothing: any peer is accepted as the application, whatever certificate and key it has.
    Anybody,
}

/// What an agent needs to speak TLS with a local application, offering `alpn`.
///
/// # Errors
/// The CA file or the system's roots cannot be used.
pub fn local_client(trust: &LocalTrust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let mut config = match trust {
        LocalTrust::System => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
        LocalTrust::CaFile(path) => believing(Vouched::new(path, provider())?, builder),
        LocalTrust::Anybody => believing(Anybody, builder),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Takes any certificate, as the self-hoster has asked for.
#[derive(Debug)]
struct Anybody;

impl Judge for Anybody {
    fn judge(&self, _: &Shown<'_>, _: &Arc<CryptoProvider>) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn asks_for_proof(&self) -> bool {
        false
    }
}

/// Trusts what a file vouches for: certificates that an authority in it has signed, and those that are in it themselves.
/// The latter are what most appliances have made for themselves; by the rules of authorities they could not be checked
/// at all, since many say that they are one.
#[derive(Debug)]
struct Vouched {
    named: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl Vouched {
    fn new(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let named = certificates_in(path)?;
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(ca_file(path)?), provider).build();
        let signed = signed.map_err(|error| TlsError::CaFile(path.to_owned(), error.to_string()))?;
        Ok(Self { named, signed })
    }
}

impl Judge for Vouched {
    fn judge(&self, shown: &Shown<'_>, _: &Arc<CryptoProvider>) -> Result<ServerCertVerified, rustls::Error> {
        if self.named.iter().any(|named| named.as_ref() == shown.end_entity.as_ref()) {
            return Ok(ServerCertVerified::assertion());
        }
        shown.judged_by(&*self.signed)
    }
}
