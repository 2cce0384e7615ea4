//! The value of one key, and how each kind of value is read.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};

use super::layers::Origin;
use super::report::Report;
use super::table::Table;

/// The value of one key, with its path for messages.
pub(crate) struct Entry<'r> {
    pub(super) report: &'r Report,
    pub(super) path: String,
    pub(super) origin: Origin,
    pub(super) value: Value,
}

impl<'r> Entry<'r> {
    /// Returns the layer that the value came from.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns the full path of the key.
    pub(crate) fn key(&self) -> &str {
        &self.path
    }

    /// Returns the report that problems of this value go to.
    pub(crate) fn report(&self) -> &'r Report {
        self.report
    }

    /// Reports a problem with this value.
    pub(crate) fn problem(&self, message: impl Display) {
        self.report.problem(&self.path, format!("{message}{}", self.origin.suffix(&self.path)));
    }

    fn wrong_kind(&self, expected: &str) {
        let found = match &self.value.kind {
            ValueKind::Nil => "nothing",
            ValueKind::Boolean(_) => "true or false",
            ValueKind::Float(_) => "a fraction",
            ValueKind::String(_) => "a text",
            ValueKind::Table(_) => "a section",
            ValueKind::Array(_) => "a list",
            _ => "a number",
        };
        self.problem(format!("must be {expected}, but is {found}"));
    }

    /// Reads a text, without surrounding white space.
    pub(crate) fn text(self) -> Option<String> {
        match &self.value.kind {
            ValueKind::String(text) => Some(text.trim().to_owned()),
            _ => {
                self.wrong_kind("a text in quotes");
                None
            }
        }
    }

    /// Reads a text with `read`.
    pub(crate) fn parse<T, E: Display>(self, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let ValueKind::String(text) = &self.value.kind else {
            self.wrong_kind("a text in quotes");
            return None;
        };
        read(text.trim()).map_err(|error| self.problem(error)).ok()
    }

    /// Like [`Entry::parse`], for a value that may also be a whole number.
    pub(crate) fn parse_or_number<T, E: Display>(self, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match self.value.kind {
            ValueKind::I64(number) => read(&number.to_string()).map_err(|error| self.problem(error)).ok(),
            _ => self.parse(read),
        }
    }

    /// Reads `true` or `false`, which the environment and the command line give as text.
    pub(crate) fn boolean(self) -> Option<bool> {
        match &self.value.kind {
            ValueKind::Boolean(value) => Some(*value),
            ValueKind::String(text) if self.origin != Origin::File && matches!(text.trim(), "true" | "false") => {
                Some(text.trim() == "true")
            }
            _ => {
                self.wrong_kind("true or false");
                None
            }
        }
    }

    /// Reads a whole number within `range`, which the environment and the command line give as text.
    pub(crate) fn number(self, range: RangeInclusive<usize>) -> Option<usize> {
        let number = match &self.value.kind {
            ValueKind::I64(number) => i128::from(*number),
            ValueKind::U64(number) => i128::from(*number),
            ValueKind::String(text) if self.origin != Origin::File => match text.trim().parse() {
                Ok(number) => number,
                Err(_) => {
                    self.problem(format!("`{text}` is not a whole number"));
                    return None;
                }
            },
            _ => {
                self.wrong_kind("a whole number");
                return None;
            }
        };
        let found = usize::try_from(number).ok().filter(|number| range.contains(number));
        if found.is_none() {
            self.problem(format!("is {number}, but must be between {} and {}", range.start(), range.end()));
        }
        found
    }

    /// Reads a fraction from 0 to 1, which the environment and the command line give as text.
    pub(crate) fn fraction(self) -> Option<f64> {
        let fraction = match &self.value.kind {
            ValueKind::Float(fraction) => *fraction,
            ValueKind::I64(number) => *number as f64,
            ValueKind::String(text) if self.origin != Origin::File => text.trim().parse().unwrap_or(f64::NAN),
            _ => {
                self.wrong_kind("a fraction like 0.1");
                return None;
            }
        };
        let found = Some(fraction).filter(|fraction| (0.0..=1.0).contains(fraction));
        if found.is_none() {
            self.problem("must be a fraction between 0 and 1, like 0.1");
        }
        found
    }

    /// Reads a path. It is relative to the file's directory if the file names it, and otherwise to the working directory.
    pub(crate) fn path(self) -> Option<PathBuf> {
        let base = if self.origin == Origin::File { self.report.base().to_owned() } else { PathBuf::new() };
        self.parse(|text| match text {
            "" => Err("is empty; name a path or leave the key out"),
            text => Ok(base.join(text)),
        })
    }

    /// Reads the elements of a list, which the environment and the command line give as one text with commas.
    pub(crate) fn list(self) -> Option<Vec<Entry<'r>>> {
        let Entry { report, path, origin, .. } = self;
        let values = match self.value.kind {
            ValueKind::Array(values) => values,
            ValueKind::String(ref text) if origin != Origin::File => {
                text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Value::from).collect()
            }
            kind => {
                Entry { report, path, origin, value: Value::from(kind) }.wrong_kind("a list in [ ]");
                return None;
            }
        };
        let entry = |(index, value)| {
            let path = if report.is_describing() { format!("{path}[]") } else { format!("{path}[{index}]") };
            Entry { report, path, origin, value }
        };
        Some(values.into_iter().enumerate().map(entry).collect())
    }

    /// Reads a section.
    pub(crate) fn table(self) -> Option<Table<'r>> {
        let Entry { report, path, origin, .. } = self;
        match self.value.kind {
            ValueKind::Table(map) => Some(Table::new(report, path, origin, map.into_iter().collect())),
            kind => {
                Entry { report, path, origin, value: Value::from(kind) }.wrong_kind("a section");
                None
            }
        }
    }

    /// Reads a duration such as `10s` within `range`.
    pub(crate) fn duration(self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        match self.value.kind {
            ValueKind::I64(_) | ValueKind::Float(_) => {
                self.problem("must be a duration with its unit, in quotes, like \"10s\" or \"5m\"");
                None
            }
            _ => self.parse(|text| read_duration(text, range)),
        }
    }
}

fn read_duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration; write a number with its unit, like \"10s\" or \"5m\""))?;
    let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    match duration {
        Duration::ZERO => Err(format!("must be longer than zero; the least is {least}")),
        duration if range.contains(&duration) => Ok(duration),
        _ => Err(format!("is {text}, but must be between {least} and {most}")),
    }
}
