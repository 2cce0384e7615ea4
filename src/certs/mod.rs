//! The certificates by which the server shows who it is.
//!
//! - `self_made`: [`SelfMade`], a small authority and a server certificate made at the first start
//! - `own`: [`Own`], a certificate that the operator brought
//! - `sni`: [`SniCertificates`], several of them, chosen by the name a visitor asks for
//! - `authority`: the authority of `self_made`, and [`authority_fingerprint`] for who only looks
//! - `facts`: what is written in a certificate
//! - `watched`: [`WatchedFiles`], hearing of it when one of their files has changed
//! - `fingerprint`: [`fingerprint_of`], by which an agent pins a key
//!
//! What lies where, and how to bring your own, is in `certs/README.md`. Reading and making blocks: it is for start-up, for
//! threads that may wait, and for the command line. This room knows `values` and `files` alone.

mod authority;
mod error;
mod facts;
mod fingerprint;
mod local_ca;
mod own;
mod sni;
mod watched;

pub use crate::certs::local_ca::SelfMade;
pub use authority::authority_fingerprint;
pub use error::CertError;
pub use fingerprint::fingerprint_of;
pub use own::{Own, OwnFile};
pub use sni::{NamedChain, SniCertificates};
pub use watched::WatchedFiles;
