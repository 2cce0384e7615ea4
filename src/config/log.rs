//! The `[log]` section, the same for both sides.

use super::table::Table;

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
pub struct LogConfig {
    /// How the lines look. Default: text.
    pub format: LogFormat,
    /// The least severe level that is shown: `error`, `warn`, `info`, `debug` or `trace`. Default: `info`.
    pub level: String,
    /// Whether the server writes a line for each request. Default: no; a line costs about as much as a fifth of the
    /// request.
    pub access: bool,
    /// Whether these lines have the queries of the requests too, in which secrets may be. Default: no.
    pub query: bool,
}

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The section of a server, which can log each request too.
pub(super) fn resolve_server(mut table: Table<'_>) -> LogConfig {
    let access = table.boolean("access", false);
    let query = table.boolean("query", false);
    LogConfig { access, query, ..resolve(table) }
}

pub(super) fn resolve(mut table: Table<'_>) -> LogConfig {
    let format = table.parse("format", |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is not a log format; use \"text\" or \"json\"")),
    });
    let level = table.parse("level", |text| {
        let level = text.to_ascii_lowercase();
        let known = LEVELS.contains(&level.as_str());
        if known { Ok(level) } else { Err(format!("`{text}` is not a log level; use one of {}", LEVELS.join(", "))) }
    });
    LogConfig {
        format: format.unwrap_or(LogFormat::Text),
        level: level.unwrap_or_else(|| "info".to_owned()),
        access: false,
        query: false,
    }
}
