//! The certificate that agents see: the operator's own, or one that is made here.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::certs::{CertError, NamedChain, Own, SelfMade};
use crate::config::OwnCertificate;
use crate::config::ServerConfig;
use crate::values::Fingerprint;

/// What the tunnel listener shows.
#[derive(Debug)]
pub struct ServerCertificate {
    /// As it is sent: the server's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first one.
    pub key: PrivateKeyDer<'static>,
    /// By what agents can pin it.
    pub fingerprint: Fingerprint,
    /// The names and addresses it is for.
    pub names: Vec<String>,
    /// The last second at which it is good, counted from 1970.
    pub expires_unix: u64,
    /// Where it comes from, in a few words.
    pub origin: Origin,
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The operator brought it.
    Own,
    /// Made at this start, with a new authority.
    Made,
    /// Made at this start, by the authority that was there.
    Renewed,
    /// Made at an earlier start.
    Kept,
}

/// What watchers are told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// Where: `tunnel` or `https`.
    pub(super) of: &'static str,
    /// The first of its names.
    pub(super) name: String,
    /// The last second at which it is good, counted from 1970.
    pub(super) expires_unix: u64,
}

impl Shown {
    /// What agents see.
    pub(super) fn of_agents(certificate: &ServerCertificate) -> Self {
        Self { of: "tunnel", name: first(&certificate.names), expires_unix: certificate.expires_unix }
    }

    /// What visitors see.
    pub(super) fn of_visitors(chain: &NamedChain) -> Self {
        Self { of: "https", name: first(&chain.names), expires_unix: chain.expires_unix }
    }
}

fn first(names: &[String]) -> String {
    names.first().cloned().unwrap_or_default()
}

impl ServerCertificate {
    /// Loads what the configuration names, or makes what is missing. Blocks on files.
    ///
    /// # Errors
    /// The message names the file and the way out.
    pub fn load_or_make(config: &ServerConfig) -> Result<Self, CertError> {
        let tls = &config.tunnel.tls;
        if let Some(own) = &tls.own {
            let Own { chain, key, fingerprint, names, expires_unix } = Own::load(&own.cert, &own.key)?;
            return Ok(Self { chain, key, fingerprint, names, expires_unix, origin: Origin::Own });
        }
        let made = SelfMade::ensure(&tls.dir, &self_made_names(config))?;
        let origin = match (made.created, made.renewed) {
            (true, _) => Origin::Made,
            (false, true) => Origin::Renewed,
            (false, false) => Origin::Kept,
        };
        let SelfMade { chain, key, fingerprint, names, expires_unix, .. } = made;
        Ok(Self { chain, key, fingerprint, names, expires_unix, origin })
    }
}

/// What the HTTPS listener shows: the operator's certificates, or the one that is made here. Blocks on files.
///
/// # Errors
/// The message names the file and the way out.
pub fn public_chains(config: &ServerConfig) -> Result<Vec<NamedChain>, CertError> {
    if config.public.certificates.is_empty() {
        let SelfMade { chain, key, names, expires_unix, .. } =
            SelfMade::ensure(&config.tunnel.tls.dir, &self_made_names(config))?;
        return Ok(vec![NamedChain { chain, key, names, expires_unix }]);
    }
    let load = |own: &OwnCertificate| {
        let Own { chain, key, names, expires_unix, .. } = Own::load(&own.cert, &own.key)?;
        Ok(NamedChain { chain, key, names, expires_unix })
    };
    config.public.certificates.iter().map(load).collect()
}

/// One certificate of the server's own making serves agents and visitors: agents usually dial the domain that visitors
/// use.
fn self_made_names(config: &ServerConfig) -> Vec<String> {
    let mut names = config.tunnel.tls.names.clone();
    let domain = &config.public.domain;
    let below = config.public.https.map(|_| format!("*.{domain}"));
    names.extend([Some(domain.clone()), below].into_iter().flatten());
    names
}
