//! Every key of each file, for documents.

use std::path::Path;

use super::check::Kind;
use crate::schema::{ConfigErrors, FileText, KeyReference, Report, file_layer};
use crate::{agent, server, tenants};

/// Every key of a file of this kind, in the order in which they are read. `sample` is one with every key in it, perhaps
/// behind a `#`; what it says of them does not matter.
///
/// # Errors
/// The sample is no TOML.
pub fn every_key(kind: Kind, sample: &str) -> Result<Vec<KeyReference>, ConfigErrors> {
    let values = file_layer(&FileText { path: "sample".into(), text: in_force(sample) })?;
    let report = Report::with_facts(Path::new(""));
    let root = report.root(values);
    match kind {
        Kind::Server => drop(server::options::resolve(root, true)),
        Kind::Agent => drop(agent::options::resolve(root, None, None)),
        Kind::Clients => drop(tenants::entry::resolve(root)),
    }
    Ok(report.into_facts())
}

/// The sample with its commented-out keys and sections put in force.
pub(crate) fn in_force(sample: &str) -> String {
    let in_force = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let word = rest.split_once(" = ").map(|(key, _)| key).unwrap_or("?");
        let is_key = word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        (is_key || rest.starts_with('[')).then(|| rest.to_owned())
    };
    sample.lines().map(|line| in_force(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[cfg(test)]
mod tests;
