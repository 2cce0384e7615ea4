//! Several certificates on one listener.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::CertError;

/// A certificate chain, its key, and the names it is for.
#[derive(Debug)]
pub struct NamedChain {
    /// As it is sent: the server's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first one.
    pub key: PrivateKeyDer<'static>,
    /// Host names, wildcards among them (`*.example.com`).
    pub names: Vec<String>,
    /// The last second at which the first one is good, counted from 1970.
    pub expires_unix: u64,
}

/// Certificates chosen by the name that a visitor asks for in its handshake (SNI, RFC 6066, section 3): the one that has
/// this very name, else the one with a wildcard in place of its first label, else the first. Can be exchanged as a whole
/// while connections are made.
#[derive(Debug)]
pub struct SniCertificates(RwLock<Arc<Chosen>>);

#[derive(Debug)]
struct Chosen {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Chosen {
    fn new(chains: Vec<NamedChain>) -> Result<Self, CertError> {
        let mut chosen = Self { by_name: HashMap::new(), default: None };
        for NamedChain { chain, key, names, .. } in chains {
            let signer = any_supported_type(&key).map_err(|error| CertError::Making(error.to_string()))?;
            let certified = Arc::new(CertifiedKey::new(chain, signer));
            for name in names {
                // Of two for one name, the operator has put the better one first.
                chosen.by_name.entry(name.to_ascii_lowercase()).or_insert_with(|| Arc::clone(&certified));
            }
            chosen.default.get_or_insert(certified);
        }
        Ok(chosen)
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
    /// The first of `chains` is the default.
    ///
    /// # Errors
    /// A key is of a kind that cannot be used.
    pub fn new(chains: Vec<NamedChain>) -> Result<Self, CertError> {
        Ok(Self(RwLock::new(Arc::new(Chosen::new(chains)?))))
    }

    /// Takes over `others`: from the next handshake on, they alone count.
    pub fn exchange(&self, others: Self) {
        *self.0.write() = others.0.into_inner();
    }
}

impl ResolvesServerCert for SniCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = Arc::clone(&self.0.read());
        chosen.find(hello.server_name())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn chain(names: &[&str]) -> NamedChain {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let cert = CertificateParams::new(names.clone()).unwrap().self_signed(&key).unwrap();
        NamedChain {
            chain: vec![cert.der().clone()],
            key: key.serialize_der().try_into().unwrap(),
            names,
            expires_unix: 0,
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
        let certificates = SniCertificates::new(chains.into()).unwrap();
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
        let certificates = SniCertificates::new(vec![chain(&["a.example"])]).unwrap();
        let other = chain(&["b.example"]);
        let expected = other.chain[0].clone();
        certificates.exchange(SniCertificates::new(vec![other]).unwrap());
        assert_eq!(shown(&certificates, Some("a.example")), expected);
    }

    #[test]
    fn a_key_of_no_kind_is_refused() {
        let broken = NamedChain { key: PrivateKeyDer::Pkcs8(vec![0].into()), ..chain(&["c.example"]) };
        assert!(SniCertificates::new(vec![broken]).is_err());
    }
}
