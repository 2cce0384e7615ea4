//! The server's configuration, for whoever only looks at it.

use std::path::{Path, PathBuf};

use crate::schema::{ConfigErrors, Flags};
use crate::server::options::{DEFAULT_SERVER_FILE, ServerOptions};

/// The configuration of a server that was installed by a package, or as `docs/systemd` describes.
pub(super) const SYSTEM_SERVER_FILE: &str = "/etc/adit/server.toml";

/// Where it is, and what counts instead.
#[derive(Debug, clap::Args)]
pub(super) struct ServerFile {
    /// The server's configuration file [default: config/server.toml or /etc/adit/server.toml, whichever is there]
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Override one setting of it
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting, global = true)]
    settings: Vec<(String, String)>,
}

impl ServerFile {
    /// Reads it, with the environment over the file and the settings over both.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub(super) fn load(self) -> Result<ServerOptions, ConfigErrors> {
        ServerOptions::load(self.file().as_deref(), &flags(self.settings))
    }

    /// Returns the file that is read; `None` if there is none, so that the defaults apply.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let usual = [DEFAULT_SERVER_FILE, SYSTEM_SERVER_FILE].map(Path::new);
        self.config.clone().or_else(|| usual.into_iter().find(|file| may_exist(file)).map(Path::to_owned))
    }
}

/// Returns whether `file` exists, or cannot be looked for: then reading it says why.
pub(super) fn may_exist(file: &Path) -> bool {
    !matches!(file.try_exists(), Ok(false))
}

/// Settings of the command line as the configuration takes them.
pub(super) fn flags(settings: Vec<(String, String)>) -> Flags {
    settings.into_iter().fold(Flags::new(), |flags, (key, value)| flags.with(&key, value))
}

/// Splits `KEY=VALUE`.
pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE, e.g. public.domain=tunnel.example.com".to_owned()),
    }
}
