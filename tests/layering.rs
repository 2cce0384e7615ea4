//! Reads the sources and refuses an import that goes upward or sideways (`docs/architecture.md`).

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may import besides itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("values", &[]),
    ("files", &[]),
    ("schema", &[]),
    ("protocol", &["values"]),
    ("routing", &["values"]),
    ("limits", &["values"]),
    ("certs", &["values", "files"]),
    ("auth", &["values", "files", "limits"]),
    ("tenants", &["values", "files", "schema", "limits", "protocol", "routing", "auth"]),
    ("access", &["values", "protocol", "limits", "auth"]),
    ("transport", &["values", "protocol", "limits", "certs"]),
    ("link", &["values", "protocol", "limits", "transport"]),
    ("telemetry", &["values", "files", "schema", "transport"]),
    (
        "server",
        &[
            "values",
            "files",
            "schema",
            "protocol",
            "routing",
            "limits",
            "certs",
            "auth",
            "tenants",
            "access",
            "transport",
            "link",
            "telemetry",
        ],
    ),
    ("agent", &["values", "files", "schema", "protocol", "limits", "transport", "link", "telemetry"]),
    (
        "config",
        &[
            "values",
            "files",
            "schema",
            "protocol",
            "routing",
            "limits",
            "auth",
            "tenants",
            "transport",
            "telemetry",
            "server",
            "agent",
        ],
    ),
    (
        "cli",
        &[
            "values",
            "files",
            "schema",
            "protocol",
            "routing",
            "limits",
            "certs",
            "auth",
            "tenants",
            "access",
            "transport",
            "link",
            "telemetry",
            "server",
            "agent",
            "config",
        ],
    ),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a source names after `crate::`, outside of comments; groups (`crate::{a, b}`) included.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let word =
            |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => {
                rooms.insert(word(rest));
            }
            Some(group) => {
                let mut depth = 0;
                let mut start = 0;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        ',' if depth == 0 => {
                            rooms.insert(word(&group[start..i]));
                            start = i + 1;
                        }
                        '}' if depth == 0 => {
                            rooms.insert(word(&group[start..i]));
                            break;
                        }
                        '}' => depth -= 1,
                        _ => {}
                    }
                }
            }
        }
    }
    rooms.remove("");
    rooms
}

#[test]
fn imports_run_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (room, allowed) in ROOMS {
        let mut files = Vec::new();
        sources(&root.join(room), &mut files);
        assert!(!files.is_empty(), "the room {room} is empty");
        for file in files {
            seen += 1;
            for import in imports(&fs::read_to_string(&file).unwrap()) {
                if import != *room && !allowed.contains(&import.as_str()) {
                    wrong.push(format!("{}: {room} may not import {import}", file.display()));
                }
            }
        }
    }
    assert!(seen > 40, "only {seen} files were read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_has_its_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms: BTreeSet<String> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let ruled: BTreeSet<String> = ROOMS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(rooms, ruled);
}

#[test]
fn only_one_module_names_the_multiplexer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (inside, outside): (Vec<_>, Vec<_>) = files
        .iter()
        .filter(|file| fs::read_to_string(file).unwrap().contains("yamux::"))
        .map(|file| file.strip_prefix(&root).unwrap())
        .partition(|file| *file == Path::new("link/mux.rs") || file.starts_with("link/mux"));
    assert_eq!(outside, Vec::<&Path>::new());
    assert!(!inside.is_empty(), "yamux has another name now");
}

#[test]
fn the_reader_of_imports_can_read() {
    let source = "use crate::a::B;\nuse crate::{b::{x, y}, c};\n// use crate::not::this;\nlet z = crate::d::e();\nmycrate::f::g();";
    let expected: BTreeSet<String> = ["a", "b", "c", "d"].map(String::from).into();
    assert_eq!(imports(source), expected);
}
