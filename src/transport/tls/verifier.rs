//! Who is believed, where that is not left to authorities. The peer must have its certificate's key, unless every key is good.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme, WantsVerifier};

/// Decides which certificates are good.
pub(super) trait Judge: fmt::Debug + Send + Sync + 'static {
    /// # Errors
    /// The certificate is not good.
    fn judge(&self, shown: &Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<ServerCertVerified, rustls::Error>;

    /// Returns whether the peer has to prove that it has the key of its certificate. That proves nothing if every key is
    /// good, and would exclude keys that the provider does not know.
    fn asks_for_proof(&self) -> bool {
        true
    }
}

/// What the other side shows of itself, and what it is to be.
pub(super) struct Shown<'a> {
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    server_name: &'a ServerName<'a>,
    ocsp_response: &'a [u8],
    now: UnixTime,
}

impl Shown<'_> {
    /// By the rules of authorities.
    pub(super) fn judged_by(&self, verifier: &dyn ServerCertVerifier) -> Result<ServerCertVerified, rustls::Error> {
        let Self { end_entity, intermediates, server_name, ocsp_response, now } = *self;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }
}

/// A client that believes whom `judge` believes.
pub(super) fn believing(judge: impl Judge, builder: ConfigBuilder<ClientConfig, WantsVerifier>) -> ClientConfig {
    let provider = Arc::clone(builder.crypto_provider());
    let verifier = Arc::new(Verifier { judge, provider });
    builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
}

/// Signatures that the provider cannot verify (RFC 8446, section 4.2.3). They are offered where nothing is verified.
const OTHER_SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED448,
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::ECDSA_SHA1_Legacy,
];

#[derive(Debug)]
struct Verifier<J> {
    judge: J,
    provider: Arc<CryptoProvider>,
}

impl<J: Judge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge.judge(&Shown { end_entity, intermediates, server_name, ocsp_response, now }, &self.provider)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.judge.asks_for_proof() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.judge.asks_for_proof() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.provider.signature_verification_algorithms.supported_schemes();
        if !self.judge.asks_for_proof() {
            schemes.extend(OTHER_SCHEMES);
        }
        schemes
    }
}
