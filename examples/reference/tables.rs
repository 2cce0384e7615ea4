//! Tables of keys in a document. Each is under a line that says whose keys they are,
//!
//!     <!-- keys of agent.toml -->
//!     <!-- keys of agent.toml below services[].rules[] -->
//!
//! and a key is in the table that names most of its path. The rows are the program's; their order is the document's own.

use adit::config::{Kind, every_key};
use adit::schema::KeyReference;

/// Where they are, from the top of the repository.
pub(crate) const DOCUMENT: &str = "docs/configuration.md";

const HEAD: [&str; 2] = ["| key | default | bounds | what |", "| --- | --- | --- | --- |"];

/// The keys of each file, as the program has them.
pub(crate) type Keys = Vec<(&'static str, Vec<KeyReference>)>;

/// Returns every key of each file.
pub(crate) fn keys() -> Keys {
    [("server.toml", Kind::Server), ("agent.toml", Kind::Agent), ("clients.toml", Kind::Clients)]
        .map(|(file, kind)| (file, every_key(kind)))
        .into()
}

/// Returns `text` with its tables brought up to date.
pub(crate) fn rewrite(text: &str, keys: &Keys) -> String {
    let marks: Vec<(&str, &str)> = text.lines().filter_map(mark).collect();
    let mut rewritten = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        rewritten += &format!("{line}\n");
        let Some((file, below)) = mark(line) else { continue };
        while lines.next_if(|line| line.is_empty()).is_some() {}
        let mut rows = Vec::new();
        while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
            rows.extend(name_of(row));
        }
        let others: Vec<&str> = marks.iter().filter(|mark| mark.0 == file).map(|mark| mark.1).collect();
        let all = keys.iter().filter(|(name, _)| *name == file).flat_map(|(_, keys)| keys);
        let own: Vec<(&str, &KeyReference)> =
            all.filter(|key| place(&key.path, &others) == below).map(|key| (name_in(key, below), key)).collect();
        rewritten += &format!("\n{}\n", HEAD.join("\n"));
        for (name, key) in in_order(&own, &rows) {
            let cells = [&format!("`{name}`"), &key.default, &key.bounds, &key.meaning];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            rewritten += &format!("| {} |\n", cells.join(" | "));
        }
    }
    rewritten
}

/// The file and the path of a line that stands above a table.
fn mark(line: &str) -> Option<(&str, &str)> {
    let whose = line.strip_prefix("<!-- keys of ")?.strip_suffix(" -->")?;
    Some(whose.split_once(" below ").unwrap_or((whose, "")))
}

/// The key in a row's first cell.
fn name_of(row: &str) -> Option<&str> {
    row.strip_prefix('|')?.split('|').next()?.trim().strip_prefix('`')?.strip_suffix('`')
}

/// The longest of `tables` that `path` is below.
fn place<'t>(path: &str, tables: &[&'t str]) -> &'t str {
    let holds =
        |table: &&&str| table.is_empty() || path.strip_prefix(**table).is_some_and(|rest| rest.starts_with('.'));
    tables.iter().filter(holds).max_by_key(|table| table.len()).copied().unwrap_or_default()
}

fn name_in<'k>(key: &'k KeyReference, table: &str) -> &'k str {
    key.path.strip_prefix(table).unwrap_or(&key.path).trim_start_matches('.')
}

/// The keys in the order of the rows that are there; each new one comes behind its predecessor in the program.
fn in_order<'k>(keys: &[(&'k str, &'k KeyReference)], rows: &[&str]) -> Vec<(&'k str, &'k KeyReference)> {
    let there = |name: &str| rows.iter().position(|row| *row == name);
    let mut ordered: Vec<_> = keys.iter().filter(|(name, _)| there(name).is_some()).copied().collect();
    ordered.sort_by_key(|(name, _)| there(name));
    for (at, new) in keys.iter().enumerate().filter(|(_, (name, _))| there(name).is_none()) {
        let before = at.checked_sub(1).and_then(|before| ordered.iter().position(|(name, _)| *name == keys[before].0));
        ordered.insert(before.map_or(0, |before| before + 1), *new);
    }
    ordered
}
