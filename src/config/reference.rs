//! Every key of each file, for documents.

use super::check::Kind;
use crate::schema::{KeyReference, Report, Section as _};
use crate::server::options::ServerOptions;
use crate::{agent, tenants};

/// Returns every key of a file of this kind, in the order in which they are read.
pub fn every_key(kind: Kind) -> Vec<KeyReference> {
    match kind {
        Kind::Server => Report::describe(|mut root| ServerOptions::read(&mut root)),
        Kind::Agent => Report::describe(|root| agent::options::resolve(root, None, None)),
        Kind::Clients => Report::describe(tenants::entry::resolve),
    }
}

#[cfg(test)]
mod tests;
