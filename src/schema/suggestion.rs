//! What an unknown key was probably meant to be.

use std::collections::{BTreeSet, HashMap};

/// The keys that were asked for, by section and by their last word: a file may have very many, and as many mistakes.
#[derive(Default)]
pub(crate) struct Known<'a> {
    sections: HashMap<&'a str, Vec<&'a str>>,
    words: HashMap<&'a str, &'a str>,
}

impl<'a> Known<'a> {
    pub(crate) fn new(asked: &'a [String]) -> Self {
        let mut known = Self::default();
        for key in asked.iter().collect::<BTreeSet<_>>() {
            let (section, word) = key.rsplit_once('.').unwrap_or(("", key));
            known.sections.entry(section).or_default().push(key);
            known.words.entry(word).or_insert(key);
        }
        known
    }

    /// The key that `unknown` was probably meant to be: a near miss in the same section, or the same word in another.
    pub(crate) fn suggestion(&self, unknown: &str) -> Option<&'a str> {
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
    use super::distance;

    #[test]
    fn distance_counts_swaps_as_one() {
        assert_eq!(distance("domian", "domain"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("burst", "bursts"), 1);
        assert_eq!(distance("connect", "head"), 6);
    }
}
