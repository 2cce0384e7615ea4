//! Reports to commands which version of the clients file the running server uses.
//!
//! The server writes a status file beside the clients file, so no port is needed and a command needs no configuration.

use std::path::{Path, PathBuf};

use crate::files::{Presence, Present, directory_of, presence};
use crate::schema::ConfigErrors;
use crate::values::Fingerprint;

const APPLIED: &str = "applied";
const REFUSED: &str = "refused";

/// The result of the last load of the clients file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server uses the version with this digest.
    Applied(Fingerprint),
    /// The file is not valid; the server keeps the previous version.
    Refused(ConfigErrors),
}

impl Outcome {
    /// Returns the text of the status file.
    fn text(&self) -> String {
        match self {
            Self::Applied(digest) => format!("{APPLIED} {digest}\n"),
            Self::Refused(errors) => format!("{REFUSED}\n{errors}\n"),
        }
    }
}

/// The state of the server that uses a clients file, as a command sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// A server uses the version of the file with this digest.
    Is(Fingerprint),
    /// A server cannot use the file, for these reasons.
    Refused(String),
    /// A server is running and has reported nothing yet.
    NotYet,
    /// No running server uses this file.
    NoServer,
    /// No server has ever reported that it uses this file.
    Unknown,
}

impl Applied {
    /// Reads the state of the server that uses the clients file at `path`. Blocks.
    ///
    /// # Errors
    /// The status file cannot be read; the message names it.
    pub fn look(path: &Path) -> std::io::Result<Self> {
        Ok(match presence(&file_of(path))? {
            None => Self::Unknown,
            Some(Present::Nobody) => Self::NoServer,
            Some(Present::Says(text)) => Self::read(&text),
        })
    }

    fn read(text: &str) -> Self {
        // It may be about to be written.
        let Some((first, rest)) = text.split_once('\n') else { return Self::NotYet };
        match first.split_once(' ') {
            Some((APPLIED, digest)) => digest.parse().map_or(Self::NotYet, Self::Is),
            None if first == REFUSED && rest.ends_with('\n') => Self::Refused(rest.trim_end().to_owned()),
            _ => Self::NotYet,
        }
    }
}

/// Returns the path of the status file: beside the clients file itself, after resolving links.
fn file_of(clients: &Path) -> PathBuf {
    let target = clients.canonicalize().unwrap_or_else(|_| clients.to_owned());
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    directory_of(&target).join(format!(".{name}.server"))
}

/// Writes the status file. If the server may not write there, commands ask it at its admin port, or report that the state is
/// unknown.
#[derive(Debug, Default)]
pub(crate) struct Sayer(Option<(PathBuf, Presence)>);

impl Sayer {
    /// Records that this server uses the clients file at `path`. Blocks.
    pub(crate) fn of(path: &Path) -> Self {
        let mut sayer = Self::default();
        sayer.claim(path);
        sayer
    }

    fn claim(&mut self, path: &Path) {
        let file = file_of(path);
        // A link may lead to another folder by now.
        if self.0.as_ref().is_none_or(|(before, _)| *before != file) {
            let claimed = Presence::claim(&file);
            let claimed =
                claimed.inspect_err(|error| tracing::debug!(%error, "commands are not told what was applied"));
            self.0 = claimed.ok().map(|presence| (file, presence));
        }
    }

    /// Records `outcome` for the clients file at `path`. Blocks.
    pub(crate) fn say(&mut self, path: &Path, outcome: &Outcome) {
        self.claim(path);
        if let Some((_, presence)) = &self.0
            && let Err(error) = presence.say(&outcome.text())
        {
            tracing::debug!(%error, "commands are not told what was applied");
        }
    }
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
        let applied = || Applied::look(&clients).unwrap();
        assert_eq!(applied(), Applied::Unknown);
        let mut server = Sayer::of(&clients);
        assert_eq!(applied(), Applied::NotYet);
        let digest = Fingerprint([7; 32]);
        server.say(&clients, &Outcome::Applied(digest));
        assert_eq!(applied(), Applied::Is(digest));
        let problem = |message: &str| Problem { key: "clients.bob".to_owned(), message: message.to_owned() };
        let problems = vec![problem("is wrong"), problem("is worse")];
        server.say(&clients, &Outcome::Refused(ConfigErrors { file: None, problems }));
        assert_eq!(applied(), Applied::Refused("clients.bob: is wrong\nclients.bob: is worse".to_owned()));
        drop(server);
        assert_eq!(applied(), Applied::NoServer);
        assert_eq!(Applied::look(&dir.path().join("other.toml")).unwrap(), Applied::Unknown);
    }

    #[test]
    fn what_is_being_written_is_waited_for() {
        let digest = Fingerprint([7; 32]);
        let whole = Outcome::Applied(digest).text();
        assert!((0..whole.len()).all(|end| Applied::read(&whole[..end]) == Applied::NotYet));
        assert_eq!(Applied::read(&whole), Applied::Is(digest));
        assert_eq!(Applied::read("of a later version\n"), Applied::NotYet);
    }
}
