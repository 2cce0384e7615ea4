//! How a command fails: what it says, and its exit code.

use std::process::ExitCode;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};

use crate::agent::{GivenUp, SetUpError};
use crate::config::{AddClientError, ConfigErrors};
use crate::server::StartError;

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
    /// The client could not be added.
    #[error(transparent)]
    AddClient(#[from] AddClientError),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// For errors that need no words of their own.
    pub fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }

    /// 77: refused for good. 78: configuration. 1: everything else.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::GivenUp(_) => ExitCode::from(REFUSED),
            Self::Config(_) | Self::AddClient(AddClientError::Invalid(_)) => ExitCode::from(CONFIGURATION),
            _ => ExitCode::FAILURE,
        }
    }

    /// Says what is wrong, on standard error.
    pub fn print(&self) {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        match self {
            // Several lines, each with its file and key.
            Self::Config(errors) => eprintln!("{red}error:{red:#} the configuration cannot be used\n{errors}"),
            other => eprintln!("{red}error:{red:#} {other}"),
        }
    }
}
