//! What the documents show is what the program takes: every configuration in them is checked, every command line is read,
//! every link leads somewhere, and the tables of keys are the program's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod commands;
mod memory;
mod recipes;
mod reference;
mod shell;

use std::fs;
use std::path::{Path, PathBuf};

use adit::config::check_with;
use adit::schema::Environment;

const FINGERPRINT: &str = "sha256:43f1f660a555bdc8eeb1931c5182eb9f6cedb4a35f97eace1c3ba460f8558c45";
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$LO6b0RHSPxx6cQYmCEhVqZ4RwHbXlXk0pOOeCkVMWcU";
/// What an agent's file needs, for those documents that leave it out.
const LOGIN: &str = "servers = ['tunnel.example.com']\nclient_id = 'alice'\ntoken_file = 'token'\n";

fn top() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Every Markdown file but those of what is built or brought along.
fn documents() -> Vec<PathBuf> {
    fn gather(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            if entry.is_dir() && name != "target" && !name.starts_with('.') {
                gather(&entry, found);
            } else if name.ends_with(".md") {
                found.push(entry);
            }
        }
    }
    let mut found = Vec::new();
    gather(&top(), &mut found);
    assert!(found.len() > 15, "{found:?}");
    found
}

/// The configurations in a document, each with its line: blocks of TOML, and files that a block of commands writes.
fn configurations(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut end = None;
    for (number, line) in text.lines().enumerate() {
        match end {
            Some(mark) if line.trim() == mark => end = None,
            Some(_) => {
                let (_, block) = found.last_mut().unwrap();
                block.push_str(line);
                block.push('\n');
            }
            None if line == "```toml" => {
                end = Some("```");
                found.push((number + 1, String::new()));
            }
            None if line.contains(".toml") && line.contains("<<") => {
                end = Some("EOF");
                found.push((number + 1, String::new()));
            }
            None => {}
        }
    }
    found
}

/// What a reader would fill in.
fn filled_in(block: &str) -> String {
    let block = block
        .replace("$FINGERPRINT", FINGERPRINT)
        .replace("sha256:43f1…8c45", FINGERPRINT)
        .replace("$argon2id$…", HASH)
        .replace("$argon2id$...", HASH);
    let is_agents = block.contains("[[services]]");
    if is_agents && !block.contains("servers =") { format!("{LOGIN}{block}") } else { block }
}

#[test]
fn every_configuration_in_the_documents_can_be_used() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for (line, block) in configurations(&text) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("config.toml");
            fs::write(&file, filled_in(&block)).unwrap();
            fs::write(folder.path().join("token"), "adit_0000").unwrap();
            fs::write(folder.path().join("secret"), "whsec_0000").unwrap();
            checked += 1;
            if let Err(errors) = check_with(&file, &Environment::default()) {
                let problems = errors.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                wrong.push(format!("{}:{line}: {problems}", document.strip_prefix(top()).unwrap().display()));
            }
        }
    }
    assert!(checked >= 10, "only {checked} found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is between `](` and `)`, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if !in_block {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            found.extend(targets.map(|(target, _)| target.to_owned()));
        }
    }
    found
}

/// By what a heading is linked to.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let (mut followed, mut wrong) = (0, Vec::new());
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            followed += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            let leads = target.exists()
                && (anchor.is_empty()
                    || fs::read_to_string(&target).is_ok_and(|text| anchors(&text).iter().any(|one| one == anchor)));
            if !leads {
                wrong.push(format!("{}: {link}", document.strip_prefix(top()).unwrap().display()));
            }
        }
    }
    assert!(followed >= 50, "only {followed} found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
