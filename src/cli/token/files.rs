//! The clients file that a command is about, and the server it belongs to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::health::answers;
use crate::cli::server_file::{SYSTEM_SERVER_FILE, may_exist};
use crate::files::directory_of;
use crate::schema::{ConfigErrors, Flags};
use crate::server::creates_clients_file;
use crate::server::options::{DEFAULT_SERVER_FILE, ServerOptions};
use crate::tenants::edit_error::EditError;
use crate::tenants::entry::ClientsFile;
use crate::tenants::file_store::edit_file::edit_file;

/// Where it is looked for when nothing is named.
const DEFAULT_CLIENTS_FILE: &str = "config/clients.toml";

/// How long a server on this machine may take to answer, if its files are not found.
const PATIENCE: Duration = Duration::from_secs(2);

/// The files that all of them are about.
#[derive(Debug, clap::Args)]
pub(super) struct Files {
    /// The clients file [default: that of --config, or config/clients.toml, or that of /etc/adit/server.toml]
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
    /// The configuration that was named has problems, or there is nothing in the usual places.
    pub(super) fn site(&self) -> Result<Site, Failure> {
        self.site_in(&Usual::of_process(), false)
    }

    /// Like [`Files::site`], for a command that may create the clients file: beside a configuration file, where one was
    /// named, or anywhere with `init`.
    ///
    /// # Errors
    /// As [`Files::site`]; also if the file would be another one than the server beside it uses.
    pub(super) fn site_or_new(&self, init: bool) -> Result<Site, Failure> {
        let site = self.site_in(&Usual::of_process(), init)?;
        if !init {
            site.refuse_stray()?;
        }
        Ok(site)
    }

    fn site_in(&self, usual: &Usual, init: bool) -> Result<Site, Failure> {
        let is_named = self.clients.is_some() || self.config.is_some();
        let is_elsewhere = !is_named && !init && !usual.clients.exists() && !usual.server.exists();
        let system = is_elsewhere.then_some(&usual.system);
        if let Some(system) = system.filter(|system| !may_exist(system)) {
            return Err(nowhere(usual, system));
        }
        if let Some(file) = self.config.as_ref().or(system) {
            let server = ServerOptions::load(Some(file), &Flags::new())?;
            let clients = self.clients.clone().unwrap_or_else(|| server.clients.clone());
            return Ok(Site { clients, server: Some(Ok(server)), file: Some(file.clone()) });
        }
        let clients = self.clients.clone().unwrap_or_else(|| usual.clients.clone());
        let beside = clients.with_file_name("server.toml");
        let has_file = beside.exists();
        // Without any file there may be a server with the defaults, whose clients these are.
        let server = match has_file {
            true => Some(ServerOptions::load(Some(&beside), &Flags::new())),
            false if usual.server.exists() => None,
            false => Some(ServerOptions::load(None, &Flags::new())),
        };
        let is_its = |server: &Result<ServerOptions, ConfigErrors>| {
            server.as_ref().map_or(has_file, |server| is_same(&server.clients, &clients))
        };
        Ok(Site { server: server.filter(is_its), clients, file: has_file.then_some(beside) })
    }
}

/// Where the files are looked for if none is named.
#[derive(Debug)]
struct Usual {
    clients: PathBuf,
    server: PathBuf,
    system: PathBuf,
}

impl Usual {
    fn of_process() -> Self {
        let [clients, server, system] =
            [DEFAULT_CLIENTS_FILE, DEFAULT_SERVER_FILE, SYSTEM_SERVER_FILE].map(PathBuf::from);
        Self { clients, server, system }
    }
}

/// Says where the files were looked for, and whether a server runs on this machine all the same.
fn nowhere(usual: &Usual, system: &Path) -> Failure {
    let folder = std::env::current_dir().map_or_else(|_| "this folder".to_owned(), |path| path.display().to_string());
    let admin = ServerOptions::load(None, &Flags::new()).ok().and_then(|server| server.admin.listen);
    let (running, what_to_do) = match admin.map(|address| (address, answers(address, PATIENCE))) {
        Some((address, true)) => (
            format!("a server runs on this machine (it answers at its admin port {address})"),
            "run this in the folder it was started in, or name its configuration with --config FILE",
        ),
        Some((address, false)) => (
            format!("no server answers at the admin port {address} either"),
            "run this on the server, in the folder it was started in, or name its configuration with --config FILE",
        ),
        None => (
            "it is unknown whether a server runs".to_owned(),
            "run this on the server, or name its configuration with --config FILE",
        ),
    };
    Failure::Other(format!(
        "no server is set up here, and nothing was created\n  looked for {} and {} in {folder}, and for {}\n  \
         {running}: {what_to_do}\n  `adit server` sets up a new server here; so do `adit token new` and `adit token invite` \
         with --init",
        usual.server.display(),
        usual.clients.display(),
        system.display(),
    ))
}

impl Site {
    /// Refuses to create a clients file that the server beside it does not use: its name is mistyped.
    fn refuse_stray(&self) -> Result<(), Failure> {
        let Some(file) = self.clients.parent().map(|folder| folder.join("server.toml")).filter(|file| file.exists())
        else {
            return Ok(());
        };
        if may_exist(&self.clients) || self.server.is_some() {
            return Ok(());
        }
        Err(Failure::Other(format!(
            "there is no {}, and {} names another clients file: leave --clients out and name that with --config; --init \
             creates the file all the same",
            self.clients.display(),
            file.display()
        )))
    }

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
    fn without_files_nothing_is_created_and_the_message_says_where_it_looked() {
        let dir = tempfile::tempdir().unwrap();
        let [clients, server, system] =
            ["config/clients.toml", "config/server.toml", "etc/server.toml"].map(|file| dir.path().join(file));
        let usual = Usual { clients: clients.clone(), server: server.clone(), system: system.clone() };
        let files = Files { clients: None, config: None };
        let error = files.site_in(&usual, false).unwrap_err().to_string();
        for part in [&clients, &server, &system] {
            assert!(error.contains(&part.display().to_string()), "{error}");
        }
        assert!(error.contains("nothing was created") && error.contains("--config FILE"), "{error}");
        assert_eq!(files.site_in(&usual, true).unwrap().clients, clients, "with --init");
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(&system, "public.domain = 'a.example'\n").unwrap();
        let site = files.site_in(&usual, false).unwrap();
        assert_eq!((site.clients, site.file), (dir.path().join("etc/clients.toml"), Some(system)), "an installed one");
        fs::create_dir_all(dir.path().join("config")).unwrap();
        fs::write(&server, "").unwrap();
        assert_eq!(files.site_in(&usual, false).unwrap().clients, clients, "the one of this folder comes first");
    }

    #[test]
    fn a_mistyped_clients_file_beside_a_server_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("server.toml"), "").unwrap();
        let files = Files { clients: Some(dir.path().join("clinets.toml")), config: None };
        let error = files.site_or_new(false).unwrap_err().to_string();
        assert!(error.contains("clinets.toml") && error.contains("--init"), "{error}");
        files.site_or_new(true).unwrap();
        let right = Files { clients: Some(dir.path().join("clients.toml")), config: None };
        right.site_or_new(false).unwrap();
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
