//! Several certificates on one listener.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{CertError, ServerCertificate};

/// Selects a certificate by the server name of the TLS handshake (SNI, RFC 6066, section 3): the one with this name, else
/// the one with a wildcard for its first label, else the first. The certificates can be replaced while listeners use them.
#[derive(Debug)]
pub struct SniCertificates(RwLock<Arc<ByName>>);

#[derive(Debug)]
struct ByName {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl ByName {
    fn new<'c>(certificates: impl IntoIterator<Item = &'c ServerCertificate>) -> Result<Self, CertError> {
        let mut selection = Self { by_name: HashMap::new(), default: None };
        for ServerCertificate { chain, key, names, .. } in certificates {
            let signer = any_supported_type(key).map_err(|error| CertError::Making(error.to_string()))?;
            let certified = Arc::new(CertifiedKey::new(chain.clone(), signer));
            for name in names {
                // Of two certificates for one name, the operator lists the preferred one first.
                selection.by_name.entry(name.to_ascii_lowercase()).or_insert_with(|| Arc::clone(&certified));
            }
            selection.default.get_or_insert(certified);
        }
        Ok(selection)
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let by_name = |name: &str| {
            let name = name.to_ascii_lowercase();
            let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
            self.by_name.get(&name).or_else(wildcard).cloned()
        };
        name.and_then(by_name).or_else(|| self.default.clone())
    }
}

impl SniCertificates {
    /// Returns a selector of `certificates`; the first of them is the default.
    ///
    /// # Errors
    /// A key is of a kind that cannot be used.
    pub fn new<'c>(certificates: impl IntoIterator<Item = &'c ServerCertificate>) -> Result<Self, CertError> {
        Ok(Self(RwLock::new(Arc::new(ByName::new(certificates)?))))
    }

    /// Replaces all certificates; takes effect with the next handshake.
    pub fn replace(&self, others: Self) {
        *self.0.write() = others.0.into_inner();
    }
}

impl ResolvesServerCert for SniCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_name = Arc::clone(&self.0.read());
        by_name.find(hello.server_name())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;
    use crate::certs::{Origin, fingerprint_of};

    fn chain(names: &[&str]) -> ServerCertificate {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let cert = CertificateParams::new(names.clone()).unwrap().self_signed(&key).unwrap();
        ServerCertificate {
            chain: vec![cert.der().clone()],
            key: key.serialize_der().try_into().unwrap(),
            fingerprint: fingerprint_of(cert.der()).unwrap(),
            names,
            expires_unix: 0,
            origin: Origin::Operator,
        }
    }

    fn shown(certificates: &SniCertificates, name: Option<&str>) -> CertificateDer<'static> {
        certificates.0.read().find(name).unwrap().cert[0].clone()
    }

    #[test]
    fn the_name_chooses_and_the_first_is_for_all_others() {
        let chains =
            [chain(&["first.example"]), chain(&["*.a.example", "a.example"]), chain(&["X.a.example", "a.example"])];
        let [first, wild, exact] = [0, 1, 2].map(|at: usize| chains[at].chain[0].clone());
        let certificates = SniCertificates::new(&chains).unwrap();
        for (name, expected) in [
            (None, &first),
            (Some("first.example"), &first),
            (Some("elsewhere.example"), &first),
            (Some("a.example"), &wild),
            (Some("Y.A.example"), &wild),
            (Some("x.a.example"), &exact),
            (Some("x.y.a.example"), &first),
            (Some("com"), &first),
        ] {
            assert_eq!(shown(&certificates, name), *expected, "{name:?}");
        }
    }

    #[test]
    fn another_set_counts_from_the_next_handshake_on() {
        let certificates = SniCertificates::new([&chain(&["a.example"])]).unwrap();
        let other = chain(&["b.example"]);
        let expected = other.chain[0].clone();
        certificates.replace(SniCertificates::new([&other]).unwrap());
        assert_eq!(shown(&certificates, Some("a.example")), expected);
    }

    #[test]
    fn a_key_of_no_kind_is_refused() {
        let broken = ServerCertificate { key: PrivateKeyDer::Pkcs8(vec![0].into()), ..chain(&["c.example"]) };
        assert!(SniCertificates::new([&broken]).is_err());
    }
}
