//! Each recipe in docs/self-hoster.md is run by `make recipes`, or says that it is not.

use std::collections::BTreeSet;
use std::fs;

use super::top;

const NOT_RUN: &str = "`make recipes` does not run this one";

/// The applications of the document, each with whether it says that it is not run.
fn applications(text: &str) -> Vec<(&str, bool)> {
    let (_, after) = text.split_once("\n## Applications\n").unwrap();
    let recipes = after.split("\n## ").next().unwrap().split("\n### ").skip(1);
    recipes.map(|recipe| (recipe.lines().next().unwrap(), recipe.contains(NOT_RUN))).collect()
}

#[test]
fn every_recipe_in_the_document_is_run_or_says_that_it_is_not() {
    let text = fs::read_to_string(top().join("docs/self-hoster.md")).unwrap();
    let rows = fs::read_dir(top().join("tests/recipes/rows")).unwrap().map(|entry| entry.unwrap().path());
    let run: BTreeSet<String> = rows
        .filter(|path| path.extension().is_some_and(|end| end == "py"))
        .filter_map(|path| {
            let row = fs::read_to_string(path).unwrap();
            row.lines().find_map(|line| Some(line.strip_prefix("SECTION = \"")?.strip_suffix('"')?.to_owned()))
        })
        .collect();
    let applications = applications(&text);
    let mut wrong: Vec<String> = applications
        .iter()
        .filter(|(name, says_not)| run.contains(*name) == *says_not)
        .map(|(name, says_not)| format!("{name}: run={}, says that it is not={says_not}", run.contains(*name)))
        .collect();
    let named: BTreeSet<&str> = applications.iter().map(|(name, _)| *name).collect();
    wrong
        .extend(run.iter().filter(|name| !named.contains(name.as_str())).map(|name| format!("{name}: has no section")));
    assert!(run.len() >= 2, "only {run:?} found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn applications_end_with_the_next_section() {
    let text = format!("# A\n\n## Applications\n\n### One\n\n{NOT_RUN}.\n\n### Two\n\n## Other\n\n### Three\n");
    assert_eq!(applications(&text), [("One", true), ("Two", false)]);
}
