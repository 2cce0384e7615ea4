//! Collects what a walk finds wrong, and which keys it asked for.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use config::{Map, Value};

use super::layers::Origin;
use super::problem::{ConfigErrors, Problem};
use super::reference::KeyReference;
use super::table::Table;

/// The outcome of a walk over a configuration, apart from the values themselves.
#[derive(Default)]
pub(crate) struct Report {
    file: Option<PathBuf>,
    base: PathBuf,
    problems: RefCell<Vec<Problem>>,
    asked: RefCell<Vec<String>>,
    left: RefCell<Vec<(String, Origin)>>,
    /// Problems that may pass without a change of the configuration, if the caller can wait.
    deferred: Option<RefCell<Vec<Problem>>>,
    /// The keys that the walk has described, if it is a walk for documents.
    described: Option<RefCell<Vec<KeyReference>>>,
}

impl Report {
    /// Creates a report of `file`, which messages name. Paths in the file are relative to `base`.
    pub(crate) fn new(file: Option<&Path>, base: &Path) -> Self {
        Self { file: file.map(Path::to_owned), base: base.to_owned(), ..Self::default() }
    }

    /// Keeps what [`Report::deferrable`] reports apart from the other problems.
    pub(crate) fn deferring(self) -> Self {
        Self { deferred: Some(RefCell::default()), ..self }
    }

    /// Describes every key that `walk` asks for. Optional sections and elements of lists are walked once each.
    pub(crate) fn describe<T>(walk: impl FnOnce(Table<'_>) -> T) -> Vec<KeyReference> {
        let report = Self { described: Some(RefCell::default()), ..Self::default() };
        walk(report.root(Map::new()));
        report.described.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Whether the walk is for documents: then there are no values.
    pub(super) fn is_describing(&self) -> bool {
        self.described.is_some()
    }

    /// Adds a key to the reference, if the walk is for documents.
    pub(super) fn add_reference(&self, key: Option<KeyReference>) {
        if let Some(described) = &self.described {
            described.borrow_mut().extend(key);
        }
    }

    /// Remembers that the walk knows `key`.
    pub(super) fn ask(&self, key: String) {
        self.asked.borrow_mut().push(key);
    }

    /// Remembers a key that the walk did not ask for.
    pub(super) fn leave(&self, key: String, origin: Origin) {
        self.left.borrow_mut().push((key, origin));
    }

    /// The directory that relative paths in the file start from.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// Whether a file was read, not only environment and flags.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the root table of `values`.
    pub(crate) fn root(&self, values: Map<String, Value>) -> Table<'_> {
        Table::new(self, String::new(), Origin::File, values.into_iter().collect())
    }

    /// Reports a problem.
    pub(crate) fn problem(&self, key: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { key: key.into(), message: message.into() });
    }

    /// Reports a problem that may pass without a change of the configuration. Returns whether it is deferred.
    pub(crate) fn deferrable(&self, key: impl Into<String>, message: impl Into<String>) -> bool {
        let problem = Problem { key: key.into(), message: message.into() };
        self.deferred.as_ref().unwrap_or(&self.problems).borrow_mut().push(problem);
        self.deferred.is_some()
    }

    /// Takes the problems that were deferred.
    pub(crate) fn take_deferred(&self) -> Vec<Problem> {
        self.deferred.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// The number of problems so far.
    pub(crate) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Returns `value` if nothing is wrong and no key is unknown.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        let file = self.file.clone();
        match (value, self.into_problems()) {
            (Some(value), problems) if problems.is_empty() => Ok(value),
            (_, problems) => Err(ConfigErrors { file, problems }),
        }
    }

    /// Returns all problems, unknown keys last.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        let (asked, left) = (self.asked.into_inner(), self.left.into_inner());
        let known = if left.is_empty() { KnownKeys::default() } else { KnownKeys::new(&asked) };
        problems.extend(left.into_iter().map(|(key, origin)| {
            let hint = known.nearest(&key).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let message = format!("unknown key{}{hint}", origin.suffix(&key));
            Problem { key, message }
        }));
        problems
    }
}

/// The known keys by section and by last word: a file may have very many of them, and as many mistakes.
#[derive(Default)]
struct KnownKeys<'a> {
    sections: HashMap<&'a str, Vec<&'a str>>,
    words: HashMap<&'a str, &'a str>,
}

impl<'a> KnownKeys<'a> {
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
    fn nearest(&self, unknown: &str) -> Option<&'a str> {
        let (section, word) = unknown.rsplit_once('.').unwrap_or(("", unknown));
        let near = self.sections.get(section).into_iter().flatten().filter_map(|key| {
            let distance = strsim::osa_distance(word, key.rsplit('.').next().unwrap_or(key));
            (distance <= (word.len() / 3).max(1)).then_some((distance, *key))
        });
        near.min().map(|(_, key)| key).or_else(|| self.words.get(word).copied())
    }
}
