//! Logs, on standard error or in files: text for people, JSON for machines.

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_rolling_file::{RollingConditionBase, RollingFileAppender};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::plain::Plain;
use crate::config::{LogConfig, LogFile, LogFormat};

/// The target of the access log: a line for each request.
pub const ACCESS_LOG: &str = "adit::access";

/// The target of the audit log: a line for each change by the operator's tools, whatever the level.
pub const AUDIT_LOG: &str = "adit::audit";

/// The target of a line for each request that an agent has taken to a local application.
pub const REQUEST_LOG: &str = "adit::requests";

/// The target of what a person at an agent's terminal is told in other words: whether it is connected, and what changes.
pub const STATUS_LOG: &str = "adit::status";

/// The target of what an agent says of local applications: that one cannot be reached, and that it answers again.
pub const LOCAL_LOG: &str = "adit::local";

/// Lines that may wait to be written.
const WAITING_LINES: usize = 16 * 1024;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be written.
    #[error("cannot write the log file {0} (log.file): {1}")]
    File(PathBuf, io::Error),
    /// Logging was started before.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

/// The log of this process, for as long as this lives: dropping it writes the last lines.
#[must_use = "the last lines are written when it is dropped"]
pub struct Logs {
    _writer: WorkerGuard,
    level: LogLevel,
}

impl Logs {
    /// What is logged, to be changed while the process runs.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }
}

/// What is logged: a level, and whether requests are. Clones are the same one.
#[derive(Clone)]
pub struct LogLevel(Arc<Inner>);

struct Inner {
    now: Mutex<(String, bool)>,
    change: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.now()).finish()
    }
}

impl LogLevel {
    /// The level, and whether each request has its line.
    pub fn now(&self) -> (String, bool) {
        self.0.now.lock().clone()
    }

    /// Changes both, from the next line on; `level` is one of [`crate::config::LOG_LEVELS`]. Says whether that was
    /// possible. What `RUST_LOG` has said counts no more.
    pub fn change(&self, level: &str, access: bool) -> bool {
        let mut now = self.0.now.lock();
        let changed = (self.0.change)(filter(level, access));
        if changed {
            *now = (level.to_owned(), access);
        }
        changed
    }
}

/// What the libraries have to say matters when something is wrong.
fn filter(level: &str, access: bool) -> EnvFilter {
    let access = if access { "info" } else { "off" };
    // Whoever hears that something is wrong is to hear when it is over.
    let news = if level == "warn" { "info" } else { level };
    EnvFilter::new(format!(
        "warn,yamux=error,adit={level},{STATUS_LOG}={news},{LOCAL_LOG}={news},{AUDIT_LOG}=info,{ACCESS_LOG}={access}"
    ))
}

/// Starts logging for the whole process. `RUST_LOG` decides in place of the configured level, if it is set.
/// Colour only on a terminal, and not if `NO_COLOR` is set.
///
/// Lines are written by a thread of their own, so that a slow terminal, journal or disk slows no visitor; when more than
/// [`WAITING_LINES`] wait, further ones are dropped.
///
/// # Errors
/// The file cannot be written, or logging was started before.
pub fn start_logs(config: &LogConfig) -> Result<Logs, LogError> {
    start(config, false)
}

/// The same for an agent. Where a person sees on this very terminal how it is doing, `beside_status`, text is as plain as
/// that, and what is told there ([`STATUS_LOG`]) is not said again.
///
/// # Errors
/// As for [`start_logs`].
pub fn start_agent_logs(config: &LogConfig, beside_status: bool) -> Result<Logs, LogError> {
    let is_plain = beside_status
        && config.file.is_none()
        && config.format == LogFormat::Text
        && io::stderr().is_terminal()
        && std::env::var_os(EnvFilter::DEFAULT_ENV).is_none();
    start(config, is_plain)
}

fn start(config: &LogConfig, is_plain: bool) -> Result<Logs, LogError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| filter(&config.level, config.access));
    let (lines, is_terminal) = match &config.file {
        Some(file) => (NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(open(file)?), false),
        None => {
            let lines = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(io::stderr());
            (lines, io::stderr().is_terminal())
        }
    };
    let colour = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, guard) = lines;
    let logs = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter).with_ansi(colour);
    let change: Box<dyn Fn(EnvFilter) -> bool + Send + Sync> = match config.format {
        LogFormat::Text if is_plain => {
            let logs = logs.event_format(Plain).with_filter_reloading();
            let handle = logs.reload_handle();
            logs.finish().try_init()?;
            Box::new(move |filter| handle.reload(filter).is_ok())
        }
        LogFormat::Text => {
            let logs = logs.with_filter_reloading();
            let handle = logs.reload_handle();
            logs.finish().try_init()?;
            Box::new(move |filter| handle.reload(filter).is_ok())
        }
        LogFormat::Json => {
            let logs = logs.json().flatten_event(true).with_filter_reloading();
            let handle = logs.reload_handle();
            logs.finish().try_init()?;
            Box::new(move |filter| handle.reload(filter).is_ok())
        }
    };
    let now = Mutex::new((config.level.clone(), config.access));
    Ok(Logs { _writer: guard, level: LogLevel(Arc::new(Inner { now, change })) })
}

/// A file that makes room for the next one each day, and when it is large.
fn open(file: &LogFile) -> Result<RollingFileAppender<RollingConditionBase>, LogError> {
    let condition = RollingConditionBase::new().daily().max_size(file.size);
    let cannot = |error| LogError::File(file.path.clone(), error);
    // It would make directories that nobody has asked for.
    let folder = file.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::metadata(folder).map_err(cannot)?;
    RollingFileAppender::new(&file.path, condition, file.keep).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_makes_room_when_it_is_large_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adit.log");
        let mut log = open(&LogFile { path: path.clone(), size: 100, keep: 2 }).unwrap();
        for line in 0..10 {
            // A line is written in one piece, as the log does.
            log.write_all(format!("{line} {}\n", "x".repeat(70)).as_bytes()).unwrap();
        }
        log.flush().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["adit.log", "adit.log.1", "adit.log.2"]);
        assert!(std::fs::read_to_string(&path).unwrap().contains("9 x"), "the newest lines are in the file itself");
    }

    #[test]
    fn a_folder_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nowhere/adit.log");
        let error = open(&LogFile { path, size: 100, keep: 2 }).unwrap_err().to_string();
        assert!(error.contains("log.file") && !dir.path().join("nowhere").exists(), "{error}");
    }
}
