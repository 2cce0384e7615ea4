//! The tables of keys in `docs/configuration.md` are what the program says of its keys.

use std::fs;

use super::top;

#[path = "../../examples/reference/tables.rs"]
pub(crate) mod tables;

use tables::{DOCUMENT, keys, rewrite};

#[test]
fn the_tables_of_keys_are_the_programs() {
    let text = fs::read_to_string(top().join(DOCUMENT)).unwrap();
    let now = rewrite(&text, &keys());
    let stale: Vec<_> = now.lines().filter(|line| !text.lines().any(|there| there == *line)).collect();
    assert!(now == text, "{DOCUMENT} is behind the program; run `make reference`\n{}", stale.join("\n"));
}

#[test]
fn each_key_says_which_values_it_takes_and_what_it_means() {
    for (file, keys) in keys() {
        for key in keys {
            let is_explained = !key.bounds.is_empty() && !key.meaning.is_empty() && !key.default.is_empty();
            assert!(is_explained, "{file}: say it in the row of {}", key.path);
        }
    }
}

#[test]
fn rows_come_and_go_with_their_keys_and_keep_their_place() {
    let keys = keys();
    let table = "# Rules\n\n<!-- keys of agent.toml below services[].rules[] -->\n\n\
                 | key | default | bounds | what |\n| --- | --- | --- | --- |\n\
                 | `strip_prefix` | old | old | old `a \\| b` |\n| `gone` | x | y | z |\n| `path` | | | |\n\nend\n";
    let text = rewrite(table, &keys);
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let [strip_prefix, path, name, value, local] = rows.as_slice() else { panic!("{text}") };
    assert_eq!(strip_prefix[..3], ["`strip_prefix`", "`false`", "`true`, `false`"]);
    assert!(strip_prefix[3].contains("X-Forwarded-Prefix"), "{text}");
    assert_eq!(path[..3], ["`path`", "any", "a path"]);
    assert_eq!(name[..3], ["`header.name`", "required", "the name of a field"]);
    assert_eq!(value[..3], ["`header.value`", "any", "a text"]);
    assert_eq!(local[..3], ["`local`", "required", "as `services[].local`"]);
    assert!(text.starts_with("# Rules\n\n<!-- keys of agent.toml below services[].rules[] -->\n\n| key |"), "{text}");
    assert!(text.ends_with(" |\n\nend\n") && !text.contains("gone"), "{text}");
    assert_eq!(rewrite(&text, &keys), text);
}
