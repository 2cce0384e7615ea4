//! The `[log]` section, the same for both sides.

use std::path::{Path, PathBuf};

mod traces;

pub use traces::{Ratio, TracesOptions};

use crate::files::directory_of;
use crate::schema::{Group, Key, Section, Table, key, options};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

options! {
    /// The `[log]` section.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct LogOptions {
        /// For people, or one JSON object a line.
        pub format: LogFormat = format(), restart;
        /// The least severe level of adit's own lines that is logged. Libraries log warnings and errors; those that talk
        /// to strangers log only errors.
        pub level: String = level("info"), reload;
        /// Where the lines go instead of standard error.
        pub file: Option<LogFile>, inline;
        /// Whether the server writes a line for each request, whatever the level; see [below](#the-access-log).
        pub access: bool = key::boolean(false), reload;
        /// Whether the `path` in these lines has its query, which may contain secrets.
        pub query: bool = key::boolean(false), reload;
    }
}

impl LogOptions {
    /// Reads the section of an agent, which has no access log. It says less by default: what matters is on the terminal,
    /// and `info` has each request.
    pub(crate) fn read_for_agent(table: &mut Table<'_>) -> Self {
        let format = table.get("format", format().doc("As in `server.toml`."));
        let level = table.get("level", level("warn").doc("As in `server.toml`. See [below](#what-an-agent-says)."));
        Self { format, file: Section::read(table), ..Self::plain(&level) }
    }

    /// Text on standard error, of this level, without a line for each request.
    pub fn plain(level: &str) -> Self {
        Self { format: LogFormat::Text, level: level.to_owned(), access: false, query: false, file: None }
    }
}

options! {
    /// A log file, which is rotated each day and when it is large.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct LogFile {
        /// The file for log lines, instead of standard error. Its folder must exist. Each day (UTC, like the times in the
        /// lines), and after `log.file_size`, it becomes `….1`, that one `….2` and so on, also across restarts. What is not
        /// a regular file (`/dev/stdout`, a pipe) is only written to.
        pub path as "file": PathBuf = key::path().or("none", PathBuf::new()), restart;
        /// The size at which the next file begins. The next file also begins each day.
        pub size as "file_size": u64 =
            key::bytes(104_857_600, 1_024..=100_000_000_000).map(|bytes| bytes as u64), restart;
        /// How many earlier files are kept.
        pub keep as "files": usize = key::number(7, 1..=1_000), restart;
    }
}

impl Group for LogFile {
    fn given(self, _: &Table<'_>) -> Option<Self> {
        Some(self).filter(|file| !file.path.as_os_str().is_empty())
    }
}

impl LogFile {
    /// The folder that it is in, and its earlier ones.
    pub fn folder(&self) -> &Path {
        directory_of(&self.path)
    }
}

/// The levels, the least talkative first.
pub const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

fn format() -> Key<LogFormat> {
    key::choice("a log format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]).or("`text`", LogFormat::Text)
}

fn level(default: &str) -> Key<String> {
    key::text(format!("`{}`", LOG_LEVELS.join("`, `")), log_level).or(format!("`{default}`"), default.to_owned())
}

/// A level, in any case.
///
/// # Errors
/// There is no such level; the message lists those there are.
pub fn log_level(text: &str) -> Result<String, String> {
    let level = text.to_ascii_lowercase();
    let known = LOG_LEVELS.contains(&level.as_str());
    if known { Ok(level) } else { Err(format!("`{text}` is not a log level; use one of {}", LOG_LEVELS.join(", "))) }
}
