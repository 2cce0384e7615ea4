//! The tables of keys in `docs/configuration.md` are what the program says of its keys.

use std::fs;

use super::top;

#[path = "../../examples/reference/tables.rs"]
pub(crate) mod tables;

use tables::{DOCUMENT, Rewritten, keys, rewrite};

#[test]
fn the_tables_of_keys_are_the_programs() {
    let text = fs::read_to_string(top().join(DOCUMENT)).unwrap();
    let Rewritten { text: now, unexplained } = rewrite(&text, &keys(&top()).unwrap());
    let stale: Vec<_> = now.lines().filter(|line| !text.lines().any(|there| there == *line)).collect();
    assert!(now == text, "{DOCUMENT} is behind the program; run `make reference`\n{}", stale.join("\n"));
    assert!(unexplained.is_empty(), "{DOCUMENT}: the last column is empty: {}", unexplained.join(", "));
}

#[test]
fn each_key_says_which_values_it_takes() {
    for (file, keys) in keys(&top()).unwrap() {
        for key in keys {
            assert!(!key.bounds.is_empty(), "{file}: say it of {} where it is taken (Table::within)", key.path);
        }
    }
}

#[test]
fn rows_come_and_go_with_their_keys_and_keep_place_and_last_column() {
    let keys = keys(&top()).unwrap();
    let table = "# Rules\n\n<!-- keys of agent.toml below services[].rules[] -->\n\n\
                 | key | default | bounds | what |\n| --- | --- | --- | --- |\n\
                 | `strip_prefix` | old | old | what `a \\| b` is |\n| `gone` | x | y | z |\n| `path` | | | |\n\nend\n";
    let Rewritten { text, unexplained } = rewrite(table, &keys);
    assert_eq!(
        text,
        "# Rules\n\n<!-- keys of agent.toml below services[].rules[] -->\n\n\
         | key | default | bounds | what |\n| --- | --- | --- | --- |\n\
         | `strip_prefix` | `false` | `true`, `false` | what `a \\| b` is |\n\
         | `path` | any | a path | |\n\
         | `header.name` | required | the name of a field | |\n\
         | `header.value` | any | a text | |\n\
         | `local` | required | as `services[].local` | |\n\nend\n"
    );
    assert_eq!(unexplained.len(), 4, "{unexplained:?}");
    assert_eq!(rewrite(&text, &keys).text, text);
}
