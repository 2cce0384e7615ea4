//! How a command fails: what it says, and its exit code.

use std::path::Path;
use std::process::ExitCode;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};

use crate::agent::{GivenUp, SetUpError};
use crate::certs::CertError;
use crate::schema::ConfigErrors;
use crate::server::StartError;
use crate::tenants::edit_error::EditError;
use crate::transport::tls::TlsError;
use crate::values::harmless_text;

/// The command line is wrong, as clap reports it.
const USAGE: u8 = 2;
/// The server refused the agent for good (`EX_NOPERM` of `sysexits.h`).
const REFUSED: u8 = 77;
/// The configuration cannot be used (`EX_CONFIG` of `sysexits.h`).
const CONFIGURATION: u8 = 78;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration has these problems.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The server refused the agent for good, or another one replaced it.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
    /// The server could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The agent could not start.
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    /// The clients file could not be changed.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The arguments are incomplete.
    #[error("{0}")]
    Usage(String),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// For errors that need no words of their own.
    pub fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }

    /// Creates one for a refused change to the clients file at `file`.
    pub(super) fn edit(file: &Path, error: EditError) -> Self {
        match error {
            // They name the file themselves.
            EditError::Invalid(_) | EditError::Refused(_) | EditError::Io(_) => Self::Edit(error),
            EditError::NoClient(_) | EditError::NoInvite(_) => {
                Self::Other(format!("{}: {error}; `adit token list` shows what there is", file.display()))
            }
            about_an_entry => Self::Other(format!("{}: {about_an_entry}", file.display())),
        }
    }

    /// 77: refused for good. 78: configuration. 2: command line. 1: everything else.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::GivenUp(_) => ExitCode::from(REFUSED),
            Self::Usage(_) => ExitCode::from(USAGE),
            Self::Config(_) | Self::Edit(EditError::Invalid(_)) => ExitCode::from(CONFIGURATION),
            // Files and names that the configuration says: the next attempt would find them no better.
            Self::SetUp(SetUpError::Tls(TlsError::CaFile(..)))
            | Self::Start(StartError::Certificate(
                CertError::Missing(_)
                | CertError::NoCertificate(_)
                | CertError::NoKey(_)
                | CertError::Unreadable(..)
                | CertError::UnusableKey(..)
                | CertError::NotAPair { .. }
                | CertError::Name(_),
            )) => ExitCode::from(CONFIGURATION),
            _ => ExitCode::FAILURE,
        }
    }

    /// Says what is wrong, on standard error.
    pub fn print(&self) {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        eprintln!("{red}error:{red:#} {}", self.text());
    }

    /// What is wrong. Some of it may be a server's words.
    fn text(&self) -> String {
        let text = match self {
            // Several lines, each with its file and key.
            // It is about no file and no key.
            Self::Config(errors) if errors.file.is_none() && errors.problems.iter().all(|it| it.key.is_empty()) => {
                errors.to_string()
            }
            Self::Config(errors) => format!("the configuration cannot be used\n{errors}"),
            other => other.to_string(),
        };
        harmless_text(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::protocol::login::Refusal;

    fn code(failure: impl Into<Failure>) -> String {
        format!("{:?}", failure.into().exit_code())
    }

    #[test]
    fn files_that_the_configuration_names_belong_to_the_configuration() {
        let configuration = format!("{:?}", ExitCode::from(78));
        let file = || PathBuf::from("key.pem");
        assert_eq!(code(SetUpError::Tls(TlsError::CaFile(file(), String::new()))), configuration);
        for error in [
            CertError::Missing(file()),
            CertError::NoCertificate(file()),
            CertError::NoKey(file()),
            CertError::Unreadable("key.pem".to_owned(), String::new()),
            CertError::UnusableKey(file(), String::new()),
            CertError::NotAPair { cert: file(), key: file() },
            CertError::Name("a b".to_owned()),
        ] {
            assert_eq!(code(StartError::Certificate(error)), configuration);
        }
        let other = format!("{:?}", ExitCode::FAILURE);
        assert_eq!(code(SetUpError::Tls(TlsError::NoRoots(String::new()))), other);
        assert_eq!(code(StartError::Certificate(CertError::Making(String::new()))), other);
    }

    #[test]
    fn a_server_does_not_steer_the_terminal() {
        let (server, by) = ("a:1".to_owned(), "\x1b[2Jadit".to_owned());
        let refused = GivenUp::Refused { server, code: Refusal::BadToken, message: "\x1b]0;x\x07no".to_owned() };
        for (given_up, shown) in [(refused, "]0;xno"), (GivenUp::Replaced { by }, "[2Jadit")] {
            let text = Failure::from(given_up).text();
            assert!(text.contains(shown) && !text.contains(char::is_control), "{text:?}");
        }
    }
}
