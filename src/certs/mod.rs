//! The certificates with which the server proves its identity.
//!
//! - `source`: [`CertificateSource`], where a listener gets its certificate chain from, and [`ServerCertificate`], the chain
//! - `pem_files`: [`PemFiles`], the source for a certificate that the operator provides
//! - `local_ca`: [`LocalCa`], the source that creates its own CA and issues a server certificate
//! - `sni`: [`SniCertificates`], which selects one of several certificates by the requested name
//! - `x509`: reads PEM files and the fields of a certificate
//! - `file_watcher`: [`FileWatcher`], reports changes of certificate files
//! - `fingerprint`: [`fingerprint_of`], by which an agent pins a key
//!
//! `certs/README.md` describes the files. Loading and issuing block; call them at startup, on blocking threads, or from
//! the command line. This module imports only `values` and `files`.

mod error;
mod file_watcher;
mod fingerprint;
mod local_ca;
mod pem_files;
mod sni;
mod source;
mod x509;

pub use error::CertError;
pub use file_watcher::FileWatcher;
pub use fingerprint::fingerprint_of;
pub use local_ca::LocalCa;
pub use local_ca::authority::authority_fingerprint;
pub use pem_files::PemFiles;
pub use sni::SniCertificates;
pub use source::{CertificateSource, Origin, ServerCertificate, SourceError, SourceSetting};
