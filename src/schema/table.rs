//! The walk over the merged values: it takes each one by its key, and reports the keys that it did not ask for.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};

use super::entry::Entry;
use super::key::Key;
use super::layers::Origin;
use super::report::Report;

/// A section of the configuration. Dropping it reports the keys that were not taken.
pub(crate) struct Table<'r> {
    report: &'r Report,
    path: String,
    origin: Origin,
    entries: BTreeMap<String, Value>,
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        for (key, value) in &self.entries {
            let (key, origin) = left_over(join(&self.path, key), value, self.origin);
            self.report.leave(key, origin);
        }
    }
}

impl<'r> Table<'r> {
    pub(super) fn new(report: &'r Report, path: String, origin: Origin, entries: BTreeMap<String, Value>) -> Self {
        Self { report, path, origin, entries }
    }

    /// Returns the report that problems go to.
    pub(crate) fn report(&self) -> &'r Report {
        self.report
    }

    /// Returns the layer that the section came from. Values in it may have come from a higher one.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns the full path of `key` in this section.
    pub(crate) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Reports a problem with `key` in this section.
    pub(crate) fn problem(&self, key: &str, message: impl Into<String>) {
        self.report.problem(self.key(key), message);
    }

    /// Whether `key` is given and was not taken yet.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Returns the keys that are given and were not taken yet.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Reads the value of `name` as `key` says.
    pub(crate) fn get<T: 'static>(&mut self, name: &str, key: Key<T>) -> T {
        let entry = self.take(name, &key);
        if let (None, Some(advice)) = (&entry, &key.required) {
            self.problem(name, format!("is missing; {advice}"));
        }
        (key.read)(entry, self.report)
    }

    /// Takes the value of `name`, if it is given; `key` describes it for documents.
    pub(crate) fn take<T: 'static>(&mut self, name: &str, key: &Key<T>) -> Option<Entry<'r>> {
        if self.report.is_describing() {
            self.report.add_reference(key.reference(self.key(name)));
            self.entries.extend(key.stand_in.clone().map(|value| (name.to_owned(), value.into())));
        }
        self.entry(name)
    }

    fn entry(&mut self, name: &str) -> Option<Entry<'r>> {
        let path = self.key(name);
        self.report.ask(path.clone());
        let value = self.entries.remove(name)?;
        let origin = Origin::of(&value, self.origin);
        Some(Entry { report: self.report, path, origin, value })
    }

    /// Takes the section `name`; an empty one if it is not given.
    pub(crate) fn section(&mut self, name: &str) -> Self {
        let empty = Table::new(self.report, self.key(name), self.origin, BTreeMap::new());
        self.entry(name).and_then(Entry::table).unwrap_or(empty)
    }

    /// Takes all sections, whose names the writer of the file chooses; documents call them `shown`.
    pub(crate) fn named_sections(&mut self, shown: &str) -> Vec<(String, Self)> {
        if self.report.is_describing() {
            self.entries.insert(shown.to_owned(), Map::<String, Value>::new().into());
        }
        self.keys().into_iter().filter_map(|name| Some((name.clone(), self.entry(&name)?.table()?))).collect()
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Returns where an unknown key was written. A variable inside an unknown section is named in full.
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

#[cfg(test)]
mod tests;
