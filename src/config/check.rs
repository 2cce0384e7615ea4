//! `adit check FILE`: which of the three files is it, and is it right?

use std::collections::BTreeSet;
use std::path::Path;

use toml_edit::Item;

use super::reference::every_key;
use crate::agent::options::{AgentOptions, SavedLogin};
use crate::schema::{ConfigErrors, Environment, FileText, Flags, Problem, check_syntax};
use crate::server::options::{ServerOptions, no_subdomain_note, open_admin_warning, shared_origin_warning};
use crate::tenants::entry::ClientsFile;
use crate::tenants::file_store::edit_file::dry_run_create;
use crate::tenants::file_store::load_clients;
use crate::values::around;
use crate::{agent, server};

/// What a configuration file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `server.toml`.
    Server,
    /// `agent.toml`.
    Agent,
    /// `clients.toml`.
    Clients,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server => "server configuration",
            Self::Agent => "agent configuration",
            Self::Clients => "clients file",
        })
    }
}

/// A file that is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What it is for.
    pub kind: Kind,
    /// What is allowed but may surprise; often empty.
    pub warnings: Vec<String>,
}

/// Validates the file at `path` as it would be used, with the process's environment above it and a saved login below it,
/// and the files that it names. Creates nothing. Must be called on a tokio runtime.
///
/// With a server file, it validates the clients file that the server would use.
///
/// # Errors
/// Everything that is wrong, at once; or that the kind of the file cannot be determined.
pub fn check(path: &Path) -> Result<Checked, ConfigErrors> {
    check_over(path, &Environment::of_process(), SavedLogin::folder().as_deref(), Scope::NamedFiles)
}

/// Like [`check`], with an environment of the caller's choice, without a saved login, and without the files that are
/// named, except for a clients file that exists.
///
/// # Errors
/// As [`check`].
pub fn check_with(path: &Path, environment: &Environment) -> Result<Checked, ConfigErrors> {
    check_over(path, environment, None, Scope::Text)
}

/// What is checked beside the configuration itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The files that it names.
    NamedFiles,
    /// A clients file that exists, without its hashes.
    Text,
}

fn check_over(
    path: &Path,
    environment: &Environment,
    saved: Option<&Path>,
    scope: Scope,
) -> Result<Checked, ConfigErrors> {
    let file = FileText::read(path, "name a server, agent or clients file")?;
    let kind = kind(&file)?;
    let mut warnings = Vec::new();
    match kind {
        Kind::Server => warnings.extend(check_server(&file, environment, scope)?),
        Kind::Agent => {
            let options = AgentOptions::from_file(&file, environment, &Flags::new(), saved)?;
            warnings.extend(options.token_file.as_deref().and_then(token_file_warning));
            if scope == Scope::NamedFiles {
                none(&file, agent::check(&options))?;
            }
        }
        Kind::Clients => drop(clients(path, scope)?),
    }
    Ok(Checked { kind, warnings })
}

/// Returns what is said of a token file that holds more than the token.
fn token_file_warning(path: &Path) -> Option<String> {
    let around = around(&std::fs::read(path).ok()?)?;
    Some(format!("{} has {around} around the token, which adit ignores and other programs may not", path.display()))
}

fn none(file: &FileText, problems: Vec<Problem>) -> Result<(), ConfigErrors> {
    if problems.is_empty() { Ok(()) } else { Err(ConfigErrors { file: Some(file.path.clone()), problems }) }
}

fn clients(path: &Path, scope: Scope) -> Result<ClientsFile, ConfigErrors> {
    match scope {
        Scope::NamedFiles => load_clients(path),
        Scope::Text if path.exists() => ClientsFile::load(path),
        Scope::Text => Ok(ClientsFile::default()),
    }
}

fn check_server(file: &FileText, environment: &Environment, scope: Scope) -> Result<Vec<String>, ConfigErrors> {
    // Files that are named are checked even if there are mistakes in this one, so that all come at once.
    let (options, mut problems) = ServerOptions::draft(file, environment)?;
    let clients = match scope {
        Scope::NamedFiles => {
            problems.extend(server::check(&options));
            // One that the server would create, and may, is as good as there.
            match server::creates_clients_file(&options, &file.path) {
                true => dry_run_create(&options.clients).map(|()| ClientsFile::default()),
                false => clients(&options.clients, scope),
            }
        }
        Scope::Text => clients(&options.clients, scope),
    };
    let clients = clients.map_err(|errors| {
        problems.extend(errors.problems.into_iter().map(|problem| Problem {
            key: "clients".to_owned(),
            message: format!("{}: {problem}", options.clients.display()),
        }));
    });
    none(file, problems)?;
    let shared_origin = clients.ok().and_then(|clients| shared_origin_warning(&options, &clients));
    Ok(shared_origin.into_iter().chain(no_subdomain_note(&options)).chain(open_admin_warning(&options)).collect())
}

/// Returns the kind whose keys the file has most of; on a tie, the kind that its name says.
fn kind(file: &FileText) -> Result<Kind, ConfigErrors> {
    let document = check_syntax(file)?;
    let keys: Vec<&str> = document.iter().map(|(key, _)| key).filter(|key| *key != "log").collect();
    let clients_key = document.get("clients");
    let count = |kind| {
        let paths = every_key(kind);
        let known: BTreeSet<_> = paths.iter().filter_map(|key| key.path.split(['.', '[']).next()).collect();
        keys.iter().filter(|key| known.contains(*key)).count()
    };
    let counts = [
        (Kind::Server, if clients_key.is_some_and(Item::is_table_like) { 0 } else { count(Kind::Server) }),
        (Kind::Agent, count(Kind::Agent)),
        (Kind::Clients, if clients_key.is_none_or(Item::is_table_like) { count(Kind::Clients) } else { 0 }),
    ];
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or_default();
    let mut winners = counts.iter().filter(|(_, count)| *count == most && most > 0);
    if let (Some((kind, _)), None) = (winners.next(), winners.next()) {
        return Ok(*kind);
    }
    let name = file.path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    [("server", Kind::Server), ("agent", Kind::Agent), ("clients", Kind::Clients)]
        .into_iter()
        .find(|(word, _)| name.contains(word))
        .map(|(_, kind)| kind)
        .ok_or_else(|| {
            let message = "cannot tell whether this is a server, agent or clients file; a server file has [tunnel] or \
                           [public], an agent file has servers and [[services]], a clients file has [clients.ID]";
            ConfigErrors::one(Some(file.path.clone()), "", message)
        })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn check_files(files: &[(&str, &str)]) -> Result<Checked, ConfigErrors> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let environment = [("ADIT_TOKEN", "t")].into_iter().collect();
        let mut result = check_with(&directory.path().join(files[0].0), &environment);
        if let Err(errors) = &mut result {
            errors.file = errors.file.take().and_then(|file| file.file_name().map(PathBuf::from));
        }
        result
    }

    const CLIENT: &str = "token_hash = '$argon2id$x'\n";

    #[test]
    fn the_kind_shows_in_the_keys() {
        let agent = "servers = ['a']\nclient_id = 'alice'\n[[services]]\nlocal = 1\n";
        let clients = format!("[clients.alice]\n{CLIENT}");
        for (name, text, kind) in [
            ("a.toml", "[tunnel]\n", Kind::Server),
            ("a.toml", "clients = 'c.toml'\n", Kind::Server),
            ("a.toml", agent, Kind::Agent),
            ("server.toml", agent, Kind::Agent),
            ("a.toml", &clients, Kind::Clients),
            ("clients.toml", "# nobody\n", Kind::Clients),
            ("a.toml", "[invites]\n", Kind::Clients),
            ("my-server.toml", "[log]\n", Kind::Server),
        ] {
            let checked = check_files(&[(name, text)]).unwrap_or_else(|errors| panic!("{name} {text}: {errors}"));
            assert_eq!(checked, Checked { kind, warnings: vec![] }, "{name} {text}");
        }
    }

    #[test]
    fn an_undecidable_file_says_what_would_decide() {
        for text in ["", "[log]\nlevel = 'info'\n", "x = 1\n"] {
            let message = check_files(&[("a.toml", text)]).unwrap_err().to_string();
            assert!(message.starts_with("a.toml: cannot tell"), "{message}");
        }
    }

    #[test]
    fn three_mistakes_of_a_server_file_and_those_of_its_clients_come_at_once() {
        let server = "[tunnel]\nheartbeat = '0s'\n[public]\ndomian = 'x.example'\nrouting = ['path', 'cookie']\n";
        let clients = "[clients.alice]\ntoken_hash = 'plain'\n";
        let errors = check_files(&[("a.toml", server), ("clients.toml", clients)]).unwrap_err();
        let keys: Vec<_> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["tunnel.heartbeat", "public.routing[1]", "public.domian", "clients"]);
        assert!(errors.to_string().contains("clients.alice.token_hash: is not an argon2id hash"), "{errors}");
    }

    #[test]
    fn path_routing_for_several_clients_warns() {
        let one = format!("[clients.alice]\n{CLIENT}");
        let two = format!("{one}[clients.bob]\n{CLIENT}");
        let warnings = |routing: &str, clients: &str| {
            let server = format!("[public]\nrouting = [{routing}]\n");
            check_files(&[("a.toml", &server), ("clients.toml", clients)]).unwrap().warnings
        };
        assert!(warnings("'path'", &two)[0].contains("share one browser origin"));
        assert!(warnings("'subdomain', 'path'", &one).is_empty());
        assert!(matches!(&warnings("'path', 'header'", &one)[..], [note] if note.contains("WebDAV")));
        assert!(warnings("'subdomain', 'header'", &two).is_empty());
    }
}
