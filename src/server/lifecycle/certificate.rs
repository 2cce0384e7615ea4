//! The certificates that agents and visitors see: the operator's own, or one that is made here. `shown` is what the
//! listeners show of them, exchanged while the server runs.

mod shown;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::certs::{CertError, NamedChain, Own, SelfMade};
use crate::server::options::OwnCertificate;
use crate::server::options::ServerOptions;
use crate::values::Fingerprint;
pub(crate) use shown::{Certificates, check, check_all};

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

impl ServerCertificate {
    /// Loads what the configuration names, or makes what is missing. Blocks on files.
    ///
    /// # Errors
    /// The message names the file and the way out.
    pub fn load_or_make(config: &ServerOptions) -> Result<Self, CertError> {
        let tls = &config.tunnel.tls;
        match &tls.own {
            Some(own) => Self::own(own),
            None => SelfMade::ensure(&tls.dir, &self_made_names(config)).map(Self::of),
        }
    }

    /// What is there, without making anything; `None` if nothing was made yet. Blocks on files.
    ///
    /// # Errors
    /// As [`ServerCertificate::load_or_make`].
    pub fn look(config: &ServerOptions) -> Result<Option<Self>, CertError> {
        let tls = &config.tunnel.tls;
        match &tls.own {
            Some(own) => Self::own(own).map(Some),
            None => SelfMade::look(&tls.dir).map(|made| made.map(Self::of)),
        }
    }

    /// Makes the one of the server's own making anew, by the authority that is there: agents need nothing new. Blocks on
    /// files.
    ///
    /// # Errors
    /// As [`ServerCertificate::load_or_make`].
    pub fn renew(config: &ServerOptions) -> Result<Self, CertError> {
        SelfMade::renew(&config.tunnel.tls.dir, &self_made_names(config)).map(Self::of)
    }

    fn own(own: &OwnCertificate) -> Result<Self, CertError> {
        let Own { chain, key, fingerprint, names, expires_unix } = Own::load(&own.cert, &own.key)?;
        Ok(Self { chain, key, fingerprint, names, expires_unix, origin: Origin::Own })
    }

    fn of(made: SelfMade) -> Self {
        let origin = match (made.created, made.renewed) {
            (true, _) => Origin::Made,
            (false, true) => Origin::Renewed,
            (false, false) => Origin::Kept,
        };
        let SelfMade { chain, key, fingerprint, names, expires_unix, .. } = made;
        Self { chain, key, fingerprint, names, expires_unix, origin }
    }

    fn named(&self) -> NamedChain {
        NamedChain {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            names: self.names.clone(),
            expires_unix: self.expires_unix,
        }
    }
}

/// What the HTTPS listener shows: the operator's certificates, or the one that is made here. Blocks on files.
///
/// # Errors
/// The message names the file and the way out.
pub fn public_chains(config: &ServerOptions) -> Result<Vec<NamedChain>, CertError> {
    if config.public.certificates.is_empty() {
        return SelfMade::ensure(&config.tunnel.tls.dir, &self_made_names(config))
            .map(|made| vec![ServerCertificate::of(made).named()]);
    }
    let load = |own: &OwnCertificate| ServerCertificate::own(own).map(|certificate| certificate.named());
    config.public.certificates.iter().map(load).collect()
}

/// One certificate of the server's own making serves agents and visitors: agents usually dial the domain that visitors
/// use.
fn self_made_names(config: &ServerOptions) -> Vec<String> {
    let mut names = config.tunnel.tls.names.clone();
    let domain = &config.public.domain;
    let below = config.public.https.map(|_| format!("*.{domain}"));
    names.extend([Some(domain.clone()), below].into_iter().flatten());
    names
}
