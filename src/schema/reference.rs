//! What documents say of a key. `docs/configuration.md` is made of it.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A row of the reference, in Markdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReference {
    /// The path of the key. `[]` stands for the elements of a list, capitals for names that the writer chooses.
    pub path: String,
    /// What applies without the key: a value in backticks, a number, or prose.
    pub default: String,
    /// The values that the key takes.
    pub bounds: String,
    /// What the key means.
    pub meaning: String,
}

/// Returns `words` as a list of values.
pub(super) fn choices<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Returns the bounds of a number.
pub(super) fn numbers(range: &RangeInclusive<usize>) -> String {
    format!("{} to {}", grouped(*range.start()), grouped(*range.end()))
}

/// Returns the bounds of a duration.
pub(super) fn durations(range: &RangeInclusive<Duration>) -> String {
    let [least, most] = [range.start(), range.end()].map(|duration| {
        let (number, unit) = in_its_unit(*duration);
        let unit = match unit {
            "m" => "min",
            "d" => "days",
            unit => unit,
        };
        format!("{number} {unit}")
    });
    format!("{least} to {most}")
}

/// Returns a duration as files have it.
pub(super) fn duration_text(duration: Duration) -> String {
    let (number, unit) = in_its_unit(duration);
    format!("{number}{unit}")
}

/// Splits a duration into a whole number and the largest unit that allows one. One day is written as 24 hours.
fn in_its_unit(duration: Duration) -> (u128, &'static str) {
    let millis = duration.as_millis();
    let units = [(86_400_000, 2, "d"), (3_600_000, 1, "h"), (60_000, 1, "m"), (1_000, 1, "s")];
    let fits = units.iter().find(|(unit, least, _)| millis.is_multiple_of(*unit) && millis / unit >= *least);
    fits.map_or((millis, "ms"), |(unit, _, name)| (millis / unit, name))
}

/// Returns a number with a comma before each three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let comma = |at: usize| if at > 0 && (digits.len() - at).is_multiple_of(3) { "," } else { "" };
    digits.char_indices().map(|(at, digit)| format!("{}{digit}", comma(at))).collect()
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
