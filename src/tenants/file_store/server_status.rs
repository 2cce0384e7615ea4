//! Tells commands which version of the clients file the running server uses.
//!
//! The server writes a status file beside the clients file, so a command needs neither a port nor the configuration.

use std::path::{Path, PathBuf};

use crate::files::{Presence, Present, directory_of, presence};
use crate::schema::ConfigErrors;
use crate::values::Fingerprint;

const APPLIED: &str = "applied";
const REFUSED: &str = "refused";

/// The result of the last load of the clients file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoadResult {
    /// The server uses the version with this digest.
    Applied(Fingerprint),
    /// The file is not valid; the server keeps the previous version.
    Refused(ConfigErrors),
}

impl LoadResult {
    /// Returns the text of the status file.
    fn text(&self) -> String {
        match self {
            Self::Applied(digest) => format!("{APPLIED} {digest}\n"),
            Self::Refused(errors) => format!("{REFUSED}\n{errors}\n"),
        }
    }
}

/// The status of the server that uses a clients file, as a command sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerStatus {
    /// A server uses the version of the file with this digest.
    Applied(Fingerprint),
    /// A server cannot use the file, for these reasons.
    Refused(String),
    /// A server is running and has not reported a result yet.
    Starting,
    /// No running server uses this file.
    NoServer,
    /// No server has ever reported that it uses this file.
    Unknown,
}

impl ServerStatus {
    /// Reads the status of the server that uses the clients file at `path`. Blocks.
    ///
    /// # Errors
    /// The status file cannot be read; the message names it.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(match presence(&status_path(path))? {
            None => Self::Unknown,
            Some(Present::Nobody) => Self::NoServer,
            Some(Present::Says(text)) => Self::parse(&text),
        })
    }

    fn parse(text: &str) -> Self {
        // The server may be writing it.
        let Some((first, rest)) = text.split_once('\n') else { return Self::Starting };
        match first.split_once(' ') {
            Some((APPLIED, digest)) => digest.parse().map_or(Self::Starting, Self::Applied),
            None if first == REFUSED && rest.ends_with('\n') => Self::Refused(rest.trim_end().to_owned()),
            _ => Self::Starting,
        }
    }
}

/// Returns the path of the status file: beside the clients file itself, after resolving links.
fn status_path(clients: &Path) -> PathBuf {
    let target = clients.canonicalize().unwrap_or_else(|_| clients.to_owned());
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    directory_of(&target).join(format!(".{name}.server"))
}

/// Writes the status file. If the server may not write there, commands ask it at its admin port, or report that the
/// status is unknown.
#[derive(Debug, Default)]
pub(crate) struct StatusFile(Option<(PathBuf, Presence)>);

impl StatusFile {
    /// Records that this server uses the clients file at `path`. Blocks.
    pub(crate) fn new(path: &Path) -> Self {
        let mut file = Self::default();
        file.claim(path);
        file
    }

    fn claim(&mut self, path: &Path) {
        let file = status_path(path);
        // A link may have been changed to lead to another directory.
        if self.0.as_ref().is_none_or(|(before, _)| *before != file) {
            let claimed = Presence::claim(&file).inspect_err(log_failure);
            self.0 = claimed.ok().map(|presence| (file, presence));
        }
    }

    /// Writes the result of the last load of the clients file at `path`. Blocks.
    pub(crate) fn write(&mut self, path: &Path, result: &LoadResult) {
        self.claim(path);
        if let Some((_, presence)) = &self.0 {
            let _ = presence.say(&result.text()).inspect_err(log_failure);
        }
    }
}

fn log_failure(error: &std::io::Error) {
    tracing::debug!(%error, "commands are not told what was applied");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Problem;

    #[test]
    fn a_command_hears_what_the_server_says_for_as_long_as_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let clients = dir.path().join("clients.toml");
        std::fs::write(&clients, "").unwrap();
        let applied = || ServerStatus::read(&clients).unwrap();
        assert_eq!(applied(), ServerStatus::Unknown);
        let mut server = StatusFile::new(&clients);
        assert_eq!(applied(), ServerStatus::Starting);
        let digest = Fingerprint([7; 32]);
        server.write(&clients, &LoadResult::Applied(digest));
        assert_eq!(applied(), ServerStatus::Applied(digest));
        let problem = |message: &str| Problem { key: "clients.bob".to_owned(), message: message.to_owned() };
        let problems = vec![problem("is wrong"), problem("is worse")];
        server.write(&clients, &LoadResult::Refused(ConfigErrors { file: None, problems }));
        assert_eq!(applied(), ServerStatus::Refused("clients.bob: is wrong\nclients.bob: is worse".to_owned()));
        drop(server);
        assert_eq!(applied(), ServerStatus::NoServer);
        assert_eq!(ServerStatus::read(&dir.path().join("other.toml")).unwrap(), ServerStatus::Unknown);
    }

    #[test]
    fn what_is_being_written_is_waited_for() {
        let digest = Fingerprint([7; 32]);
        let whole = LoadResult::Applied(digest).text();
        assert!((0..whole.len()).all(|end| ServerStatus::parse(&whole[..end]) == ServerStatus::Starting));
        assert_eq!(ServerStatus::parse(&whole), ServerStatus::Applied(digest));
        assert_eq!(ServerStatus::parse("of a later version\n"), ServerStatus::Starting);
    }
}
