//! How the value of a key is read, what applies without it, and what documents say of it.
//!
//! ```ignore
//! table.get("login_timeout", key::duration(10 * SECOND, 10 * MILLISECOND..=5 * MINUTE).doc("TLS handshake and login."))
//! ```

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::entry::Entry;
use super::reference::{KeyReference, choices, duration_text, durations, numbers};
use super::report::Report;

type Text = Cow<'static, str>;

/// One key, whose value is a `T`. All but its name.
#[must_use]
pub(crate) struct Key<T> {
    default: Text,
    bounds: Text,
    meaning: Text,
    pub(super) required: Option<Text>,
    /// What documents describe in place of a value: a section, or a list of sections.
    pub(super) stand_in: Option<ValueKind>,
    pub(super) read: Box<Read<T>>,
}

type Read<T> = dyn for<'r> FnOnce(Option<Entry<'r>>, &'r Report) -> T;

impl<T: 'static> Key<Option<T>> {
    /// Creates a key that may be left out. `bounds` says in Markdown which values it takes.
    pub(crate) fn new(bounds: impl Into<Text>, read: impl for<'r> FnOnce(Entry<'r>) -> Option<T> + 'static) -> Self {
        Self {
            default: "none".into(),
            bounds: bounds.into(),
            meaning: "".into(),
            required: None,
            stand_in: None,
            read: Box::new(|entry, _| entry.and_then(read)),
        }
    }

    /// Sets the value that applies without the key; `shown` is the same in Markdown.
    pub(crate) fn or(self, shown: impl Into<Text>, value: T) -> Key<T> {
        self.or_else(shown, |_| value)
    }

    /// Like [`Key::or`], for a default that depends on where the file is.
    pub(crate) fn or_else(self, shown: impl Into<Text>, value: impl FnOnce(&Report) -> T + 'static) -> Key<T> {
        let Self { bounds, meaning, required, stand_in, read, .. } = self;
        let read =
            Box::new(|entry: Option<Entry<'_>>, report: &Report| read(entry, report).unwrap_or_else(|| value(report)));
        Key { default: shown.into(), bounds, meaning, required, stand_in, read: erased(read) }
    }

    /// Makes the key required: without it, `advice` says what to write.
    pub(crate) fn required(self, advice: impl Into<Text>) -> Self {
        Self { required: Some(advice.into()), ..self }.without("required")
    }
}

/// Helps the compiler to infer that `read` works for every lifetime.
fn erased<T>(read: Box<impl for<'r> FnOnce(Option<Entry<'r>>, &'r Report) -> T + 'static>) -> Box<Read<T>> {
    read
}

impl<T: 'static> Key<T> {
    /// Says in Markdown what applies without the key, where that is not a value.
    pub(crate) fn without(self, shown: impl Into<Text>) -> Self {
        Self { default: shown.into(), ..self }
    }

    /// Says in Markdown which values the key takes: instead of what is known, or after it if `words` begin with a space
    /// or a comma.
    pub(crate) fn within(self, words: impl Into<Text>) -> Self {
        let words = words.into();
        let bounds = if words.starts_with([' ', ',']) { (self.bounds + words).into_owned().into() } else { words };
        Self { bounds, ..self }
    }

    /// Says in Markdown what the key means.
    pub(crate) fn doc(self, meaning: impl Into<Text>) -> Self {
        Self { meaning: meaning.into(), ..self }
    }

    /// Converts the value.
    pub(crate) fn map<U: 'static>(self, convert: impl FnOnce(T) -> U + 'static) -> Key<U> {
        let Self { default, bounds, meaning, required, stand_in, read } = self;
        let read = move |entry: Option<Entry<'_>>, report: &Report| convert(read(entry, report));
        Key { default, bounds, meaning, required, stand_in, read: Box::new(read) }
    }

    /// Says that the value is a section, whose keys documents describe too.
    pub(crate) fn of_section(self) -> Self {
        Self { stand_in: Some(Map::<String, Value>::new().into()), ..self }
    }

    /// Says that the value is a list of sections.
    pub(crate) fn of_sections(self) -> Self {
        Self { stand_in: Some(vec![Map::<String, Value>::new()].into()), ..self }
    }

    /// Returns the row of documents. A section without bounds has only those of its keys.
    pub(super) fn reference(&self, path: String) -> Option<KeyReference> {
        if self.bounds.is_empty() && self.stand_in.is_some() {
            return None;
        }
        let meaning = self.meaning.trim().to_owned();
        Some(KeyReference { path, default: self.default.to_string(), bounds: self.bounds.to_string(), meaning })
    }
}

/// A key that the caller reads by hand, with [`Table::take`](super::Table::take).
pub(crate) fn any(bounds: impl Into<Text>) -> Key<Option<()>> {
    Key::new(bounds, |_| None)
}

/// A text that `read` understands.
pub(crate) fn text<T: 'static, E: Display>(
    bounds: impl Into<Text>,
    read: impl FnOnce(&str) -> Result<T, E> + 'static,
) -> Key<Option<T>> {
    Key::new(bounds, |entry| entry.parse(read))
}

/// A text that `read` understands, or a whole number, of which it reads the digits.
pub(crate) fn text_or_number<T: 'static, E: Display>(
    bounds: impl Into<Text>,
    read: impl FnOnce(&str) -> Result<T, E> + 'static,
) -> Key<Option<T>> {
    Key::new(bounds, |entry| entry.parse_or_number(read))
}

/// One of two or more words. A message says that any other is not `what`.
pub(crate) fn choice<T: Copy + 'static>(what: &'static str, words: &[(&'static str, T)]) -> Key<Option<T>> {
    let words = words.to_vec();
    text(choices(words.iter().map(|(word, _)| *word)), move |text| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let mut others: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let last = others.pop().unwrap_or_default();
            format!("`{text}` is not {what}; use {} or {last}", others.join(", "))
        })
    })
}

/// A path, relative to the file that names it.
pub(crate) fn path() -> Key<Option<PathBuf>> {
    Key::new("a path", |entry| entry.path())
}

/// A whole number, if one is given.
pub(crate) fn optional_number(range: RangeInclusive<usize>) -> Key<Option<usize>> {
    Key::new(numbers(&range), |entry| entry.number(range))
}

/// A whole number.
pub(crate) fn number(default: usize, range: RangeInclusive<usize>) -> Key<usize> {
    optional_number(range).or(default.to_string(), default)
}

/// A number of bytes.
pub(crate) fn bytes(default: usize, range: RangeInclusive<usize>) -> Key<usize> {
    number(default, range).within(" bytes")
}

/// `true` or `false`.
pub(crate) fn boolean(default: bool) -> Key<bool> {
    Key::new(choices(["true", "false"]), |entry| entry.boolean()).or(format!("`{default}`"), default)
}

/// A duration such as `10s`.
pub(crate) fn duration(default: Duration, range: RangeInclusive<Duration>) -> Key<Duration> {
    let shown = format!("`{}`", duration_text(default));
    Key::new(durations(&range), move |entry| entry.duration(&range)).or(shown, default)
}

/// A list of texts, each of which `read` understands.
pub(crate) fn list<T: 'static, E: Display>(
    bounds: impl Into<Text>,
    read: impl Fn(&str) -> Result<T, E> + 'static,
) -> Key<Vec<T>> {
    let elements =
        move |entry: Entry<'_>| Some(entry.list()?.into_iter().filter_map(|entry| entry.parse(&read)).collect());
    Key::new(bounds, elements).or("none", Vec::new())
}
