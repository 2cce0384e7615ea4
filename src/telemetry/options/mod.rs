//! The `[log]` section, the same for both sides.

use std::path::{Path, PathBuf};

mod traces;

pub(crate) use traces::resolve as resolve_traces;
pub use traces::{Ratio, TracesOptions};

use crate::files::directory_of;
use crate::schema::Table;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// How the lines look. Default: text.
    pub format: LogFormat,
    /// The least severe level that is shown: `error`, `warn`, `info`, `debug` or `trace`. Default: `info`, of an
    /// agent `warn`.
    pub level: String,
    /// Whether the server writes a line for each request. Default: no; a line costs about as much as a fifth of the
    /// request.
    pub access: bool,
    /// Whether these lines have the queries of the requests too, in which secrets may be. Default: no.
    pub query: bool,
    /// Where the lines go instead of standard error.
    pub file: Option<LogFile>,
}

impl LogOptions {
    /// Text on standard error, of this level, without a line for each request.
    pub fn plain(level: &str) -> Self {
        Self { format: LogFormat::Text, level: level.to_owned(), access: false, query: false, file: None }
    }
}

/// A log file, which makes room for another one each day and when it is large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The one that is written to. Earlier ones have `.1`, `.2` and so on behind their names.
    pub path: PathBuf,
    /// Bytes after which the next one begins. Default: 104,857,600 (100 MiB), from 1,024 to 100,000,000,000.
    pub size: u64,
    /// How many earlier ones are kept. Default: 7, from 1 to 1,000.
    pub keep: usize,
}

impl LogFile {
    /// The folder that it is in, and its earlier ones.
    pub fn folder(&self) -> &Path {
        directory_of(&self.path)
    }
}

/// The levels, the least talkative first.
pub const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The section of an agent. It says less by default: what matters stands on the terminal, and `info` has each request.
pub(crate) fn resolve_agent(table: Table<'_>) -> LogOptions {
    resolve(table, "warn")
}

/// The section of a server, which can log each request too.
pub(crate) fn resolve_server(mut table: Table<'_>) -> LogOptions {
    let access = table.boolean("access", false);
    let query = table.boolean("query", false);
    LogOptions { access, query, ..resolve(table, "info") }
}

fn resolve(mut table: Table<'_>, default: &str) -> LogOptions {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = table.by_default("`text`").choice("format", "a log format", &formats);
    table.by_default(format!("`{default}`")).within(format!("`{}`", LOG_LEVELS.join("`, `")));
    let level = table.parse("level", log_level);
    let path = table.path("file");
    let size = table.within(" bytes").number("file_size", 104_857_600, 1_024..=100_000_000_000) as u64;
    let keep = table.number("files", 7, 1..=1_000);
    LogOptions {
        format: format.unwrap_or(LogFormat::Text),
        file: path.map(|path| LogFile { path, size, keep }),
        ..LogOptions::plain(level.as_deref().unwrap_or(default))
    }
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
