//! A walk over the merged values: each one is taken by its key, every problem is written down, and what nobody took
//! is reported as an unknown key.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::error::{ConfigErrors, Problem};
use super::raw::Origin;

/// Collects what a resolver finds wrong, and which keys it asked for.
pub(super) struct Report {
    file: Option<PathBuf>,
    base: PathBuf,
    problems: RefCell<Vec<Problem>>,
    asked: RefCell<Vec<String>>,
    left: RefCell<Vec<(String, Origin)>>,
}

impl Report {
    /// `file` is what messages name, `base` the directory from which paths in it are read.
    pub(super) fn new(file: Option<&Path>, base: &Path) -> Self {
        Self {
            file: file.map(Path::to_owned),
            base: base.to_owned(),
            problems: RefCell::default(),
            asked: RefCell::default(),
            left: RefCell::default(),
        }
    }

    /// The directory from which the file's paths are read; also where defaults that are paths start.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// The root table.
    pub(super) fn root(&self, values: Map<String, Value>) -> Table<'_> {
        Table { report: self, path: String::new(), origin: Origin::File, entries: values.into_iter().collect() }
    }

    /// Writes a problem down.
    pub(super) fn problem(&self, key: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { key: key.into(), message: message.into() });
    }

    /// How many problems were written down so far.
    pub(super) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// `value`, if nothing was wrong and no key was left over.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        let mut problems = self.problems.into_inner();
        let (asked, left) = (self.asked.into_inner(), self.left.into_inner());
        let known = if left.is_empty() { Known::default() } else { Known::new(&asked) };
        problems.extend(left.into_iter().map(|(key, origin)| {
            let hint = known.suggestion(&key).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let message = format!("unknown key{}{hint}", origin.suffix(&key));
            Problem { key, message }
        }));
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ConfigErrors { file: self.file, problems }),
        }
    }

    /// Every key path that was asked for, with `[]` for the elements of lists of tables.
    #[cfg(test)]
    pub(super) fn asked(&self) -> BTreeSet<String> {
        let without_index = |key: &String| {
            let mut parts = key.split('[');
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |path, part| path + "[" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
        };
        self.asked.borrow().iter().map(without_index).collect()
    }
}

/// A section of the configuration. Dropping it reports the keys that nobody took.
pub(super) struct Table<'r> {
    report: &'r Report,
    path: String,
    origin: Origin,
    entries: BTreeMap<String, Value>,
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
    /// The report this table writes to.
    pub(super) fn report(&self) -> &'r Report {
        self.report
    }

    /// The full path of `key` in this table.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The keys that are there and were not taken yet.
    pub(super) fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Takes `key`, if it is there.
    pub(super) fn take(&mut self, key: &str) -> Option<Entry<'r>> {
        let path = self.key(key);
        self.report.asked.borrow_mut().push(path.clone());
        let value = self.entries.remove(key)?;
        let origin = Origin::of(&value, self.origin);
        Some(Entry { report: self.report, path, origin, value })
    }

    /// Takes the sub-table `key`; an empty one if it is not there.
    pub(super) fn section(&mut self, key: &str) -> Self {
        self.take(key).and_then(Entry::table).unwrap_or_else(|| Table {
            report: self.report,
            path: self.key(key),
            origin: self.origin,
            entries: BTreeMap::new(),
        })
    }

    /// Takes `key` as a text that `read` understands.
    pub(super) fn parse<T, E: Display>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        self.take(key)?.parse(read)
    }

    /// Takes `key` as a path, read from where it was named.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.take(key)?.path()
    }

    /// Takes `key` as a whole number within `range`.
    pub(super) fn number(&mut self, key: &str, default: usize, range: RangeInclusive<usize>) -> usize {
        self.take(key).and_then(|entry| entry.number(range)).unwrap_or(default)
    }

    /// Takes `key` as `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.take(key).and_then(Entry::boolean).unwrap_or(default)
    }

    /// Takes `key` as a duration such as `10s`, within `range`.
    pub(super) fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let Some(entry) = self.take(key) else { return default };
        if matches!(entry.value.kind, ValueKind::I64(_) | ValueKind::Float(_)) {
            entry.problem("must be a duration with its unit, in quotes, like \"10s\" or \"5m\"");
            return default;
        }
        entry.parse(|text| read_duration(text, &range)).unwrap_or(default)
    }

    /// Takes `key` as a list of texts, each of which `read` understands.
    pub(super) fn list<T, E: Display>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
        let entries = self.take(key)?.list()?;
        Some(entries.into_iter().filter_map(|entry| entry.parse(&read)).collect())
    }
}

/// One value that was taken, with its path for messages.
pub(super) struct Entry<'r> {
    report: &'r Report,
    path: String,
    origin: Origin,
    value: Value,
}

impl<'r> Entry<'r> {
    /// The layer the value came from.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// The value's full path.
    pub(super) fn key(&self) -> &str {
        &self.path
    }

    /// The report this value's problems go to.
    pub(super) fn report(&self) -> &'r Report {
        self.report
    }

    /// Writes down that something is wrong with this value.
    pub(super) fn problem(&self, message: impl Display) {
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
    pub(super) fn text(self) -> Option<String> {
        match &self.value.kind {
            ValueKind::String(text) => Some(text.trim().to_owned()),
            _ => {
                self.wrong_kind("a text in quotes");
                None
            }
        }
    }

    /// The text as `read` understands it.
    pub(super) fn parse<T, E: Display>(self, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let ValueKind::String(text) = &self.value.kind else {
            self.wrong_kind("a text in quotes");
            return None;
        };
        read(text.trim()).map_err(|error| self.problem(error)).ok()
    }

    /// Like [`Entry::parse`], for a value that may as well be written as a whole number.
    pub(super) fn parse_or_number<T, E: Display>(self, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match self.value.kind {
            ValueKind::I64(number) => read(&number.to_string()).map_err(|error| self.problem(error)).ok(),
            _ => self.parse(read),
        }
    }

    /// `true` or `false`. From the environment and the command line it arrives as text.
    pub(super) fn boolean(self) -> Option<bool> {
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
    pub(super) fn number(self, range: RangeInclusive<usize>) -> Option<usize> {
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
    pub(super) fn fraction(self) -> Option<f64> {
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
    pub(super) fn path(self) -> Option<PathBuf> {
        let base = if self.origin == Origin::File { self.report.base.clone() } else { PathBuf::new() };
        self.parse(|text| match text {
            "" => Err("is empty; name a path or leave the key out"),
            text => Ok(base.join(text)),
        })
    }

    /// The elements. From the environment and the command line a list is one text with commas.
    pub(super) fn list(self) -> Option<Vec<Entry<'r>>> {
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
    pub(super) fn table(self) -> Option<Table<'r>> {
        let Entry { report, path, origin, .. } = self;
        match self.value.kind {
            ValueKind::Table(map) => Some(Table { report, path, origin, entries: map.into_iter().collect() }),
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

/// The keys that were asked for, by section and by their last word: a file may have very many, and as many mistakes.
#[derive(Default)]
struct Known<'a> {
    sections: HashMap<&'a str, Vec<&'a str>>,
    words: HashMap<&'a str, &'a str>,
}

impl<'a> Known<'a> {
    fn new(asked: &'a [String]) -> Self {
        let mut known = Self::default();
        for key in asked.iter().collect::<BTreeSet<_>>() {
            let (section, word) = key.rsplit_once('.').unwrap_or(("", key));
            known.sections.entry(section).or_default().push(key);
            known.words.entry(word).or_insert(key);
        }
        known
    }

    /// The key that `unknown` was probably meant to be: a near miss in the same section, or the same word in another.
    fn suggestion(&self, unknown: &str) -> Option<&'a str> {
        let (section, word) = unknown.rsplit_once('.').unwrap_or(("", unknown));
        let near = self.sections.get(section).into_iter().flatten().filter_map(|key| {
            let distance = distance(word, key.rsplit('.').next().unwrap_or(key));
            (distance <= (word.len() / 3).max(1)).then_some((distance, *key))
        });
        near.min().map(|(_, key)| key).or_else(|| self.words.get(word).copied())
    }
}

/// How many letters must be added, removed, changed or swapped with their neighbour to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::raw::{Environment, FileText, Flags, merge};
    use super::*;

    fn walk<T>(text: &str, environment: &[(&str, &str)], take: impl FnOnce(Table<'_>) -> T) -> Result<T, ConfigErrors> {
        let file = FileText { path: "dir/x.toml".into(), text: text.into() };
        let environment: Environment = environment.iter().copied().collect();
        let values = merge(Some(&file), &environment, &Flags::new())?;
        let report = Report::new(Some(&file.path), Path::new("dir"));
        let value = take(report.root(values));
        report.finish(Some(value))
    }

    const SECONDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let errors = walk("[a]\nn = 'x'\nd = 5\nlist = 'a,b'\nz = '0s'\nfar = '2h'\nb = 1", &[], |mut root| {
            let mut a = root.section("a");
            a.number("n", 1, 1..=9);
            a.duration("d", Duration::ZERO, SECONDS);
            a.duration("z", Duration::ZERO, SECONDS);
            a.duration("far", Duration::ZERO, SECONDS);
            a.list("list", |text| Ok::<_, String>(text.to_owned()));
            drop(a.section("b"));
        })
        .unwrap_err();
        let keys: Vec<_> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["a.n", "a.d", "a.z", "a.far", "a.list", "a.b"], "{errors}");
        assert!(errors.problems[2].message.contains("longer than zero"), "{errors}");
        assert!(errors.problems[3].message.contains("between 1s and 1m"), "{errors}");
    }

    #[test]
    fn a_key_nobody_took_is_unknown_and_gets_a_suggestion() {
        let errors =
            walk("domian = 'x'\nlisten = 'x'\nnothing = 1\n[t]\nlisten = ''", &[("ADIT__T__X__Y", "1")], |mut root| {
                root.take("domain");
                root.section("t").take("listen");
            })
            .unwrap_err();
        assert_eq!(
            errors.to_string(),
            "dir/x.toml: t.x.y: unknown key (from the environment variable ADIT__T__X__Y)\n\
             dir/x.toml: domian: unknown key; did you mean `domain`?\n\
             dir/x.toml: listen: unknown key; did you mean `t.listen`?\n\
             dir/x.toml: nothing: unknown key"
        );
    }

    #[test]
    fn text_from_the_environment_is_a_number_or_a_list_where_one_is_wanted() {
        let environment = [("ADIT__N", " 7 "), ("ADIT__LIST", "a, b,"), ("ADIT__P", "here")];
        let (n, list, here, there) = walk("q = 'there'", &environment, |mut root| {
            let list = root.list("list", |text| Ok::<_, String>(text.to_owned()));
            (root.number("n", 1, 1..=9), list.unwrap(), root.path("p").unwrap(), root.path("q").unwrap())
        })
        .unwrap();
        assert_eq!((n, list), (7, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((here, there), (PathBuf::from("here"), Path::new("dir").join("there")));
    }

    #[test]
    fn a_problem_of_the_environment_names_the_variable() {
        let errors = walk("", &[("ADIT__A__N", "70")], |mut root| root.section("a").number("n", 1, 1..=9)).unwrap_err();
        let expected = "a.n: is 70, but must be between 1 and 9 (from the environment variable ADIT__A__N)";
        assert_eq!(errors.problems[0].to_string(), expected);
    }

    #[test]
    fn distance_counts_swaps_as_one() {
        assert_eq!(distance("domian", "domain"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("burst", "bursts"), 1);
        assert_eq!(distance("connect", "head"), 6);
    }
}
