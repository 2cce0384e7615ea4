//! The fingerprint of a certificate's key.

use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use sha2::{Digest as _, Sha256};

use super::CertError;
use crate::values::Fingerprint;

/// The SHA-256 of the certificate's `SubjectPublicKeyInfo`, its outer SEQUENCE included (RFC 7469, section 2.4).
///
/// It stays the same when a certificate is renewed for the same key. With a certificate in `ca.pem`, the same digits:
/// `openssl x509 -in ca.pem -pubkey -noout | openssl pkey -pubin -outform der | sha256sum`
///
/// # Errors
/// `cert` is not an X.509 certificate of version 3.
pub fn fingerprint_of(cert: &CertificateDer<'_>) -> Result<Fingerprint, CertError> {
    let parsed = ParsedCertificate::try_from(cert)
        .map_err(|error| CertError::Unreadable("the chain".to_owned(), error.to_string()))?;
    Ok(Fingerprint(Sha256::digest(parsed.subject_public_key_info()).into()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    const KNOWN: &str = "\
-----BEGIN CERTIFICATE-----
MIIBeDCCAR2gAwIBAgIUE0VB22FoFx4oyTyaLvR3ei/zrO0wCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFa25vd24wIBcNMjYxMTIzMTYyMjU1WhgPMjEyNjEwMzAxNjIy
NTVaMBAxDjAMBgNVBAMMBWtub3duMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
NXRYhwEApEWEXqkq+6icdN1XWL5H6BzADr22mkefFQVEgzG8c7mjIfe5XzGG/Qm0
gXK41UFvqDbDvv3LKEJ746NTMFEwHQYDVR0OBBYEFIxVMQWzzWcfWp5DypIamXs5
ymcBMB8GA1UdIwQYMBaAFIxVMQWzzWcfWp5DypIamXs5ymcBMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhANN89hvKzqCTRaoTLpM/SYulUklIkDkP
vELxxkQFFllnAiEAoBJ+V5n7HBiYGP1EIFFF71hxZyFk6lswgsSvWINAoK4=
-----END CERTIFICATE-----
";

    #[test]
    fn it_is_the_digest_of_the_public_key_alone() {
        let key = KeyPair::generate().unwrap();
        let cert = |name: &str| CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let expected = Fingerprint(Sha256::digest(key.subject_public_key_info()).into());
        assert_eq!(fingerprint_of(cert("a.example").der()).unwrap(), expected);
        assert_eq!(fingerprint_of(cert("b.example").der()).unwrap(), expected);
        let other = KeyPair::generate().unwrap();
        assert_ne!(expected, Fingerprint(Sha256::digest(other.subject_public_key_info()).into()));
    }

    /// Printed for this very certificate by the `openssl` line above.
    #[test]
    fn it_is_what_openssl_says() {
        use rustls::pki_types::pem::PemObject as _;
        let cert = CertificateDer::from_pem_slice(KNOWN.as_bytes()).unwrap();
        assert_eq!(
            fingerprint_of(&cert).unwrap().to_string(),
            "sha256:c1d52acbc8083309a87149cef48230912acbde73a69485153c9d7988017d2fb4"
        );
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        assert!(fingerprint_of(&CertificateDer::from(vec![0x30, 0])).is_err());
    }
}
