//! Logs on standard error: text for people, JSON for machines.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{LogConfig, LogFormat};

/// The target of the access log: a line for each request.
pub const ACCESS_LOG: &str = "adit::access";

/// The target of the audit log: a line for each change by the operator's tools, whatever the level.
pub const AUDIT_LOG: &str = "adit::audit";

/// Lines that may wait to be written.
const WAITING_LINES: usize = 16 * 1024;

/// Starts logging for the whole process. `RUST_LOG` decides in place of the configured level, if it is set.
/// Colour only on a terminal, and not if `NO_COLOR` is set.
///
/// Lines are written by a thread of their own, so that a slow terminal or journal slows no visitor; when more than
/// [`WAITING_LINES`] wait, further ones are dropped. The guard writes the last ones when it is dropped.
///
/// # Errors
/// Logging was started before.
pub fn start_logs(config: &LogConfig) -> Result<WorkerGuard, TryInitError> {
    // What the libraries have to say matters when something is wrong.
    let access = if config.access { "info" } else { "off" };
    let wanted = format!("warn,yamux=error,adit={},{AUDIT_LOG}=info,{ACCESS_LOG}={access}", config.level);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(wanted));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(std::io::stderr());
    let logs = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter).with_ansi(colour);
    match config.format {
        LogFormat::Text => logs.finish().try_init(),
        LogFormat::Json => logs.json().flatten_event(true).finish().try_init(),
    }?;
    Ok(guard)
}
