//! What documents say of each key, as the walk itself says it: `docs/configuration.md` is made of this.
//!
//! Kind, default and bounds of most keys follow from how they are taken. Where they do not (a path beside another, what the
//! system has), whoever takes the key says it in words ([`Table::by_default`], [`Table::within`]).
//!
//! [`Table::by_default`]: super::table::Table::by_default
//! [`Table::within`]: super::table::Table::within

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A key of a configuration file, in the words and values of the program, as Markdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReference {
    /// Its path. `[]` stands for the elements of a list, capitals for what the reader names.
    pub path: String,
    /// What counts without it. A value is in backticks, or a number; anything else is prose.
    pub default: String,
    /// Which values it takes.
    pub bounds: String,
}

/// `key` with `[]` for the elements of lists of tables.
pub(crate) fn without_index(key: &str) -> String {
    let mut parts = key.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| path + "[" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// What is said of a key in words. Bounds that begin with a space or a comma go behind what its values tell.
#[derive(Default)]
pub(crate) struct Words {
    pub(crate) default: Option<Cow<'static, str>>,
    pub(crate) bounds: Option<Cow<'static, str>>,
}

/// What the way in which a key is taken tells of it.
#[derive(Default)]
pub(crate) struct Values {
    default: Option<String>,
    bounds: String,
}

impl Values {
    /// Of a key of this kind.
    pub(crate) fn kind(kind: &str) -> Self {
        Self { default: None, bounds: kind.to_owned() }
    }

    /// Of one that takes one of these words.
    pub(crate) fn choices<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        Self::kind(&words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "))
    }

    /// Of one that takes a number.
    pub(crate) fn numbers(range: &RangeInclusive<usize>) -> Self {
        Self::kind(&format!("{} to {}", grouped(*range.start()), grouped(*range.end())))
    }

    /// Of one that takes a duration.
    pub(crate) fn durations(range: &RangeInclusive<Duration>) -> Self {
        let [least, most] = [range.start(), range.end()].map(|duration| {
            let (number, unit) = in_its_unit(*duration);
            let unit = match unit {
                "m" => "min",
                "d" => "days",
                unit => unit,
            };
            format!("{number} {unit}")
        });
        Self::kind(&format!("{least} to {most}"))
    }

    /// And without it this counts.
    pub(crate) fn or(self, default: String) -> Self {
        Self { default: Some(default), ..self }
    }
}

/// A duration as files have it.
pub(crate) fn duration_text(duration: Duration) -> String {
    let (number, unit) = in_its_unit(duration);
    format!("{number}{unit}")
}

/// In the largest unit of which it is a whole number; one day is 24 hours.
fn in_its_unit(duration: Duration) -> (u128, &'static str) {
    let millis = duration.as_millis();
    let units = [(86_400_000, 2, "d"), (3_600_000, 1, "h"), (60_000, 1, "m"), (1_000, 1, "s")];
    let fits = units.iter().find(|(unit, least, _)| millis.is_multiple_of(*unit) && millis / unit >= *least);
    fits.map_or((millis, "ms"), |(unit, _, name)| (millis / unit, name))
}

/// With a comma before each three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let comma = |at: usize| if at > 0 && (digits.len() - at).is_multiple_of(3) { "," } else { "" };
    digits.char_indices().map(|(at, digit)| format!("{}{digit}", comma(at))).collect()
}

/// Collects the facts while a walk goes on.
#[derive(Default)]
pub(crate) struct Facts {
    /// Each key, and whether anything was said of it: sections are taken, too.
    keys: Vec<(KeyReference, bool)>,
    /// Paths with a name that is the reader's to choose, and what documents write instead.
    names: Vec<(String, String)>,
}

impl Facts {
    pub(crate) fn name(&mut self, path: String, shown: String) {
        self.names.push((path, shown));
    }

    pub(crate) fn add(&mut self, path: &str, words: Words, values: Values) {
        let behind = |(path_named, shown): &(String, String)| {
            let rest = path.strip_prefix(path_named.as_str())?;
            (rest.is_empty() || rest.starts_with('.')).then(|| format!("{shown}{rest}"))
        };
        let path = without_index(&self.names.iter().find_map(behind).unwrap_or_else(|| path.to_owned()));
        let is_said = words.default.is_some() || words.bounds.is_some() || !values.bounds.is_empty();
        let default = words.default.map(Cow::into_owned).or(values.default).unwrap_or_else(|| "none".to_owned());
        let bounds = match words.bounds {
            Some(more) if more.starts_with([' ', ',']) => values.bounds + &more,
            Some(instead) => instead.into_owned(),
            None => values.bounds,
        };
        if self.keys.iter().all(|(known, _)| known.path != path) {
            self.keys.push((KeyReference { path, default, bounds }, is_said));
        }
    }

    /// All of them, but for sections of which nothing was said.
    pub(crate) fn into_keys(self) -> Vec<KeyReference> {
        let paths: Vec<String> = self.keys.iter().map(|(key, _)| key.path.clone()).collect();
        let is_section = |key: &KeyReference| {
            let inside = |path: &String| path.strip_prefix(&key.path).is_some_and(|rest| rest.starts_with(['.', '[']));
            paths.iter().any(inside)
        };
        self.keys.into_iter().filter(|(key, is_said)| *is_said || !is_section(key)).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_duration_are_written_for_people() {
        let numbers: Vec<_> = [0, 999, 1_000, 65_535, 1_000_000].map(grouped).into();
        assert_eq!(numbers, ["0", "999", "1,000", "65,535", "1,000,000"]);
        let texts: Vec<_> = [1_u64, 1_500, 75_000, 120_000, 86_400_000, 172_800_000]
            .map(|millis| duration_text(Duration::from_millis(millis)))
            .into();
        assert_eq!(texts, ["1ms", "1500ms", "75s", "2m", "24h", "2d"]);
    }
}
