//! The log of an agent as a person at a terminal reads it: without dates and targets, and requests in columns.

use std::fmt::{self, Write as _};

use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{RELOAD_LOG, REQUEST_LOG, STATUS_LOG};
use crate::values::harmless_line;

/// The name of the service is of no use beside the address of its application.
const NOT_SHOWN: &str = "service";

/// Writes a line for each event.
pub(super) struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let line = match event.metadata().target() {
            // It stands on the terminal already.
            STATUS_LOG | RELOAD_LOG => return Ok(()),
            REQUEST_LOG => said.request(),
            _ => said.line(*event.metadata().level()),
        };
        if out.has_ansi_escapes() { writeln!(out, "{line}") } else { writeln!(out, "{}", strip_str(&line)) }
    }
}

fn bold(colour: AnsiColor) -> Style {
    Style::new().bold().fg_color(Some(colour.into()))
}

/// What an event says, as texts that steer no terminal.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, &format!("{value:?}"));
    }
}

impl Said {
    fn keep(&mut self, field: &Field, text: &str) {
        // Much of it was said by servers and visitors.
        let text = harmless_line(text).into_owned();
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push((name, text)),
        }
    }

    fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| *field == name).map_or("", |(_, text)| text)
    }

    fn number(&self, name: &str) -> u64 {
        self.field(name).parse().unwrap_or(0)
    }

    fn line(&self, level: Level) -> String {
        let dim = Style::new().dimmed();
        let (style, label) = match level {
            Level::ERROR => (bold(AnsiColor::Red), "error: "),
            Level::WARN => (bold(AnsiColor::Yellow), "warning: "),
            Level::INFO => (Style::new(), ""),
            Level::DEBUG => (dim, "debug: "),
            Level::TRACE => (dim, "trace: "),
        };
        let mut line = format!("{style}{label}{style:#}{}", self.message);
        for (name, text) in self.fields.iter().filter(|(name, _)| *name != NOT_SHOWN) {
            // Writing into a text cannot fail.
            let _ = write!(line, " {dim}{name}={text}{dim:#}");
        }
        line
    }

    fn request(&self) -> String {
        let status = self.field("status");
        let colour = match status.as_bytes().first() {
            Some(b'1'..=b'3') => AnsiColor::Green,
            Some(b'4') => AnsiColor::Yellow,
            _ => AnsiColor::Red,
        };
        let (style, dim) = (bold(colour), Style::new().dimmed());
        let status = if status.is_empty() { "-" } else { status };
        let (method, path) = (self.field("method"), self.field("path"));
        let (took, bytes) = (duration(self.number("ms")), size(self.number("bytes")));
        let outcome = match self.field("outcome") {
            "ok" => String::new(),
            "cut" => format!("  {dim}(cut: the visitor left, or the server waited no longer){dim:#}"),
            other => format!("  {dim}({other}){dim:#}"),
        };
        format!("{style}{status:>3}{style:#}  {method:<7} {took:>8}  {bytes:>8}  {path}{outcome}")
    }
}

fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        _ => format!("{} min", ms / 60_000),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::values::is_harmful;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of the events of `say`.
    fn lines(colour: bool, say: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let logs = tracing_subscriber::fmt()
            .with_ansi(colour)
            .event_format(Plain)
            .with_max_level(Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(logs, say);
        let bytes = written.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn request(status: Option<u16>, method: &str, path: &str, (ms, bytes): (u64, u64), outcome: &str) {
        tracing::info!(target: REQUEST_LOG, service = "alice", method, path, status, ms, bytes, outcome, "request");
    }

    #[test]
    fn requests_stand_in_columns() {
        let text = lines(false, || {
            request(Some(200), "GET", "/", (3, 12), "ok");
            request(Some(404), "PROPFIND", "/a b", (12_345, 1_234_567), "ok");
            request(None, "GET", "/slow", (600_000, 0), "cut");
            request(None, "POST", "/x", (999, 1_000), "local_unreachable");
        });
        let expected = "200  GET         3 ms      12 B  /\n\
                        404  PROPFIND   12.3 s    1.2 MB  /a b\n\
                        \x20 -  GET       10 min       0 B  /slow  (cut: the visitor left, or the server waited no longer)\n\
                        \x20 -  POST      999 ms    1.0 kB  /x  (local_unreachable)\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn lines_are_as_plain_as_the_status_and_steer_no_terminal() {
        let text = lines(false, || {
            tracing::warn!(service = "alice", "it is \x1b[2Jgone");
            tracing::info!(lane = 7, "another lane");
            tracing::warn!(target: STATUS_LOG, "what the status says");
            request(Some(200), "GET", "/\x1b[2J\u{9b}31m", (1, 1), "ok");
            request(Some(200), "GET", "/\u{202e}gnp.exe\u{200b}\u{2028}\u{e0041}", (1, 1), "ok");
        });
        assert!(text.starts_with("warning: it is [2Jgone\nanother lane lane=7\n"), "{text}");
        assert!(!text.contains(|char: char| is_harmful(char) && char != '\n'), "{text:?}");
        assert!(text.ends_with("  /\\u{202e}gnp.exe\\u{200b}\\u{2028}\\u{e0041}\n"), "{text:?}");
        let coloured = lines(true, || tracing::warn!("it is \x1b[2Jgone"));
        assert!(coloured.contains("\x1b[33mwarning") && !coloured.contains("\x1b[2J"), "{coloured:?}");
    }
}
