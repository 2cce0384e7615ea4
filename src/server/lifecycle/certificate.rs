//! The certificates that agents and visitors see: files that the operator provides, or the local CA. `configured_sources` derives the
//! sources from the configuration; `listeners` serves what they load, and reloads them while the server runs.

mod configured_sources;
mod listeners;
#[cfg(test)]
mod tests;

pub use crate::certs::{Origin, ServerCertificate};
pub(crate) use configured_sources::{Sources, check, check_all};
pub(crate) use listeners::Certificates;

use crate::certs::{CertError, CertificateSource as _};
use crate::server::options::ServerOptions;
use configured_sources::{local_ca, pem_files};

/// Loads the certificate of the tunnel port. Creates or renews the one of the local CA if needed. Blocks on files.
///
/// # Errors
/// The message names the file and the remedy.
pub fn load(options: &ServerOptions) -> Result<ServerCertificate, CertError> {
    Sources::configured(options).tunnel.load().map_err(|error| error.cause)
}

/// Returns the certificate of the tunnel port without creating anything; `None` if the local CA has not issued it yet.
/// Blocks on files.
///
/// # Errors
/// As [`load`].
pub fn stored(options: &ServerOptions) -> Result<Option<ServerCertificate>, CertError> {
    match &options.tunnel.tls.own {
        Some(_) => load(options).map(Some),
        None => local_ca(options).stored(),
    }
}

/// Issues the certificate of the local CA again; agents need no change. Blocks on files.
///
/// # Errors
/// As [`load`]; also if there is no CA yet.
pub fn renew(options: &ServerOptions) -> Result<ServerCertificate, CertError> {
    local_ca(options).renew()
}

/// Loads the operator's certificates for the HTTPS port. Blocks on files.
///
/// # Errors
/// As [`load`].
pub fn public_certificates(options: &ServerOptions) -> Result<Vec<ServerCertificate>, CertError> {
    let load = |files| pem_files(files).load();
    let first = |errors: Vec<crate::certs::SourceError>| errors.into_iter().next();
    let mut certificates = Vec::new();
    for files in &options.public.certificates {
        match load(files).map_err(first) {
            Ok(certificate) => certificates.push(certificate),
            Err(Some(error)) => return Err(error.error),
            Err(None) => {}
        }
    }
    Ok(certificates)
}
