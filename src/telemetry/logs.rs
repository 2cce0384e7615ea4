//! Logs, on standard error or in files: text for people, JSON for machines.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::LogState;
use super::lines::Stream;
use super::plain::Plain;
use super::rolling::Rolling;
use crate::telemetry::options::{LogFile, LogFormat, LogOptions};
use crate::values::{Escape, escape_line};

/// The target of the access log: a line for each request.
pub const ACCESS_LOG: &str = "adit::access";

/// The target of the audit log: a line for each change by the operator's tools, whatever the level.
pub const AUDIT_LOG: &str = "adit::audit";

/// The target of a line for each request that an agent has taken to a local application.
pub const REQUEST_LOG: &str = "adit::requests";

/// The target of what a person at an agent's terminal is told in other words: whether it is connected, and what changes.
pub const STATUS_LOG: &str = "adit::status";

/// The target of what an agent says of its configuration file and prints in no other words.
pub const RELOAD_LOG: &str = "adit::reload";

/// The target of what an agent says of local applications: that one cannot be reached, and that it answers again.
pub const LOCAL_LOG: &str = "adit::local";

/// Lines that may wait to be written.
const WAITING_LINES: usize = 16 * 1024;

/// Escapes the characters of each line that would change how the lines are shown: visitors, agents, servers and
/// applications said much of what is in them. The formatters escape control characters, but no others.
struct Shown<W> {
    to: W,
    escape: Escape,
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.to.write_all(&escape_line(line, self.escape))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

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
    last_lines: LastLines,
    level: LogLevel,
    state: LogState,
}

impl Logs {
    /// What is logged, to be changed while the process runs.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }

    /// How the log itself is.
    pub fn state(&self) -> LogState {
        self.state.clone()
    }

    /// What has the last lines written by whoever ends the process without dropping this.
    pub fn last_lines(&self) -> LastLines {
        self.last_lines.clone()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.last_lines.write();
    }
}

/// The end of the log.
#[derive(Debug, Clone)]
pub struct LastLines(Arc<Mutex<Option<WorkerGuard>>>);

impl LastLines {
    /// Has the lines written that wait; there are none after them. Blocks until that is done, or for a second.
    pub fn write(&self) {
        let writer = self.0.lock().take();
        drop(writer);
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

    /// Changes both, from the next line on; `level` is one of [`crate::telemetry::options::LOG_LEVELS`]. Says whether that was
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

/// What the libraries have to say matters when something is wrong; warnings of those that speak with strangers do not: one
/// frame makes one of them, and a flood of frames would push everything else out of the log.
fn filter(level: &str, access: bool) -> EnvFilter {
    let access = if access { "info" } else { "off" };
    // Whoever hears that something is wrong is to hear when it is over.
    let news = if level == "warn" { "info" } else { level };
    EnvFilter::new(format!(
        "warn,h2=error,rustls=error,yamux=error,adit={level},{STATUS_LOG}={news},{LOCAL_LOG}={news},{RELOAD_LOG}={news},{AUDIT_LOG}=info,\
         {ACCESS_LOG}={access}"
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
pub fn start_logs(config: &LogOptions) -> Result<Logs, LogError> {
    start(config, false, false)
}

/// The same for an agent. Where a person sees on this very terminal how it is doing, `beside_status`, text is as plain as
/// that. What is printed on standard output ([`STATUS_LOG`]) is not repeated by a log on standard error, unless the former is
/// thrown away (`shows_status`), machines read the log, or `RUST_LOG` is set.
///
/// # Errors
/// As for [`start_logs`].
pub fn start_agent_logs(config: &LogOptions, beside_status: bool, shows_status: bool) -> Result<Logs, LogError> {
    let is_beside =
        config.file.is_none() && config.format == LogFormat::Text && std::env::var_os(EnvFilter::DEFAULT_ENV).is_none();
    let is_plain = is_beside && beside_status && io::stderr().is_terminal();
    start(config, is_plain, is_beside && shows_status)
}

fn start(config: &LogOptions, is_plain: bool, without_status: bool) -> Result<Logs, LogError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| match without_status {
        true => EnvFilter::new(format!("{},{STATUS_LOG}=off", filter(&config.level, config.access))),
        false => filter(&config.level, config.access),
    });
    let state = LogState::default();
    let escape = if config.format == LogFormat::Json { Escape::Json } else { Escape::Text };
    let (lines, is_terminal) = match &config.file {
        Some(file) => (queue(WAITING_LINES, Shown { to: open(file, &state)?, escape }, &state), false),
        None => {
            let to = Stream::new(io::stderr(), state.clone());
            (queue(WAITING_LINES, Shown { to, escape }, &state), io::stderr().is_terminal())
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
    let last_lines = LastLines(Arc::new(Mutex::new(Some(guard))));
    Ok(Logs { last_lines, level: LogLevel(Arc::new(Inner { now, change })), state })
}

/// Lines wait for a thread of their own that writes them; beyond `most` they are left out, and counted.
fn queue(most: usize, to: Shown<impl Write + Send + 'static>, state: &LogState) -> (NonBlocking, WorkerGuard) {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(most).finish(to);
    state.counts_with(writer.error_counter());
    (writer, guard)
}

fn open(file: &LogFile, state: &LogState) -> Result<Rolling, LogError> {
    let cannot = |error| LogError::File(file.path.clone(), error);
    // A folder that is not there is said to be, before the file.
    std::fs::metadata(file.folder()).map_err(cannot)?;
    Rolling::open(file, state.clone()).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::values::is_harmful;

    #[test]
    fn a_folder_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nowhere/adit.log");
        let opened = open(&LogFile { path, size: 100, keep: 2 }, &LogState::default());
        let error = opened.err().unwrap().to_string();
        assert!(error.contains("log.file") && !dir.path().join("nowhere").exists(), "{error}");
    }

    /// A disk that does not answer for as long as the other end lives.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_do_not_fit_among_those_that_wait_are_counted() {
        let state = LogState::default();
        let (held, stuck) = mpsc::channel();
        let (mut writer, guard) = queue(2, Shown { to: Stuck(stuck), escape: Escape::Text }, &state);
        for _ in 0..10 {
            writer.write_all(b"line\n").unwrap();
        }
        // One is being written, if its turn came that soon.
        assert!((7..=8).contains(&state.lost_lines()), "{}", state.lost_lines());
        assert!(state.problems()[0].contains("more came than could be written"), "{:?}", state.problems());
        drop(held);
        drop(guard);
    }

    #[test]
    fn what_strangers_say_in_a_message_does_not_reorder_the_line() {
        for (escape, json) in [(Escape::Text, false), (Escape::Json, true)] {
            let written = Arc::new(Mutex::new(Vec::new()));
            let to = written.clone();
            let writer = move || Shown { to: Collected(to.clone()), escape };
            let logs = tracing_subscriber::fmt().with_ansi(false).with_writer(writer);
            let say = || {
                let said = "a\u{202e}b\u{200b}c\u{2028}d\u{9b}e\u{7f}f\u{e0041}g";
                tracing::warn!(agent = %said, path = said, "it says: {said}");
            };
            match json {
                true => tracing::subscriber::with_default(logs.json().finish(), say),
                false => tracing::subscriber::with_default(logs.finish(), say),
            }
            let line = String::from_utf8(written.lock().clone()).unwrap();
            assert!(line.contains("it says: a") && line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
            assert!(!line.trim_end().contains(is_harmful), "{line:?}");
        }
    }

    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl Write for Collected {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_of_libraries_that_a_stranger_can_repeat_at_will_is_logged() {
        let filter = filter("info", false).to_string();
        for library in ["h2=error", "rustls=error", "yamux=error"] {
            assert!(filter.split(',').any(|part| part == library), "{filter}");
        }
    }
}
