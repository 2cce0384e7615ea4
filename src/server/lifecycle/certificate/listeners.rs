//! The certificates that the listeners use. They are replaced while the server runs: when a source changes, a reload names
//! other sources, or a certificate is renewed. Open connections are unaffected.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::CertificateDer;
use tokio::sync::{MutexGuard, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::certs::{CertError, FileWatcher, ServerCertificate, SniCertificates};
use crate::schema::Problem;
use crate::server::lifecycle::certificate::configured_sources::{LoadError, LoadedCertificates, Sources};
use crate::values::unix_now;

/// How often all sources are loaded, so that they renew, and expiry is checked.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(12 * 60 * 60);

/// How often all sources are loaded while one of them fails: the cause may go away without a change of its files.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// How long to wait for the second file: a certificate and its key are written one after the other.
const SECOND_FILE: Duration = Duration::from_secs(1);

/// How long before a certificate expires the log warns, in seconds. The local CA renews its own earlier.
const EXPIRY_WARNING: u64 = 14 * 24 * 60 * 60;

/// A certificate that a listener uses, as the metrics and the log describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveCertificate {
    /// The listener: `tunnel` or `https`.
    pub(crate) of: &'static str,
    /// The first name of the certificate.
    pub(crate) name: String,
    /// The last second at which the certificate is valid, in seconds since 1970 UTC.
    pub(crate) expires_unix: u64,
    chain: Vec<CertificateDer<'static>>,
}

impl ActiveCertificate {
    fn new(of: &'static str, certificate: &ServerCertificate) -> Self {
        let name = certificate.names.first().cloned().unwrap_or_default();
        Self { of, name, expires_unix: certificate.expires_unix, chain: certificate.chain.clone() }
    }

    fn all(loaded: &LoadedCertificates) -> Vec<Self> {
        loaded.by_listener().map(|(of, certificate)| Self::new(of, certificate)).collect()
    }
}

/// The certificates of all listeners. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tunnel: Arc<SniCertificates>,
    https: Option<Arc<SniCertificates>>,
    active: RwLock<Vec<ActiveCertificate>>,
    /// Why the listeners do not use what the sources hold; empty if they do.
    problems: Mutex<Vec<Problem>>,
    /// The current sources. Locked while they are loaded.
    sources: tokio::sync::Mutex<Arc<Sources>>,
    /// A watcher of other files than before, until [`Certificates::maintain`] takes it.
    new_watcher: Mutex<Option<FileWatcher>>,
    /// Notified after a reload has loaded the sources.
    reloaded: Notify,
}

/// Certificates that are loaded and not used yet. No other load can start until this is dropped.
#[must_use = "the listeners use them only once they are applied"]
pub(crate) struct PendingCertificates<'a> {
    inner: &'a Inner,
    current: MutexGuard<'a, Arc<Sources>>,
    loaded: Loaded,
}

/// The result of loading `sources`.
struct Loaded {
    sources: Arc<Sources>,
    tunnel: SniCertificates,
    https: Option<SniCertificates>,
    active: Vec<ActiveCertificate>,
    /// A watcher of the files of `sources`, if they are others than before.
    watcher: Option<FileWatcher>,
}

impl Loaded {
    /// Loads `sources`, which replace `before`. Blocks on files.
    fn load(sources: Arc<Sources>, before: &Sources) -> Result<Self, Vec<Problem>> {
        // The watcher starts before the files are read, so that it misses no change.
        let files = sources.files();
        let watcher = (files != before.files()).then(|| FileWatcher::new(&files));
        let loaded = sources.load().map_err(|errors| errors.iter().map(LoadError::problem).collect::<Vec<_>>())?;
        let (tunnel, https) = loaded.selectors().map_err(|error| vec![unkeyed_problem(&error)])?;
        Ok(Self { active: ActiveCertificate::all(&loaded), sources, tunnel, https, watcher })
    }
}

impl PendingCertificates<'_> {
    /// Makes the listeners use the certificates from the next handshake on. Returns whether any of them has changed.
    pub(crate) fn apply(self) -> bool {
        let inner = self.inner;
        let has_changed = self.replace();
        inner.reloaded.notify_one();
        has_changed
    }

    fn replace(self) -> bool {
        let Self { inner, mut current, loaded: Loaded { sources, tunnel, https, active, watcher } } = self;
        *current = sources;
        if !std::mem::take(&mut *inner.problems.lock()).is_empty() {
            tracing::info!("the certificates on the disk can be used again");
        }
        if let Some(watcher) = watcher {
            *inner.new_watcher.lock() = Some(watcher);
        }
        let before = std::mem::replace(&mut *inner.active.write(), active.clone());
        if active == before {
            return false;
        }
        inner.tunnel.replace(tunnel);
        if let (Some(current), Some(https)) = (&inner.https, https) {
            current.replace(https);
        }
        for ActiveCertificate { of, name, expires_unix, .. } in active.iter().filter(|now| !before.contains(now)) {
            let until = date(*expires_unix);
            tracing::info!(of, name, until, "a certificate has changed and is shown from now on");
        }
        true
    }
}

impl Certificates {
    /// Loads all `sources` for the start of a server; also returns the certificate of the tunnel port. Blocks on files.
    ///
    /// # Errors
    /// The first error of the sources; its message names the file and the remedy.
    pub(crate) fn load(sources: Sources) -> Result<(Self, ServerCertificate), CertError> {
        // The watcher starts before the files are read, so that it misses no change.
        let watcher = FileWatcher::new(&sources.files());
        let loaded = sources.load().map_err(|mut errors| errors.swap_remove(0).cause)?;
        let (tunnel, https) = loaded.selectors()?;
        let inner = Inner {
            tunnel: Arc::new(tunnel),
            https: https.map(Arc::new),
            active: RwLock::new(ActiveCertificate::all(&loaded)),
            problems: Mutex::default(),
            sources: tokio::sync::Mutex::new(Arc::new(sources)),
            new_watcher: Mutex::new(Some(watcher)),
            reloaded: Notify::new(),
        };
        Ok((Self(Arc::new(inner)), loaded.tunnel))
    }

    /// Returns the certificates of the tunnel port.
    pub(crate) fn tunnel(&self) -> Arc<SniCertificates> {
        Arc::clone(&self.0.tunnel)
    }

    /// Returns the certificates of the HTTPS port, if there is one.
    pub(crate) fn https(&self) -> Option<Arc<SniCertificates>> {
        self.0.https.clone()
    }

    /// Returns the certificates that the listeners use now.
    pub(crate) fn active(&self) -> Vec<ActiveCertificate> {
        self.0.active.read().clone()
    }

    /// Returns why the listeners do not use what the sources hold; nothing if they do.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.0.problems.lock().clone()
    }

    /// Loads `sources` for a reload, which applies them together with the rest of the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(crate) async fn read(&self, sources: Sources) -> Result<PendingCertificates<'_>, Vec<Problem>> {
        let current = self.0.sources.lock().await;
        let same_files = current.files() == sources.files();
        let pending = self.load_locked(current, Arc::new(sources)).await;
        // Errors of other files are errors of the configuration that names them.
        if let Err(problems) = &pending
            && same_files
        {
            self.0.problems.lock().clone_from(problems);
            // From now on the sources are loaded at the retry interval.
            self.0.reloaded.notify_one();
        }
        pending
    }

    async fn load_locked<'a>(
        &'a self,
        current: MutexGuard<'a, Arc<Sources>>,
        sources: Arc<Sources>,
    ) -> Result<PendingCertificates<'a>, Vec<Problem>> {
        let before = Arc::clone(&current);
        // The task fails by itself only when the runtime shuts down.
        let loaded = tokio::task::spawn_blocking(move || Loaded::load(sources, &before)).await;
        let loaded = loaded.unwrap_or_else(|error| Err(vec![unkeyed_problem(&error)]))?;
        Ok(PendingCertificates { inner: &self.0, current, loaded })
    }

    /// Applies changes of the sources, lets them renew, and warns before a certificate expires, until `stop`.
    pub(crate) async fn maintain(self, stop: CancellationToken) {
        let mut watcher = self.0.new_watcher.lock().take().unwrap_or_default();
        let mut warned: Option<(Instant, Vec<ActiveCertificate>)> = None;
        loop {
            let active = self.active();
            if warned.as_ref().is_none_or(|(at, of)| at.elapsed() >= RENEWAL_INTERVAL || *of != active) {
                warn_of_expiry(&active);
                warned = Some((Instant::now(), active));
            }
            let wait = if self.0.problems.lock().is_empty() { RENEWAL_INTERVAL } else { RETRY_INTERVAL };
            tokio::select! {
                () = stop.cancelled() => return,
                () = watcher.changed() => {}
                () = self.source_changed() => {}
                () = self.0.reloaded.notified() => {
                    if let Some(new) = self.0.new_watcher.lock().take() {
                        watcher = new;
                    }
                    watcher.forget();
                    continue;
                }
                () = tokio::time::sleep(wait) => {}
            }
            self.refresh().await;
        }
    }

    async fn source_changed(&self) {
        let sources = Arc::clone(&*self.0.sources.lock().await);
        sources.changed().await;
    }

    /// Loads all sources and uses what they hold. If that fails, tries once more a moment later, then keeps the
    /// certificates and reports the problems.
    async fn refresh(&self) {
        let Err(first) = self.load_and_replace().await else { return };
        tracing::debug!("the certificates cannot be used as they are, looking again: {}", one_line(&first));
        tokio::time::sleep(SECOND_FILE).await;
        let Err(problems) = self.load_and_replace().await else { return };
        let before = std::mem::replace(&mut *self.0.problems.lock(), problems.clone());
        if before != problems {
            tracing::warn!("the certificates stay as they were: {}", one_line(&problems));
        }
    }

    /// Loads all sources and replaces the certificates of all listeners, or none of them.
    async fn load_and_replace(&self) -> Result<(), Vec<Problem>> {
        let current = self.0.sources.lock().await;
        let sources = Arc::clone(&current);
        self.load_locked(current, sources).await?.replace();
        Ok(())
    }
}

fn warn_of_expiry(active: &[ActiveCertificate]) {
    let now = unix_now();
    for ActiveCertificate { of, name, expires_unix, .. } in active {
        let until = date(*expires_unix);
        match *expires_unix {
            end if end < now => tracing::error!(of, name, until, "a certificate has ended: renew it"),
            end if end < now + EXPIRY_WARNING => tracing::warn!(of, name, until, "a certificate ends soon: renew it"),
            _ => {}
        }
    }
}

fn one_line(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

/// Returns a problem that no configuration key can solve.
fn unkeyed_problem(error: &dyn std::fmt::Display) -> Problem {
    Problem { key: String::new(), message: error.to_string() }
}

/// Formats a time for a person.
fn date(unix: u64) -> String {
    let moment = i64::try_from(unix).ok().and_then(|unix| Timestamp::from_second(unix).ok());
    moment.map_or_else(|| unix.to_string(), |moment| moment.to_string())
}
