//! The clients file that a command is about, and the server it belongs to.

use std::path::{Path, PathBuf};

use crate::cli::Failure;
use crate::files::directory_of;
use crate::schema::{ConfigErrors, Flags};
use crate::server::creates_clients_file;
use crate::server::options::{DEFAULT_SERVER_FILE, ServerOptions};
use crate::tenants::edit_error::EditError;
use crate::tenants::entry::ClientsFile;
use crate::tenants::file_store::edit_file::edit_file;

/// Where it is looked for when nothing is named.
const DEFAULT_CLIENTS_FILE: &str = "config/clients.toml";

/// The files that all of them are about.
#[derive(Debug, clap::Args)]
pub(super) struct Files {
    /// The clients file [default: that of --config, or config/clients.toml]
    #[arg(long, value_name = "FILE")]
    clients: Option<PathBuf>,
    /// The server's configuration [default: server.toml beside the clients file, if it names that]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A clients file, and what is known of its server.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) clients: PathBuf,
    /// Its server, if one can be told; it may have problems.
    server: Option<Result<ServerOptions, ConfigErrors>>,
    /// What says what the server is like; `None`: it is one with the built-in defaults.
    file: Option<PathBuf>,
}

impl Files {
    /// Looks where they are.
    ///
    /// # Errors
    /// The configuration that was named has problems.
    pub(super) fn site(&self) -> Result<Site, Failure> {
        if let Some(file) = &self.config {
            let server = ServerOptions::load(Some(file), &Flags::new())?;
            let clients = self.clients.clone().unwrap_or_else(|| server.clients.clone());
            return Ok(Site { clients, server: Some(Ok(server)), file: Some(file.clone()) });
        }
        let clients = self.clients.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_CLIENTS_FILE));
        let beside = clients.with_file_name("server.toml");
        let has_file = beside.exists();
        // Without any file there may be a server with the defaults, whose clients these are.
        let server = match has_file {
            true => Some(ServerOptions::load(Some(&beside), &Flags::new())),
            false if Path::new(DEFAULT_SERVER_FILE).exists() => None,
            false => Some(ServerOptions::load(None, &Flags::new())),
        };
        let is_its = |server: &Result<ServerOptions, ConfigErrors>| {
            server.as_ref().map_or(has_file, |server| is_same(&server.clients, &clients))
        };
        Ok(Site { server: server.filter(is_its), clients, file: has_file.then_some(beside) })
    }
}

impl Site {
    /// Changes the clients file.
    ///
    /// # Errors
    /// The change is refused, or the file cannot be read or written.
    pub(super) fn edit<T>(&self, edit: impl FnMut(&mut ClientsFile) -> Result<T, EditError>) -> Result<T, EditError> {
        edit_file(&self.clients, edit)
    }

    /// The server, if it can be told and has no problems.
    pub(super) fn server(&self) -> Option<&ServerOptions> {
        self.server.as_ref()?.as_ref().ok()
    }

    /// The server, if it can be told.
    ///
    /// # Errors
    /// The problems of its configuration.
    pub(super) fn sound_server(&self) -> Result<Option<&ServerOptions>, Failure> {
        self.server.as_ref().map(|server| server.as_ref().map_err(|errors| errors.clone().into())).transpose()
    }

    /// Whether the server was never started, as far as can be seen from here: it would begin this very clients file.
    pub(super) fn is_before_first_start(&self) -> bool {
        let file = self.file.as_deref().unwrap_or(Path::new(DEFAULT_SERVER_FILE));
        let begins =
            |server: &ServerOptions| is_same(&server.clients, &self.clients) && creates_clients_file(server, file);
        self.server().is_some_and(begins)
    }

    /// Where agents dial, to be typed at home.
    pub(super) fn dialled(&self) -> String {
        match self.server().filter(|_| self.file.is_some()) {
            Some(server) => match server.tunnel.listen.port() {
                0 => format!("{}:PORT", server.public.domain),
                port => format!("{}:{port}", server.public.domain),
            },
            None => "HOST:8080".to_owned(),
        }
    }
}

/// Whether two paths lead to one file, which may not be there yet.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        path.canonicalize().ok().or_else(|| {
            let folder = directory_of(path);
            Some(folder.canonicalize().unwrap_or_else(|_| folder.to_owned()).join(path.file_name()?))
        })
    };
    place(one) == place(other)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn site(clients: &Path, config: Option<PathBuf>) -> Result<Site, Failure> {
        Files { clients: Some(clients.to_owned()), config }.site()
    }

    #[test]
    fn the_server_beside_is_taken_if_it_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (clients, server) = (dir.path().join("clients.toml"), dir.path().join("server.toml"));
        assert_eq!(site(&clients, None).unwrap().dialled(), "HOST:8080");
        fs::write(&server, "public.domain = 'tunnel.example.com'\ntunnel.listen = '[::]:7000'\n").unwrap();
        assert_eq!(site(&clients, None).unwrap().dialled(), "tunnel.example.com:7000");
        let other = site(&dir.path().join("other.toml"), None).unwrap();
        assert!(other.server().is_none() && other.dialled() == "HOST:8080", "another server's clients");
        assert_eq!(site(&other.clients, Some(server.clone())).unwrap().dialled(), "tunnel.example.com:7000");
        let by_config = Files { clients: None, config: Some(server.clone()) }.site().unwrap();
        assert_eq!(by_config.clients, clients);
        fs::write(&server, "tunnel.listen = '127.0.0.1:0'\n").unwrap();
        assert_eq!(site(&clients, None).unwrap().dialled(), "localhost:PORT");
    }

    #[test]
    fn a_broken_server_file_is_in_the_way_only_of_what_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let (clients, server) = (dir.path().join("clients.toml"), dir.path().join("server.toml"));
        fs::write(&server, "nonsense = 1\n").unwrap();
        let beside = site(&clients, None).unwrap();
        assert_eq!(beside.dialled(), "HOST:8080");
        assert!(beside.sound_server().unwrap_err().to_string().contains("nonsense"));
        assert!(site(&clients, Some(server)).is_err(), "it was named");
    }
}
