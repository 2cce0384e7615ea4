//! The certificate sources that a configuration names, and the key of each for error messages.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::select_all;

use crate::certs::{CertError, CertificateSource, LocalCa, PemFiles, ServerCertificate, SniCertificates, SourceError};
use crate::schema::Problem;
use crate::server::options::{OwnCertificate, ServerOptions};

/// A certificate source, and the table of the configuration that describes it.
#[derive(Debug, Clone)]
pub(crate) struct ConfiguredSource {
    key: String,
    source: Arc<dyn CertificateSource>,
}

/// An error of a source, with the configuration key to look at.
#[derive(Debug)]
pub(crate) struct LoadError {
    pub(crate) key: String,
    pub(crate) cause: CertError,
}

impl LoadError {
    pub(crate) fn problem(&self) -> Problem {
        Problem { key: self.key.clone(), message: self.cause.to_string() }
    }
}

impl ConfiguredSource {
    pub(crate) fn new(key: impl Into<String>, source: impl CertificateSource + 'static) -> Self {
        Self { key: key.into(), source: Arc::new(source) }
    }

    /// Loads the source. Returns only the first error. Blocks on files.
    pub(crate) fn load(&self) -> Result<ServerCertificate, LoadError> {
        self.load_all_errors().map_err(|mut errors| errors.swap_remove(0))
    }

    /// Loads the source. Blocks on files.
    fn load_all_errors(&self) -> Result<ServerCertificate, Vec<LoadError>> {
        self.source.load().map_err(|errors| {
            // A source that fails without an error still fails.
            let nothing = || LoadError { key: self.key.clone(), cause: CertError::Making("unknown error".to_owned()) };
            let errors: Vec<_> = errors.into_iter().map(|error| self.error(error)).collect();
            if errors.is_empty() { vec![nothing()] } else { errors }
        })
    }

    fn check(&self) -> impl Iterator<Item = Problem> {
        self.source.check().into_iter().map(|error| self.error(error).problem())
    }

    fn error(&self, SourceError { setting, error }: SourceError) -> LoadError {
        LoadError { key: format!("{}.{}", self.key, setting.key()), cause: error }
    }
}

/// The sources of all listeners.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) tunnel: ConfiguredSource,
    /// Those of the HTTPS port, the default first; `None` if there is no such port.
    pub(crate) https: Option<Vec<ConfiguredSource>>,
}

/// The certificates of all listeners, as loaded from [`Sources`].
#[derive(Debug)]
pub(super) struct LoadedCertificates {
    pub(super) tunnel: ServerCertificate,
    pub(super) https: Option<Vec<ServerCertificate>>,
}

impl Sources {
    /// Returns the sources that `options` names.
    pub(crate) fn configured(options: &ServerOptions) -> Self {
        let ca = ConfiguredSource::new("tunnel.tls", local_ca(options));
        let tunnel = options.tunnel.tls.own.as_ref().map(|files| ConfiguredSource::new("tunnel.tls", pem_files(files)));
        let https = options.public.https.map(|_| {
            let provided: Vec<_> = public_sources(options).collect();
            if provided.is_empty() { vec![ca.clone()] } else { provided }
        });
        Self { tunnel: tunnel.unwrap_or(ca), https }
    }

    fn all(&self) -> impl Iterator<Item = &ConfiguredSource> {
        std::iter::once(&self.tunnel).chain(self.https.iter().flatten())
    }

    /// Returns the files to watch.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.all().flat_map(|configured| configured.source.files()).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Loads all sources, even if one fails. Blocks on files.
    ///
    /// # Errors
    /// Everything that is wrong with any of them; at least one error.
    pub(super) fn load(&self) -> Result<LoadedCertificates, Vec<LoadError>> {
        let mut errors: Vec<LoadError> = Vec::new();
        let mut load = |source: &ConfiguredSource| match source.load_all_errors() {
            Ok(certificate) => Some(certificate),
            Err(more) => {
                // Several listeners may share a source.
                let is_new = |error: &LoadError| errors.iter().all(|known| known.problem() != error.problem());
                let more: Vec<_> = more.into_iter().filter(is_new).collect();
                errors.extend(more);
                None
            }
        };
        let tunnel = load(&self.tunnel);
        let https = self.https.as_ref().map(|sources| sources.iter().filter_map(&mut load).collect());
        match tunnel {
            Some(tunnel) if errors.is_empty() => Ok(LoadedCertificates { tunnel, https }),
            _ => Err(errors),
        }
    }

    /// Resolves when one of the sources has a new chain other than by a change of its files. Cancel-safe.
    pub(super) async fn changed(&self) {
        select_all(self.all().map(|configured| configured.source.changed())).await;
    }
}

impl LoadedCertificates {
    /// Returns the certificates by the name of their listener.
    pub(super) fn by_listener(&self) -> impl Iterator<Item = (&'static str, &ServerCertificate)> {
        let https = self.https.iter().flatten().map(|certificate| ("https", certificate));
        std::iter::once(("tunnel", &self.tunnel)).chain(https)
    }

    /// Returns what the TLS configurations of the tunnel port and the HTTPS port select their certificates from.
    pub(super) fn selectors(&self) -> Result<(SniCertificates, Option<SniCertificates>), CertError> {
        Ok((SniCertificates::new([&self.tunnel])?, self.https.as_ref().map(SniCertificates::new).transpose()?))
    }
}

/// Returns the local CA. One certificate serves agents and visitors, because agents usually dial the domain of the visitors.
pub(super) fn local_ca(options: &ServerOptions) -> LocalCa {
    let mut names = options.tunnel.tls.names.clone();
    let domain = &options.public.domain;
    let wildcard = options.public.https.map(|_| format!("*.{domain}"));
    names.extend([Some(domain.clone()), wildcard].into_iter().flatten());
    LocalCa::new(&options.tunnel.tls.dir, names)
}

pub(super) fn pem_files(files: &OwnCertificate) -> PemFiles {
    PemFiles::new(&files.cert, &files.key)
}

fn public_sources(options: &ServerOptions) -> impl Iterator<Item = ConfiguredSource> {
    let certificates = options.public.certificates.iter().enumerate();
    certificates.map(|(at, files)| ConfiguredSource::new(format!("public.certificates[{at}]"), pem_files(files)))
}

/// Returns everything that is wrong with the operator's certificate files that `options` names. Blocks on files.
pub(crate) fn check(options: &ServerOptions) -> Vec<Problem> {
    let tunnel = options.tunnel.tls.own.iter().map(|files| ConfiguredSource::new("tunnel.tls", pem_files(files)));
    tunnel.chain(public_sources(options)).flat_map(|source| source.check().collect::<Vec<_>>()).collect()
}

/// Returns what [`check`] does, and what is wrong with the local CA if a listener uses it. Creates nothing. Blocks on files.
pub(crate) fn check_all(options: &ServerOptions) -> Vec<Problem> {
    let mut problems = check(options);
    let (tls, public) = (&options.tunnel.tls, &options.public);
    if tls.own.is_none() || (public.https.is_some() && public.certificates.is_empty()) {
        problems.extend(ConfiguredSource::new("tunnel.tls", local_ca(options)).check());
    }
    problems
}
