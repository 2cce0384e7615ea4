//! TLS: for the tunnel, who the server is and how an agent makes sure of it; for visitors; and, in `local`, for local
//! applications. `verifier` is what all have in common that do not leave it to authorities whom to believe.

mod local;
mod verifier;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerified;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, OtherError, RootCertStore, ServerConfig};

use crate::certs::{SniCertificates, fingerprint_of};
use crate::protocol::ALPN;
use crate::values::{Fingerprint, without_bom, without_link};
pub use local::{LocalTrust, local_client};
use verifier::{Judge, Shown};

/// What the server's certificate is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The certificate authorities of the system.
    System,
    /// The authorities in this PEM file, and no others.
    CaFile(PathBuf),
    /// The authority whose key has this fingerprint, and no other.
    Fingerprint(Fingerprint),
}

/// TLS cannot be set up as the configuration asks.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file cannot be read or holds no certificate.
    #[error("cannot use the CA file {0}: {1}; copy `ca.pem` from the server's certs folder, or pin its fingerprint")]
    CaFile(PathBuf, String),
    /// The system has no root certificates.
    #[error(
        "this system has no root certificates{0}; install the package ca-certificates, or name the server's CA (--ca) or fingerprint (--fingerprint)"
    )]
    NoRoots(String),
    /// rustls refuses the certificate, key or settings.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What the tunnel listener needs to prove who it is.
///
/// # Errors
/// The key does not fit the certificate, or rustls cannot use it.
pub fn server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The same with certificates that can be exchanged while agents come.
///
/// # Errors
/// rustls cannot be set up.
pub fn tunnel_server(certificates: Arc<SniCertificates>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// What the public HTTPS listener needs: HTTP/2 and HTTP/1.1 over TLS 1.3 or 1.2, with tickets by which visitors resume.
///
/// # Errors
/// rustls cannot be set up.
pub fn public_server(certificates: Arc<SniCertificates>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    // One flight instead of two for what a visitor sends with its last handshake message is not worth its replays.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// HTTP/2 in ALPN (RFC 9113, section 3.2).
pub const HTTP2: &[u8] = b"h2";

/// HTTP/1.1 in ALPN (RFC 7301, section 6).
pub const HTTP1: &[u8] = b"http/1.1";

/// What an agent needs to make sure of the server, which it always does.
///
/// # Errors
/// The CA file or the system's roots cannot be used.
pub fn client(trust: &Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = match trust {
        Trust::System => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
        Trust::CaFile(path) => builder.with_root_certificates(ca_file(path)?).with_no_client_auth(),
        Trust::Fingerprint(pin) => verifier::believing(Pinned(*pin), builder),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError::NoRoots(why));
    }
    Ok(roots)
}

fn ca_file(path: &std::path::Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(path)? {
        roots.add(certificate).map_err(|error| TlsError::CaFile(path.to_owned(), error.to_string()))?;
    }
    Ok(roots)
}

/// The certificates in a PEM file; at least one.
fn certificates_in(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::CaFile(path.to_owned(), why);
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let text = without_bom(&bytes).map_err(|error| wrong(format!("it {error}")))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match certificates.map_err(|error| wrong(error.to_string()))? {
        certificates if certificates.is_empty() => Err(wrong("there is no certificate in it".to_owned())),
        certificates => Ok(certificates),
    }
}

/// Trusts one key: the server's own, or the CA's that the server sends along (then names and dates count as usual).
#[derive(Debug)]
struct Pinned(Fingerprint);

/// The server showed other keys than the pinned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's key is not the pinned one: it shows {shown}")]
pub struct PinMismatch {
    /// The fingerprint of the last certificate in the server's chain.
    pub shown: Fingerprint,
}

impl Judge for Pinned {
    fn judge(&self, shown: &Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<ServerCertVerified, rustls::Error> {
        let bad = |_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let mut last = fingerprint_of(shown.end_entity).map_err(bad)?;
        if last == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        for certificate in shown.intermediates {
            last = fingerprint_of(certificate).map_err(bad)?;
            if last == self.0 {
                let mut roots = RootCertStore::empty();
                roots.add(certificate.clone().into_owned())?;
                let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
                return shown.judged_by(&*signed.map_err(|error| rustls::Error::General(error.to_string()))?);
            }
        }
        Err(CertificateError::Other(OtherError(Arc::new(PinMismatch { shown: last }))).into())
    }
}

/// Says until or since when the server's certificate is valid. The same words for a whole day, so that they are not repeated.
fn not_valid_now(why: &CertificateError) -> String {
    match dates_of(why) {
        Some(dates) => {
            format!("the server's certificate {dates}; check the clock of this machine, then that of the server")
        }
        None => "the server's certificate is not valid today; check the clocks of both machines".to_owned(),
    }
}

/// Returns the dates in an error about the validity of a certificate, as a predicate.
fn dates_of(why: &CertificateError) -> Option<String> {
    let date = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).ok()?;
        Some(jiff::Timestamp::from_second(seconds).ok()?.to_string().split('T').next()?.to_owned())
    };
    let (what, end, now) = match why {
        CertificateError::ExpiredContext { time, not_after } => ("was valid until", not_after, time),
        CertificateError::NotValidYetContext { time, not_before } => ("is valid only from", not_before, time),
        _ => return None,
    };
    Some(format!("{what} {}, and by the clock of this machine it is {} now", date(end)?, date(now)?))
}

/// What went wrong in an agent's handshake, and what to do, in words for a newcomer.
pub fn explain_handshake(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the server closed the connection during the TLS handshake; is this the tunnel port?".to_owned()
            }
            _ => format!("the TLS handshake failed: {}", without_link(error)),
        };
    };
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            match other.downcast_ref::<PinMismatch>() {
                Some(mismatch) => format!(
                    "{mismatch}; if the server was set up anew, take the new fingerprint from its start-up message, otherwise somebody else may be answering"
                ),
                None => format!("the server's certificate is not accepted: {other}"),
            }
        }
        // Authorities that are made here all have the same name: another one shows as a signature that does not fit.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the server's certificate is signed by nobody who is trusted here; pass --fingerprint as the server prints it when it starts, or --ca with its certs/ca.pem".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the server's certificate is for another name ({tls}); dial the server by a name it has, or add this one to `tunnel.tls.names` in its server.toml"
        ),
        rustls::Error::InvalidCertificate(
            why @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        ) => not_valid_now(why),
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) | rustls::Error::NoApplicationProtocol => {
            "the server speaks TLS but not adit's protocol (ALPN adit/1); is this the tunnel port, and is nothing in front of it that ends TLS?".to_owned()
        }
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS on this port; the tunnel port (8080 by default) is needed, not the public one".to_owned()
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ca_file_is_read_as_editors_save_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let pair = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let pem = params.self_signed(&pair).unwrap().pem();
        for text in [pem.clone(), format!("\u{feff}{pem}")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(certificates_in(&path).unwrap().len(), 1);
        }
        let utf16: Vec<u8> = "\u{feff}".encode_utf16().chain(pem.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, utf16).unwrap();
        let message = certificates_in(&path).unwrap_err().to_string();
        assert!(message.contains("it is UTF-16 text; save it as UTF-8"), "{message}");
        assert!(certificates_in(&directory.path().join("none.pem")).is_err());
    }

    #[test]
    fn a_wrong_clock_is_named_with_dates_and_in_the_same_words_all_day() {
        let at = |text: &str| {
            let moment: jiff::Timestamp = text.parse().unwrap();
            UnixTime::since_unix_epoch(Duration::from_secs(moment.as_second().unsigned_abs()))
        };
        let said = |why| explain_handshake(&io::Error::other(rustls::Error::InvalidCertificate(why)));
        let expired = |now| CertificateError::ExpiredContext { time: at(now), not_after: at("2027-03-01T00:00:00Z") };
        let morning = said(expired("2030-01-02T01:00:00Z"));
        assert_eq!(
            morning,
            "the server's certificate was valid until 2027-03-01, and by the clock of this machine it is 2030-01-02 now; \
             check the clock of this machine, then that of the server"
        );
        assert_eq!(said(expired("2030-01-02T23:00:00Z")), morning);
        let early = CertificateError::NotValidYetContext {
            time: at("1970-01-01T00:00:09Z"),
            not_before: at("2026-03-01T00:00:00Z"),
        };
        assert!(
            said(early).contains("is valid only from 2026-03-01, and by the clock of this machine it is 1970-01-01")
        );
    }
}
