//! Changes to a TOML text that preserve every byte outside of the change.
//!
//! Printing a changed `toml_edit` document would move dotted keys together and normalize line ends.

use toml_edit::{Document, Item, Value};

use super::toml_layout::{Element, comma, elements, entries, is_blank, is_comment, line_end, line_start};

/// What happens to the comments at something that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comments {
    /// Comments that belong to it go: on its lines, between them, and directly above or below it without a blank line. A
    /// comment directly between two elements belongs to the second.
    Go,
    /// All comments stay.
    Stay,
}

/// The text is invalid, or does not contain what is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotThere;

fn parse(text: &str) -> Result<Document<&str>, NotThere> {
    Document::parse(text).map_err(|_| NotThere)
}

fn at<'d>(document: &'d Document<&str>, path: &[&str]) -> Option<&'d Item> {
    path.iter().try_fold(document.as_item(), |item, key| item.get(key))
}

/// Returns `text` as TOML.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Returns a list of texts as TOML.
pub(crate) fn list(texts: &[String]) -> String {
    Value::from_iter(texts).to_string()
}

/// Returns `fields` as an inline table.
pub(crate) fn inline(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", fields.join(", "))
}

/// Replaces the value at `path`.
pub(crate) fn set(text: &str, path: &[&str], value: &str) -> Result<String, NotThere> {
    let document = parse(text)?;
    let span = at(&document, path).and_then(Item::as_value).and_then(Value::span).ok_or(NotThere)?;
    Ok(format!("{}{value}{}", &text[..span.start], &text[span.end..]))
}

/// Adds `values` to the end of the list at `path`, which must not be empty.
pub(crate) fn append(text: &str, path: &[&str], values: &[String]) -> Result<String, NotThere> {
    let document = parse(text)?;
    let last = at(&document, path).and_then(Item::as_array).and_then(|list| list.iter().last());
    let end = last.and_then(Value::span).ok_or(NotThere)?.end;
    Ok(format!("{}, {}{}", &text[..end], values.join(", "), &text[end..]))
}

/// Writes `key = value` after the key at `sibling`, in the same style.
pub(crate) fn insert_after(text: &str, sibling: &[&str], key: &str, value: &str) -> Result<String, NotThere> {
    let document = parse(text)?;
    let mut within = elements(&document);
    let mut has_lines = true;
    loop {
        if let Some(element) = within.iter().find(|element| element.path == sibling) {
            // With the dotted keys before it, and on lines with the indentation.
            let start = if has_lines { line_start(text, element.key) } else { element.span.start };
            let new = format!("{}{key} = {value}", &text[start..element.key]);
            if !has_lines {
                return Ok(format!("{}, {new}{}", &text[..element.span.end], &text[element.span.end..]));
            }
            let (before, after) = text.split_at(line_end(text, element.span.end));
            let (newline, gap) = (newline(text), if before.ends_with('\n') { "" } else { newline(text) });
            return Ok(format!("{before}{gap}{new}{newline}{after}"));
        }
        within = inside(&within, sibling).ok_or(NotThere)?;
        has_lines = false;
    }
}

/// Returns the entries of the inline table among `elements` that contains `path`.
fn inside<'d>(elements: &[Element<'d>], path: &[&str]) -> Option<Vec<Element<'d>>> {
    let leads_in = |element: &&Element<'_>| element.value.is_some_and(Value::is_inline_table);
    let outer = elements.iter().filter(leads_in).find(|element| path.starts_with(&element.path))?;
    Some(entries(outer.value?.as_inline_table()?, &outer.path))
}

/// Adds `fields` as `[section.key]` at the end, or as an entry of `section` if that is an inline table.
pub(crate) fn add(text: &str, section: &str, key: &str, fields: &[(&str, String)]) -> Result<String, NotThere> {
    let document = parse(text)?;
    if let Some(table) = document.get(section).and_then(Item::as_inline_table) {
        let span = table.span().ok_or(NotThere)?;
        let new = format!("{key} = {}", inline(fields));
        return Ok(match entries(table, &[section]).last() {
            Some(last) => format!("{}, {new}{}", &text[..last.span.end], &text[last.span.end..]),
            None => {
                format!("{} {new} {}", &text[..=span.start], text[span.start + 1..].trim_start_matches([' ', '\t']))
            }
        });
    }
    let newline = newline(text);
    let mut new = text.to_owned();
    if line_start(text, text.len()) < text.len() {
        new.push_str(newline);
    }
    // Comments at the end are no part of the new section.
    if line_start(&new, new.len()) > line_start(&new, 0) && !ends_blank(&new, new.len()) {
        new.push_str(newline);
    }
    new.push_str(&format!("[{section}.{key}]{newline}"));
    fields.iter().for_each(|(key, value)| new.push_str(&format!("{key} = {value}{newline}")));
    Ok(new)
}

/// Removes everything at and below `path`.
pub(crate) fn remove(text: &str, path: &[&str], comments: Comments) -> Result<String, NotThere> {
    let document = parse(text)?;
    let elements = elements(&document);
    if elements.iter().any(|element| element.is_of(path)) {
        return Ok(match comments {
            Comments::Go => remove_with_comments(text, &elements, path),
            Comments::Stay => remove_alone(text, &elements, path),
        });
    }
    let mut within = elements;
    loop {
        let entries = inside(&within, path).ok_or(NotThere)?;
        if let Some(at) = entries.iter().position(|entry| entry.is_of(path)) {
            let removed = remove_entry(text, &entries, at);
            // With dotted keys it may have several entries.
            let more = entries[at + 1..].iter().any(|entry| entry.is_of(path));
            return if more { remove(&removed, path, comments) } else { Ok(removed) };
        }
        within = entries;
    }
}

fn remove_with_comments(text: &str, elements: &[Element<'_>], path: &[&str]) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut copied = 0;
    let mut rest = elements.iter().peekable();
    let mut above = line_start(text, 0);
    while let Some(first) = rest.next() {
        let mut last = first;
        if !first.is_of(path) {
            above = line_end(text, last.span.end);
            continue;
        }
        while let Some(next) = rest.next_if(|next| next.is_of(path)) {
            last = next;
        }
        let (start, end) =
            with_comments(text, above, line_start(text, first.span.start), line_end(text, last.span.end));
        kept.push_str(&text[copied..start]);
        copied = end;
        above = end;
    }
    kept.push_str(&text[copied..]);
    kept
}

/// Returns the range from `start` to `end` extended by the comments that belong to it, and by blank lines of which two
/// would be left. It does not begin before `bound`.
fn with_comments(text: &str, bound: usize, mut start: usize, mut end: usize) -> (usize, usize) {
    let before = |at: usize| (at > bound).then(|| line_start(text, at - 1));
    while let Some(line) = before(start).filter(|line| is_comment(text, *line)) {
        start = line;
    }
    let mut below = end;
    while is_comment(text, below) {
        below = line_end(text, below);
    }
    if below == text.len() || is_blank(text, below) {
        end = below;
    }
    if start == line_start(text, 0) || ends_blank(text, start) {
        while is_blank(text, end) {
            end = line_end(text, end);
        }
    }
    while let Some(line) = before(start).filter(|line| end == text.len() && is_blank(text, *line)) {
        start = line;
    }
    (start, end)
}

fn remove_alone(text: &str, elements: &[Element<'_>], path: &[&str]) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut copied = 0;
    for element in elements.iter().filter(|element| element.is_of(path)) {
        kept.push_str(&text[copied..line_start(text, element.span.start)]);
        let end = line_end(text, element.span.end);
        let rest = &text[element.span.end..end];
        kept.push_str(if is_comment(rest, 0) { rest.trim_start() } else { "" });
        copied = end;
    }
    kept.push_str(&text[copied..]);
    kept
}

/// Removes an entry of an inline table with one comma. Comments around it stay.
fn remove_entry(text: &str, entries: &[Element<'_>], at: usize) -> String {
    let span = &entries[at].span;
    if let Some(comma) = comma(text, span.end) {
        let after = text[comma + 1..].trim_start_matches([' ', '\t']);
        return format!("{}{}{after}", &text[..span.start], &text[span.end..comma]);
    }
    let before = at.checked_sub(1).and_then(|previous| comma(text, entries[previous].span.end));
    let (before, between) = before.map_or((span.start, ""), |comma| (comma, &text[comma + 1..span.start]));
    format!("{}{}{}", &text[..before], between.trim_end_matches([' ', '\t']), &text[span.end..])
}

/// Returns whether the line before `at`, the beginning of a line, is blank.
fn ends_blank(text: &str, at: usize) -> bool {
    at.checked_sub(1).is_some_and(|newline| is_blank(text, line_start(text, newline)))
}

fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}
