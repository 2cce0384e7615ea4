//! `agent.toml`: the home side. `adit agent` reads the file, `adit http` builds the same from flags alone.

use std::path::{Path, PathBuf};

use crate::values::{ClientId, Fingerprint, Secret};

use super::address::ServerAddress;
use super::error::ConfigErrors;
use super::log::{self, LogConfig};
use super::raw::{Environment, FileText, Flags, Origin, TOKEN_VARIABLE, merge};
use super::secret;
use super::service::{self, Service};
use super::table::{Entry, Report, Table};

/// Where the file is looked for when none is named.
pub const DEFAULT_AGENT_FILE: &str = "config/agent.toml";

/// More than any token has, and less than would not fit a login, in bytes.
const MAX_TOKEN: usize = 1024;

/// The sections and keys at the top of the file.
pub(super) const TOP_LEVEL: &[&str] =
    &["ca", "client_id", "fingerprint", "log", "max_streams", "servers", "services", "token", "token_file"];

/// Everything an agent needs to know.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The servers, in the order in which they are tried. Never empty.
    pub servers: Vec<ServerAddress>,
    /// The client the agent logs in as.
    pub client_id: ClientId,
    /// The client's token; only known not to be empty.
    pub token: Secret,
    /// How the agent knows that it talks to the right server.
    pub trust: Trust,
    /// What is offered. 1 to [`crate::protocol::login::MAX_SERVICES`], each with another name.
    pub services: Vec<Service>,
    /// How many requests are served at once. Default: 1,000.
    pub max_streams: usize,
    /// What is logged, and how.
    pub log: LogConfig,
}

/// What the server's certificate is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The certificate authorities of the system.
    System,
    /// The authorities in this PEM file, and no others.
    CaFile(PathBuf),
    /// The authority whose key has this fingerprint, and no other.
    Fingerprint(Fingerprint),
}

impl AgentConfig {
    /// Reads `file` (without one, [`DEFAULT_AGENT_FILE`]), the process's environment and `flags`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigErrors> {
        Self::load_with(file, &Environment::of_process(), flags)
    }

    /// Like [`AgentConfig::load`], with an environment of the caller's choice.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load_with(file: Option<&Path>, environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        let path = file.unwrap_or(Path::new(DEFAULT_AGENT_FILE));
        let missing = "name one with --config, or share a single port without a file: `adit http 3000`";
        from_layers(Some(&FileText::read(path, missing)?), environment, flags)
    }

    /// Resolves environment and flags alone, without a file.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_flags(environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        from_layers(None, environment, flags)
    }

    /// Resolves `text` as if it had been read from `file`. Only a `token_file` is read from the disk.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(file: &Path, text: &str, environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        from_layers(Some(&FileText { path: file.to_owned(), text: text.to_owned() }), environment, flags)
    }
}

fn from_layers(file: Option<&FileText>, environment: &Environment, flags: &Flags) -> Result<AgentConfig, ConfigErrors> {
    let values = merge(file, environment, flags)?;
    let path = file.map(|file| file.path.as_path());
    let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
    let report = Report::new(path, base);
    let config = resolve(report.root(values), environment.get(TOKEN_VARIABLE));
    report.finish(config)
}

pub(super) fn resolve(mut root: Table<'_>, token_variable: Option<&str>) -> Option<AgentConfig> {
    let report = root.report();
    let servers = servers(&mut root);
    let client_id = match root.take("client_id") {
        Some(entry) => entry.parse(ClientId::new),
        None => {
            report
                .problem("client_id", "is missing; give --id or client_id, the id the server's operator chose for you");
            None
        }
    };
    let token = token(&mut root, token_variable);
    let trust = trust(&mut root);
    let services = service::resolve_all(&mut root, client_id.as_ref());
    let max_streams = root.number("max_streams", 1_000, 1..=100_000);
    let log = log::resolve(root.section("log"));
    Some(AgentConfig { servers, client_id: client_id?, token: token?, trust, services, max_streams, log })
}

fn servers(root: &mut Table<'_>) -> Vec<ServerAddress> {
    let missing = |how| format!("{how}; give --server or servers, like [\"tunnel.example.com:8080\"]");
    let report = root.report();
    match root.take("servers") {
        None => {
            report.problem("servers", missing("is missing"));
            Vec::new()
        }
        Some(entry) => match entry.list() {
            Some(entries) if entries.is_empty() => {
                report.problem("servers", missing("is empty"));
                Vec::new()
            }
            entries => entries.into_iter().flatten().filter_map(|entry| entry.parse(str::parse)).collect(),
        },
    }
}

fn trust(root: &mut Table<'_>) -> Trust {
    let ca = root.path("ca");
    let fingerprint = root.parse("fingerprint", str::parse);
    match (ca, fingerprint) {
        (None, None) => Trust::System,
        (Some(ca), None) => Trust::CaFile(ca),
        (None, Some(fingerprint)) => Trust::Fingerprint(fingerprint),
        (Some(ca), Some(_)) => {
            root.report().problem("fingerprint", "is given together with ca; keep one of the two");
            Trust::CaFile(ca)
        }
    }
}

/// Where a token may come from.
enum TokenSource<'r> {
    Text(Entry<'r>),
    File(Entry<'r>),
    Variable(String),
}

/// The token from the highest layer that has one; two in one layer are refused.
fn token(root: &mut Table<'_>, variable: Option<&str>) -> Option<Secret> {
    let report = root.report();
    let mut sources: Vec<(Origin, TokenSource<'_>)> = Vec::new();
    sources.extend(root.take("token").map(|entry| (entry.origin(), TokenSource::Text(entry))));
    sources.extend(root.take("token_file").map(|entry| (entry.origin(), TokenSource::File(entry))));
    sources.extend(variable.map(|text| (Origin::Environment, TokenSource::Variable(text.to_owned()))));
    let highest = sources.iter().map(|(origin, _)| *origin).max();
    sources.retain(|(origin, _)| Some(*origin) == highest);
    let source = match (sources.pop(), sources.is_empty()) {
        (None, _) => {
            report.problem("token", "is missing; give --token, ADIT_TOKEN or token_file");
            return None;
        }
        (Some(_), false) => {
            report.problem("token", "is given more than once; keep one of token, token_file and ADIT_TOKEN");
            return None;
        }
        (Some((_, source)), true) => source,
    };
    let (key, text) = match source {
        TokenSource::Text(entry) => ("token", entry.text()?),
        TokenSource::File(entry) => ("token_file", secret::read_file(entry)?),
        TokenSource::Variable(text) => ("token", text.trim().to_owned()),
    };
    if text.is_empty() {
        report.problem(key, "holds no token; put in the one that `adit token new` printed");
        return None;
    }
    if text.len() > MAX_TOKEN {
        report
            .problem(key, "is too long to be a token; put in the one that `adit token new` printed, and nothing else");
        return None;
    }
    Some(Secret::new(text))
}

#[cfg(test)]
mod tests;
