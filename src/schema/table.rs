//! A walk over the merged values: each one is taken by its key, every problem is written down, and what nobody took
//! is reported as an unknown key.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::layers::Origin;
use super::problem::{ConfigErrors, Problem};
use super::reference::{Facts, KeyReference, Values, Words, duration_text};
use super::suggestion::Known;

/// Collects what a resolver finds wrong, and which keys it asked for.
pub(crate) struct Report {
    file: Option<PathBuf>,
    base: PathBuf,
    problems: RefCell<Vec<Problem>>,
    asked: RefCell<Vec<String>>,
    left: RefCell<Vec<(String, Origin)>>,
    /// Only for those who read about keys.
    facts: Option<RefCell<Facts>>,
    /// Problems that may pass without a change of the configuration, if the caller can wait.
    deferred: Option<RefCell<Vec<Problem>>>,
}

impl Report {
    /// `file` is what messages name, `base` the directory from which paths in it are read.
    pub(crate) fn new(file: Option<&Path>, base: &Path) -> Self {
        Self {
            file: file.map(Path::to_owned),
            base: base.to_owned(),
            problems: RefCell::default(),
            asked: RefCell::default(),
            left: RefCell::default(),
            facts: None,
            deferred: None,
        }
    }

    /// Keeps what [`Report::deferrable`] reports apart from the other problems.
    pub(crate) fn deferring(self) -> Self {
        Self { deferred: Some(RefCell::default()), ..self }
    }

    /// Reports a problem that may pass without a change of the configuration. Returns whether it is deferred.
    pub(crate) fn deferrable(&self, key: impl Into<String>, message: impl Into<String>) -> bool {
        let problem = Problem { key: key.into(), message: message.into() };
        match &self.deferred {
            Some(deferred) => deferred.borrow_mut().push(problem),
            None => self.problems.borrow_mut().push(problem),
        }
        self.deferred.is_some()
    }

    /// The problems that were deferred.
    pub(crate) fn take_deferred(&self) -> Vec<Problem> {
        self.deferred.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// One that remembers what the walk says of each key.
    pub(crate) fn with_facts(base: &Path) -> Self {
        Self { facts: Some(RefCell::default()), ..Self::new(None, base) }
    }

    /// What the walk has said of each key.
    pub(crate) fn into_facts(self) -> Vec<KeyReference> {
        self.facts.map(|facts| facts.into_inner().into_keys()).unwrap_or_default()
    }

    /// The directory from which the file's paths are read; also where defaults that are paths start.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// The root table.
    pub(crate) fn root(&self, values: Map<String, Value>) -> Table<'_> {
        Table::new(self, String::new(), Origin::File, values.into_iter().collect())
    }

    /// Writes a problem down.
    pub(crate) fn problem(&self, key: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { key: key.into(), message: message.into() });
    }

    /// How many problems were written down so far.
    pub(crate) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// `value`, if nothing was wrong and no key was left over.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        let file = self.file.clone();
        match (value, self.into_problems()) {
            (Some(value), problems) if problems.is_empty() => Ok(value),
            (_, problems) => Err(ConfigErrors { file, problems }),
        }
    }

    /// Everything that was wrong, keys that were left over among it.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        let (asked, left) = (self.asked.into_inner(), self.left.into_inner());
        let known = if left.is_empty() { Known::default() } else { Known::new(&asked) };
        problems.extend(left.into_iter().map(|(key, origin)| {
            let hint = known.suggestion(&key).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let message = format!("unknown key{}{hint}", origin.suffix(&key));
            Problem { key, message }
        }));
        problems
    }

    /// Every key path that was asked for, with `[]` for the elements of lists of tables.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().iter().map(|key| super::reference::without_index(key)).collect()
    }
}

/// A section of the configuration. Dropping it reports the keys that nobody took.
pub(crate) struct Table<'r> {
    report: &'r Report,
    path: String,
    origin: Origin,
    entries: BTreeMap<String, Value>,
    /// What is said of the next key that is taken.
    words: Words,
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        for (key, value) in &self.entries {
            let left = left_over(join(&self.path, key), value, self.origin);
            self.report.left.borrow_mut().push(left);
        }
    }
}

impl<'r> Table<'r> {
    fn new(report: &'r Report, path: String, origin: Origin, entries: BTreeMap<String, Value>) -> Self {
        Self { report, path, origin, entries, words: Words::default() }
    }

    /// The report this table writes to.
    pub(crate) fn report(&self) -> &'r Report {
        self.report
    }

    /// The layer it came from; what is in it may have come from a higher one.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// The full path of `key` in this table.
    pub(crate) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The keys that are there and were not taken yet.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// [`Table::keys`] of a section in which the reader chooses the names; documents write `shown` in their place.
    pub(crate) fn names(&self, shown: &str) -> Vec<String> {
        let keys = self.keys();
        if let Some(facts) = &self.report.facts {
            keys.iter().for_each(|key| facts.borrow_mut().name(self.key(key), self.key(shown)));
        }
        keys
    }

    /// Says in Markdown what counts without the next key, where that is no value which the walk knows: a value in
    /// backticks, or prose. Nobody says anything: none.
    pub(crate) fn by_default(&mut self, words: impl Into<Cow<'static, str>>) -> &mut Self {
        self.words.default = Some(words.into());
        self
    }

    /// Says in Markdown which values the next key takes; beginning with a space or a comma, beside what the walk knows.
    pub(crate) fn within(&mut self, words: impl Into<Cow<'static, str>>) -> &mut Self {
        self.words.bounds = Some(words.into());
        self
    }

    /// Takes `key`, if it is there.
    pub(crate) fn take(&mut self, key: &str) -> Option<Entry<'r>> {
        self.take_as(key, Values::default)
    }

    fn take_as(&mut self, key: &str, values: impl FnOnce() -> Values) -> Option<Entry<'r>> {
        let path = self.key(key);
        let words = std::mem::take(&mut self.words);
        if let Some(facts) = &self.report.facts {
            facts.borrow_mut().add(&path, words, values());
        }
        self.report.asked.borrow_mut().push(path.clone());
        let value = self.entries.remove(key)?;
        let origin = Origin::of(&value, self.origin);
        Some(Entry { report: self.report, path, origin, value })
    }

    /// Takes the sub-table `key`; an empty one if it is not there.
    pub(crate) fn section(&mut self, key: &str) -> Self {
        let empty = Table::new(self.report, self.key(key), self.origin, BTreeMap::new());
        self.take(key).and_then(Entry::table).unwrap_or(empty)
    }

    /// Takes `key` as a text that `read` understands.
    pub(crate) fn parse<T, E: Display>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        self.take_as(key, || Values::kind("a text"))?.parse(read)
    }

    /// Takes `key` as one of two or more words; any other is not `what`.
    pub(crate) fn choice<T: Copy>(&mut self, key: &str, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let entry = self.take_as(key, || Values::choices(words()))?;
        entry.parse(|text| {
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let mut others: Vec<_> = words().map(|word| format!("\"{word}\"")).collect();
                let last = others.pop().unwrap_or_default();
                format!("`{text}` is not {what}; use {} or {last}", others.join(", "))
            })
        })
    }

    /// Takes `key` as a path, read from where it was named.
    pub(crate) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.take_as(key, || Values::kind("a path"))?.path()
    }

    /// Takes `key` as a whole number within `range`, if it is there.
    pub(crate) fn some_number(&mut self, key: &str, range: RangeInclusive<usize>) -> Option<usize> {
        self.take_as(key, || Values::numbers(&range))?.number(range)
    }

    /// Takes `key` as a whole number within `range`.
    pub(crate) fn number(&mut self, key: &str, default: usize, range: RangeInclusive<usize>) -> usize {
        let entry = self.take_as(key, || Values::numbers(&range).or(default.to_string()));
        entry.and_then(|entry| entry.number(range)).unwrap_or(default)
    }

    /// Takes `key` as `true` or `false`.
    pub(crate) fn boolean(&mut self, key: &str, default: bool) -> bool {
        let entry = self.take_as(key, || Values::choices(["true", "false"].into_iter()).or(format!("`{default}`")));
        entry.and_then(Entry::boolean).unwrap_or(default)
    }

    /// Takes `key` as a duration such as `10s`, within `range`.
    pub(crate) fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let values = || Values::durations(&range).or(format!("`{}`", duration_text(default)));
        let Some(entry) = self.take_as(key, values) else { return default };
        if matches!(entry.value.kind, ValueKind::I64(_) | ValueKind::Float(_)) {
            entry.problem("must be a duration with its unit, in quotes, like \"10s\" or \"5m\"");
            return default;
        }
        entry.parse(|text| read_duration(text, &range)).unwrap_or(default)
    }

    /// Takes `key` as a list of texts, each of which `read` understands.
    pub(crate) fn list<T, E: Display>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
        let entries = self.take_as(key, || Values::kind("a list"))?.list()?;
        Some(entries.into_iter().filter_map(|entry| entry.parse(&read)).collect())
    }
}

/// One value that was taken, with its path for messages.
pub(crate) struct Entry<'r> {
    report: &'r Report,
    path: String,
    origin: Origin,
    value: Value,
}

impl<'r> Entry<'r> {
    /// The layer the value came from.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// The value's full path.
    pub(crate) fn key(&self) -> &str {
        &self.path
    }

    /// The report this value's problems go to.
    pub(crate) fn report(&self) -> &'r Report {
        self.report
    }

    /// Writes down that something is wrong with this value.
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

    /// The text, without the spaces around it.
    pub(crate) fn text(self) -> Option<String> {
        match &self.value.kind {
            ValueKind::String(text) => Some(text.trim().to_owned()),
            _ => {
                self.wrong_kind("a text in quotes");
                None
            }
        }
    }

    /// The text as `read` understands it.
    pub(crate) fn parse<T, E: Display>(self, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let ValueKind::String(text) = &self.value.kind else {
            self.wrong_kind("a text in quotes");
            return None;
        };
        read(text.trim()).map_err(|error| self.problem(error)).ok()
    }

    /// Like [`Entry::parse`], for a value that may as well be written as a whole number.
    pub(crate) fn parse_or_number<T, E: Display>(self, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match self.value.kind {
            ValueKind::I64(number) => read(&number.to_string()).map_err(|error| self.problem(error)).ok(),
            _ => self.parse(read),
        }
    }

    /// `true` or `false`. From the environment and the command line it arrives as text.
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

    /// A whole number within `range`. From the environment and the command line it arrives as text.
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

    /// A part of a whole, from 0 to 1. From the environment and the command line it arrives as text.
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

    /// The path, read from the file's directory when the file names it, and from the working directory otherwise.
    pub(crate) fn path(self) -> Option<PathBuf> {
        let base = if self.origin == Origin::File { self.report.base.clone() } else { PathBuf::new() };
        self.parse(|text| match text {
            "" => Err("is empty; name a path or leave the key out"),
            text => Ok(base.join(text)),
        })
    }

    /// The elements. From the environment and the command line a list is one text with commas.
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
        let entry = |(index, value)| Entry { report, path: format!("{path}[{index}]"), origin, value };
        Some(values.into_iter().enumerate().map(entry).collect())
    }

    /// The section.
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
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Where a value that nobody took was written: a variable inside an unknown section is named in full.
fn left_over(key: String, value: &Value, surroundings: Origin) -> (String, Origin) {
    let origin = Origin::of(value, surroundings);
    if let ValueKind::Table(table) = &value.kind {
        let inner = table.iter().map(|(name, value)| left_over(join(&key, name), value, origin));
        if let Some(set_outside) = inner.filter(|(_, origin)| *origin != Origin::File).min() {
            return set_outside;
        }
    }
    (key, origin)
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

#[cfg(test)]
mod tests;
