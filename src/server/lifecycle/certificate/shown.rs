//! What the listeners show. It is exchanged while the server runs, when files change, another configuration names others,
//! or the end of one is near; connections that are there go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::CertificateDer;
use tokio::sync::{MutexGuard, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ServerCertificate, public_chains, self_made_names};
use crate::certs::{CertError, NamedChain, Own, OwnFile, SelfMade, SniCertificates, WatchedFiles};
use crate::schema::Problem;
use crate::server::options::{OwnCertificate, ServerOptions};
use crate::values::unix_now;

/// How often the ends of certificates are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(12 * 60 * 60);

/// The same, while the files cannot be used: what is wrong may be mended without a change of theirs.
const LOOK_SOON: Duration = Duration::from_secs(60);

/// Whoever brings a new certificate writes two files, one after the other.
const SECOND_FILE: Duration = Duration::from_secs(1);

/// How long before its end a certificate is warned of, in seconds. One of the server's own making is renewed before that.
const SOON: u64 = 14 * 24 * 60 * 60;

/// What watchers are told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Where: `tunnel` or `https`.
    pub(crate) of: &'static str,
    /// The first of its names.
    pub(crate) name: String,
    /// The last second at which it is good, counted from 1970.
    pub(crate) expires_unix: u64,
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
pub(crate) struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tunnel: Arc<SniCertificates>,
    https: Option<Arc<SniCertificates>>,
    shown: RwLock<Vec<Shown>>,
    /// Why the files of now are not what is shown; nothing, if they are.
    problems: Mutex<Vec<Problem>>,
    /// What names them. Whoever reads them holds it.
    config: tokio::sync::Mutex<Arc<ServerOptions>>,
    /// The files that are to be watched from now on, until somebody does.
    watched: Mutex<Option<WatchedFiles>>,
    /// They were taken over by somebody else than who watches.
    taken_over: Notify,
}

/// Certificates that were read, and are not shown yet. Until this is dropped, nobody else reads them.
#[must_use = "what is not taken over changes nothing"]
pub(crate) struct ReadCertificates<'a> {
    of: &'a Inner,
    turn: MutexGuard<'a, Arc<ServerOptions>>,
    loaded: Loaded,
}

/// All that a configuration names, from the files.
struct Loaded {
    config: Arc<ServerOptions>,
    tunnel: SniCertificates,
    https: Option<SniCertificates>,
    shown: Vec<Shown>,
    /// Their files, if they are others than before.
    watched: Option<WatchedFiles>,
}

impl Loaded {
    /// Blocks on files.
    fn load(config: Arc<ServerOptions>, before: &ServerOptions) -> Result<Self, Vec<Problem>> {
        // Watched first: no change is missed.
        let (files, watched_before) = (files_of(&config), files_of(before));
        let watched = (files != watched_before).then(|| WatchedFiles::new(files.iter().map(PathBuf::as_path)));
        let mut problems = check(&config);
        let tls = &config.tunnel.tls;
        if makes_one(&config)
            && let Err(error) = SelfMade::ensure(&tls.dir, &self_made_names(&config))
        {
            problems.push(self_made_problem(&error));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let all = || {
            let agents = ServerCertificate::load_or_make(&config)?.named();
            let visitors = config.public.https.map(|_| public_chains(&config)).transpose()?;
            let shown = shown(&agents, visitors.as_deref());
            let https = visitors.map(SniCertificates::new).transpose()?;
            Ok::<_, CertError>((SniCertificates::new(vec![agents])?, https, shown))
        };
        // They were right a moment ago.
        let (tunnel, https, shown) = all().map_err(|error| vec![problem("", &error)])?;
        Ok(Self { config, tunnel, https, shown, watched })
    }
}

impl ReadCertificates<'_> {
    /// Shows them from the next handshake on. Says whether they are others than before.
    pub(crate) fn take_over(self) -> bool {
        let inner = self.of;
        let is_new = self.show();
        inner.taken_over.notify_one();
        is_new
    }

    fn show(self) -> bool {
        let Self { of, mut turn, loaded: Loaded { config, tunnel, https, shown: now, watched } } = self;
        *turn = config;
        if !std::mem::take(&mut *of.problems.lock()).is_empty() {
            tracing::info!("the certificates on the disk can be used again");
        }
        if let Some(watched) = watched {
            *of.watched.lock() = Some(watched);
        }
        let before = std::mem::replace(&mut *of.shown.write(), now.clone());
        if now == before {
            return false;
        }
        of.tunnel.exchange(tunnel);
        if let (Some(shown), Some(https)) = (&of.https, https) {
            shown.exchange(https);
        }
        for Shown { of, name, expires_unix, .. } in now.iter().filter(|shown| !before.contains(shown)) {
            let until = date(*expires_unix);
            tracing::info!(of, name, until, "a certificate has changed and is shown from now on");
        }
        true
    }
}

impl Certificates {
    /// Loads or makes all of them; gives back what agents see, too. Blocks on files.
    ///
    /// # Errors
    /// The message names the file and the way out.
    pub(crate) fn load(config: &ServerOptions) -> Result<(Self, ServerCertificate), CertError> {
        // Watched first: no change is missed.
        let files = files_of(config);
        let watched = WatchedFiles::new(files.iter().map(PathBuf::as_path));
        let certificate = ServerCertificate::load_or_make(config)?;
        let agents = certificate.named();
        let visitors = config.public.https.map(|_| public_chains(config)).transpose()?;
        let shown = shown(&agents, visitors.as_deref());
        let inner = Inner {
            tunnel: Arc::new(SniCertificates::new(vec![agents])?),
            https: visitors.map(|chains| SniCertificates::new(chains).map(Arc::new)).transpose()?,
            shown: RwLock::new(shown),
            problems: Mutex::default(),
            config: tokio::sync::Mutex::new(Arc::new(config.clone())),
            watched: Mutex::new(Some(watched)),
            taken_over: Notify::new(),
        };
        Ok((Self(Arc::new(inner)), certificate))
    }

    pub(crate) fn tunnel(&self) -> Arc<SniCertificates> {
        Arc::clone(&self.0.tunnel)
    }

    pub(crate) fn https(&self) -> Option<Arc<SniCertificates>> {
        self.0.https.clone()
    }

    /// What is shown now.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        self.0.shown.read().clone()
    }

    /// Why the files on the disk cannot be taken over; nothing, if what they hold is shown.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.0.problems.lock().clone()
    }

    /// Reads those that `config` names, for whoever takes them over together with something else.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub(crate) async fn read(&self, config: ServerOptions) -> Result<ReadCertificates<'_>, Vec<Problem>> {
        let turn = self.0.config.lock().await;
        let are_the_same = files_of(&turn) == files_of(&config);
        let read = self.read_in_turn(turn, Arc::new(config)).await;
        // Other ones are a matter of the configuration that names them.
        if let Err(problems) = &read
            && are_the_same
        {
            self.0.problems.lock().clone_from(problems);
            // From now on it is looked again soon.
            self.0.taken_over.notify_one();
        }
        read
    }

    async fn read_in_turn<'a>(
        &'a self,
        turn: MutexGuard<'a, Arc<ServerOptions>>,
        config: Arc<ServerOptions>,
    ) -> Result<ReadCertificates<'a>, Vec<Problem>> {
        let before = Arc::clone(&turn);
        // It fails by itself only when the runtime ends.
        let loaded = tokio::task::spawn_blocking(move || Loaded::load(config, &before)).await;
        let loaded = loaded.unwrap_or_else(|error| Err(vec![problem("", &error)]))?;
        Ok(ReadCertificates { of: &self.0, turn, loaded })
    }

    /// Takes over what changes, renews what is of the server's own making, and warns of ends, until `stop`.
    pub(crate) async fn keep_up(self, stop: CancellationToken) {
        let mut watched = self.0.watched.lock().take().unwrap_or_else(|| WatchedFiles::new([]));
        let mut warned: Option<(Instant, Vec<Shown>)> = None;
        loop {
            let shown = self.shown();
            if warned.as_ref().is_none_or(|(at, of)| at.elapsed() >= LOOK_AGAIN || *of != shown) {
                self.warn_of_ends();
                warned = Some((Instant::now(), shown));
            }
            let quiet = if self.0.problems.lock().is_empty() { LOOK_AGAIN } else { LOOK_SOON };
            tokio::select! {
                () = stop.cancelled() => return,
                () = watched.changed() => {}
                () = self.0.taken_over.notified() => {
                    if let Some(others) = self.0.watched.lock().take() {
                        watched = others;
                    }
                    watched.forget();
                    continue;
                }
                () = tokio::time::sleep(quiet) => {}
            }
            if let Err(first) = self.look().await {
                tracing::debug!("the certificates cannot be used as they are, looking again: {}", in_a_line(&first));
                tokio::time::sleep(SECOND_FILE).await;
                if let Err(problems) = self.look().await {
                    let before = std::mem::replace(&mut *self.0.problems.lock(), problems.clone());
                    if before != problems {
                        tracing::warn!("the certificates stay as they were: {}", in_a_line(&problems));
                    }
                }
            }
        }
    }

    /// All of them, or none.
    async fn look(&self) -> Result<(), Vec<Problem>> {
        let turn = self.0.config.lock().await;
        let config = Arc::clone(&turn);
        self.read_in_turn(turn, config).await?.show();
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

/// What is wrong with the operator's own certificates that `config` names, all of it. Blocks on files.
pub(crate) fn check(config: &ServerOptions) -> Vec<Problem> {
    let tunnel = config.tunnel.tls.own.iter().map(|own| ("tunnel.tls".to_owned(), own));
    let public = config.public.certificates.iter().enumerate();
    let public = public.map(|(at, own)| (format!("public.certificates[{at}]"), own));
    let look = |(key, own): (String, &OwnCertificate)| {
        let problems = Own::read(&own.cert, &own.key).err().unwrap_or_default();
        problems.into_iter().map(move |(file, error)| match file {
            OwnFile::Cert => problem(&format!("{key}.cert"), &error),
            OwnFile::Key => problem(&format!("{key}.key"), &error),
        })
    };
    tunnel.chain(public).flat_map(look).collect()
}

/// The same, and what is wrong with the one of the server's own making, if there is to be one. Makes nothing. Blocks on
/// files.
pub(crate) fn check_all(config: &ServerOptions) -> Vec<Problem> {
    let mut problems = check(config);
    if makes_one(config)
        && let Err(error) = SelfMade::check(&config.tunnel.tls.dir, &self_made_names(config))
    {
        problems.push(self_made_problem(&error));
    }
    problems
}

fn self_made_problem(error: &CertError) -> Problem {
    problem(if matches!(error, CertError::Name(_)) { "tunnel.tls.names" } else { "tunnel.tls.dir" }, error)
}

fn in_a_line(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

fn problem(key: &str, error: &dyn std::fmt::Display) -> Problem {
    Problem { key: key.to_owned(), message: error.to_string() }
}

/// The files that are read.
fn files_of(config: &ServerOptions) -> Vec<PathBuf> {
    let (tls, public) = (&config.tunnel.tls, &config.public);
    let own = tls.own.iter().chain(&public.certificates).flat_map(|own| [own.cert.clone(), own.key.clone()]);
    own.chain(makes_one(config).then(|| SelfMade::file(Path::new(&tls.dir)))).collect()
}

/// Whether one of the certificates is of the server's own making.
fn makes_one(config: &ServerOptions) -> bool {
    let (tls, public) = (&config.tunnel.tls, &config.public);
    tls.own.is_none() || (public.https.is_some() && public.certificates.is_empty())
}

/// For a person.
fn date(unix: u64) -> String {
    let moment = i64::try_from(unix).ok().and_then(|unix| Timestamp::from_second(unix).ok());
    moment.map_or_else(|| unix.to_string(), |moment| moment.to_string())
}
