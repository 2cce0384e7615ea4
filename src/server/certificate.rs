//! The certificates that agents and visitors see: the operator's own, or one that is made here. They are exchanged while
//! the server runs, when their files change or the end of one is near; connections that are there go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::login::unix_now;
use crate::certs::{CertError, NamedChain, Own, SelfMade, SniCertificates, WatchedFiles};
use crate::config::OwnCertificate;
use crate::config::ServerConfig;
use crate::values::Fingerprint;

/// How often the ends of certificates are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(12 * 60 * 60);

/// Whoever brings a new certificate writes two files, one after the other.
const SECOND_FILE: Duration = Duration::from_secs(1);

/// How long before its end a certificate is warned of, in seconds. One of the server's own making is renewed before that.
const SOON: u64 = 14 * 24 * 60 * 60;

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
    pub fn load_or_make(config: &ServerConfig) -> Result<Self, CertError> {
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
    pub fn look(config: &ServerConfig) -> Result<Option<Self>, CertError> {
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
    pub fn renew(config: &ServerConfig) -> Result<Self, CertError> {
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
pub fn public_chains(config: &ServerConfig) -> Result<Vec<NamedChain>, CertError> {
    if config.public.certificates.is_empty() {
        return SelfMade::ensure(&config.tunnel.tls.dir, &self_made_names(config))
            .map(|made| vec![ServerCertificate::of(made).named()]);
    }
    let load = |own: &OwnCertificate| ServerCertificate::own(own).map(|certificate| certificate.named());
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

/// What watchers are told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// Where: `tunnel` or `https`.
    pub(super) of: &'static str,
    /// The first of its names.
    pub(super) name: String,
    /// The last second at which it is good, counted from 1970.
    pub(super) expires_unix: u64,
    chain: Vec<CertificateDer<'static>>,
}

impl Shown {
    fn new(of: &'static str, named: &NamedChain) -> Self {
        let name = named.names.first().cloned().unwrap_or_default();
        Self { of, name, expires_unix: named.expires_unix, chain: named.chain.clone() }
    }
}

/// What the listeners show, to be exchanged at any time. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tunnel: Arc<SniCertificates>,
    https: Option<Arc<SniCertificates>>,
    shown: RwLock<Vec<Shown>>,
    watched: Mutex<WatchedFiles>,
    /// Somebody wants them to be read again.
    asked: Notify,
}

impl Certificates {
    /// Loads or makes all of them; gives back what agents see, too. Blocks on files.
    ///
    /// # Errors
    /// The message names the file and the way out.
    pub(super) fn load(config: &ServerConfig) -> Result<(Self, ServerCertificate), CertError> {
        // Watched first: no change is missed.
        let files = files_of(config);
        let watched = WatchedFiles::new(files.iter().map(PathBuf::as_path));
        let certificate = ServerCertificate::load_or_make(config)?;
        let agents = certificate.named();
        let visitors = config.public.https.map(|_| public_chains(config)).transpose()?;
        let shown = shown(&agents, visitors.as_deref());
        let tunnel = Arc::new(SniCertificates::new(vec![agents])?);
        let https = visitors.map(|chains| SniCertificates::new(chains).map(Arc::new)).transpose()?;
        let (shown, watched, asked) = (RwLock::new(shown), Mutex::new(watched), Notify::new());
        Ok((Self(Arc::new(Inner { tunnel, https, shown, watched, asked })), certificate))
    }

    pub(super) fn tunnel(&self) -> Arc<SniCertificates> {
        Arc::clone(&self.0.tunnel)
    }

    pub(super) fn https(&self) -> Option<Arc<SniCertificates>> {
        self.0.https.clone()
    }

    /// What is shown now.
    pub(super) fn shown(&self) -> Vec<Shown> {
        self.0.shown.read().clone()
    }

    /// Has them read again; does not wait.
    pub fn ask(&self) {
        self.0.asked.notify_one();
    }

    /// Takes over what changes, renews what is of the server's own making, and warns of ends, until `stop`.
    pub(super) async fn keep_up(self, config: ServerConfig, stop: CancellationToken) {
        let mut watched = std::mem::replace(&mut *self.0.watched.lock(), WatchedFiles::new([]));
        let config = Arc::new(config);
        loop {
            self.warn_of_ends();
            tokio::select! {
                () = stop.cancelled() => return,
                () = watched.changed() => {}
                () = self.0.asked.notified() => watched.forget(),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            if let Err(first) = self.look(&config).await {
                tracing::debug!("the certificates cannot be used as they are, looking again: {first}");
                tokio::time::sleep(SECOND_FILE).await;
                if let Err(error) = self.look(&config).await {
                    tracing::warn!("the certificates stay as they were: {error}");
                }
            }
        }
    }

    async fn look(&self, config: &Arc<ServerConfig>) -> Result<(), CertError> {
        let (all, config) = (self.clone(), Arc::clone(config));
        let looked = tokio::task::spawn_blocking(move || all.look_now(&config)).await;
        looked.unwrap_or_else(|error| Err(CertError::Making(error.to_string())))
    }

    /// All of them, or none.
    fn look_now(&self, config: &ServerConfig) -> Result<(), CertError> {
        let agents = ServerCertificate::load_or_make(config)?.named();
        let visitors = self.0.https.as_ref().map(|_| public_chains(config)).transpose()?;
        let now = shown(&agents, visitors.as_deref());
        let before = self.shown();
        if now == before {
            return Ok(());
        }
        self.0.tunnel.replace(vec![agents])?;
        if let (Some(https), Some(visitors)) = (&self.0.https, visitors) {
            https.replace(visitors)?;
        }
        for Shown { of, name, expires_unix, .. } in now.iter().filter(|shown| !before.contains(shown)) {
            let until = date(*expires_unix);
            tracing::info!(of, name, until, "a certificate has changed and is shown from now on");
        }
        *self.0.shown.write() = now;
        Ok(())
    }

    fn warn_of_ends(&self) {
        let now = unix_now();
        for Shown { of, name, expires_unix, .. } in self.shown() {
            let until = date(expires_unix);
            match expires_unix {
                end if end < now => tracing::error!(of, name, until, "a certificate has ended: renew it"),
                end if end < now + SOON => tracing::warn!(of, name, until, "a certificate ends soon: renew it"),
                _ => {}
            }
        }
    }
}

fn shown(agents: &NamedChain, visitors: Option<&[NamedChain]>) -> Vec<Shown> {
    let visitors = visitors.unwrap_or_default().iter().map(|chain| Shown::new("https", chain));
    std::iter::once(Shown::new("tunnel", agents)).chain(visitors).collect()
}

/// The files that are read.
fn files_of(config: &ServerConfig) -> Vec<PathBuf> {
    let (tls, public) = (&config.tunnel.tls, &config.public);
    let own = tls.own.iter().chain(&public.certificates).flat_map(|own| [own.cert.clone(), own.key.clone()]);
    let makes_one = tls.own.is_none() || (public.https.is_some() && public.certificates.is_empty());
    own.chain(makes_one.then(|| SelfMade::file(Path::new(&tls.dir)))).collect()
}

/// For a person.
fn date(unix: u64) -> String {
    let moment = i64::try_from(unix).ok().and_then(|unix| Timestamp::from_second(unix).ok());
    moment.map_or_else(|| unix.to_string(), |moment| moment.to_string())
}
