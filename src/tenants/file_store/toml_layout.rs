//! The positions of keys, values and comments in a TOML text.

use std::ops::Range;

use toml_edit::{Document, InlineTable, Item, Key, Table, Value};

/// A header, or a key with its value.
pub(crate) struct Element<'d> {
    /// The full path of the key.
    pub(crate) path: Vec<&'d str>,
    /// From the first character of the header or the keys to the last one of the header or the value.
    pub(crate) span: Range<usize>,
    /// The beginning of the last key.
    pub(crate) key: usize,
    /// `None` for a header.
    pub(crate) value: Option<&'d Value>,
}

impl<'d> Element<'d> {
    fn new(path: &[&'d str], keys: &[&'d Key], value: &'d Value) -> Option<Self> {
        let leaf = keys.last()?;
        let key = leaf.span()?.start;
        // The text before dotted keys is kept with the last of them.
        let start = leaf.leaf_decor().prefix().and_then(|prefix| prefix.span()).map_or(key, |prefix| prefix.end);
        let path = path.iter().copied().chain(keys.iter().map(|key| key.get())).collect();
        Some(Self { path, span: start..value.span()?.end, key, value: Some(value) })
    }

    /// Returns whether this is at or below `path`.
    pub(crate) fn is_of(&self, path: &[&str]) -> bool {
        self.path.starts_with(path)
    }
}

/// Returns everything that has lines of its own, in the order of the text.
pub(crate) fn elements<'d>(document: &'d Document<&str>) -> Vec<Element<'d>> {
    let mut found = Vec::new();
    walk(document.as_table(), &mut Vec::new(), &mut found);
    found.sort_by_key(|element| element.span.start);
    found
}

fn walk<'d>(table: &'d Table, path: &mut Vec<&'d str>, found: &mut Vec<Element<'d>>) {
    if !table.is_dotted() {
        let header = table.span().filter(|_| !path.is_empty() && !table.is_implicit());
        found.extend(header.map(|span| Element { path: path.clone(), key: span.start, span, value: None }));
        found.extend(table.get_values().iter().filter_map(|(keys, value)| Element::new(path, keys, value)));
    }
    for (key, item) in table {
        path.push(key);
        match item {
            Item::Table(table) => walk(table, path, found),
            Item::ArrayOfTables(tables) => tables.iter().for_each(|table| walk(table, path, found)),
            Item::Value(_) | Item::None => {}
        }
        path.pop();
    }
}

/// Returns the entries of an inline table at `path`, in the order of the text.
pub(crate) fn entries<'d>(table: &'d InlineTable, path: &[&'d str]) -> Vec<Element<'d>> {
    let values = table.get_values();
    let mut found: Vec<_> = values.iter().filter_map(|(keys, value)| Element::new(path, keys, value)).collect();
    found.sort_by_key(|element| element.span.start);
    found
}

/// Returns the beginning of the line of `at`. A byte order mark is before the first line.
pub(crate) fn line_start(text: &str, at: usize) -> usize {
    let mark = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    text[..at].rfind('\n').map_or(mark, |newline| newline + 1)
}

/// Returns the beginning of the next line after `at`.
pub(crate) fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

/// Returns whether the line from `at` on is a comment. Only for lines outside of values.
pub(crate) fn is_comment(text: &str, at: usize) -> bool {
    text[at..].trim_start_matches([' ', '\t']).starts_with('#')
}

/// Returns whether the line from `at` on is blank. At the end of the text there is no line.
pub(crate) fn is_blank(text: &str, at: usize) -> bool {
    at < text.len() && text[at..line_end(text, at)].trim().is_empty()
}

/// Returns the comma after an entry of an inline table: the first after `at` that is not in a comment.
pub(crate) fn comma(text: &str, at: usize) -> Option<usize> {
    let mut at = at;
    loop {
        at += text[at..].find(|c: char| !c.is_whitespace())?;
        match text.as_bytes()[at] {
            b'#' => at = line_end(text, at),
            b',' => return Some(at),
            _ => return None,
        }
    }
}
