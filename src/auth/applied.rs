//! What a running server has made of its clients file, for the commands that change it.
//!
//! The server says it in a file beside the clients file, so it needs no port, and a command needs no configuration.

use std::path::{Path, PathBuf};

use crate::config::ConfigErrors;
use crate::files::{Presence, Present, directory_of, presence};
use crate::values::Fingerprint;

const APPLIED: &str = "applied";
const REFUSED: &str = "refused";

/// What has come of the clients file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The text with this digest counts.
    Applied(Fingerprint),
    /// The file cannot be used, and what it said before counts.
    Refused(ConfigErrors),
}

impl Outcome {
    /// As it is written for others.
    fn text(&self) -> String {
        match self {
            Self::Applied(digest) => format!("{APPLIED} {digest}\n"),
            Self::Refused(errors) => format!("{REFUSED}\n{errors}\n"),
        }
    }
}

/// What a command can tell of the server that goes by a clients file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// A server has taken this text of the file over.
    Is(Fingerprint),
    /// A server cannot use the file, for these reasons.
    Refused(String),
    /// A server runs and has said nothing yet.
    NotYet,
    /// No server runs that goes by this file.
    NoServer,
    /// No server has ever said that it goes by this file.
    Unknown,
}

impl Applied {
    /// Looks what a server has made of the clients file at `path`. Blocks.
    ///
    /// # Errors
    /// What the server says cannot be read; the message names the file.
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

/// Where the server says it: beside the file itself, whatever links lead there.
fn file_of(clients: &Path) -> PathBuf {
    let target = clients.canonicalize().unwrap_or_else(|_| clients.to_owned());
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    directory_of(&target).join(format!(".{name}.server"))
}

/// Says what has come of the clients file. Where it cannot be said, because the server may not write there, the commands
/// ask the server at its admin port, or tell that they do not know.
#[derive(Debug, Default)]
pub(super) struct Sayer(Option<(PathBuf, Presence)>);

impl Sayer {
    /// Lets commands know that a server goes by the clients file at `path`. Blocks.
    pub(super) fn of(path: &Path) -> Self {
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

    /// Says `outcome` of the clients file at `path`. Blocks.
    pub(super) fn say(&mut self, path: &Path, outcome: &Outcome) {
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
    use crate::config::Problem;

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
