use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::schema::{ConfigErrors, Environment, FileText, Flags, key, merge};

fn walk<T>(text: &str, environment: &[(&str, &str)], take: impl FnOnce(Table<'_>) -> T) -> Result<T, ConfigErrors> {
    let file = FileText { path: "dir/x.toml".into(), text: text.into() };
    let environment: Environment = environment.iter().copied().collect();
    let values = merge(Some(&file), &environment, &Flags::new())?;
    let report = Report::new(Some(&file.path), Path::new("dir"));
    let value = take(report.root(values));
    report.finish(Some(value))
}

const SECONDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

#[test]
fn every_problem_is_reported_with_its_path() {
    let errors = walk("[a]\nn = 'x'\nd = 5\nlist = 'a,b'\nz = '0s'\nfar = '2h'\nb = 1", &[], |mut root| {
        let mut a = root.section("a");
        a.get("n", key::number(1, 1..=9));
        a.get("d", key::duration(Duration::ZERO, SECONDS));
        a.get("z", key::duration(Duration::ZERO, SECONDS));
        a.get("far", key::duration(Duration::ZERO, SECONDS));
        a.get("list", key::list("", |text| Ok::<_, String>(text.to_owned())));
        drop(a.section("b"));
    })
    .unwrap_err();
    let keys: Vec<_> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["a.n", "a.d", "a.z", "a.far", "a.list", "a.b"], "{errors}");
    assert!(errors.problems[2].message.contains("longer than zero"), "{errors}");
    assert!(errors.problems[3].message.contains("between 1s and 1m"), "{errors}");
}

#[test]
fn a_key_nobody_took_is_unknown_and_gets_a_suggestion() {
    let errors =
        walk("domian = 'x'\nlisten = 'x'\nnothing = 1\n[t]\nlisten = ''", &[("ADIT__T__X__Y", "1")], |mut root| {
            root.take("domain", &key::any(""));
            root.section("t").take("listen", &key::any(""));
        })
        .unwrap_err();
    assert_eq!(
        errors.to_string(),
        "dir/x.toml: t.x.y: unknown key (from the environment variable ADIT__T__X__Y)\n\
         dir/x.toml: domian: unknown key; did you mean `domain`?\n\
         dir/x.toml: listen: unknown key; did you mean `t.listen`?\n\
         dir/x.toml: nothing: unknown key"
    );
}

#[test]
fn text_from_the_environment_is_a_number_or_a_list_where_one_is_wanted() {
    let environment = [("ADIT__N", " 7 "), ("ADIT__LIST", "a, b,"), ("ADIT__P", "here")];
    let (n, list, here, there) = walk("q = 'there'", &environment, |mut root| {
        let list = root.get("list", key::list("", |text| Ok::<_, String>(text.to_owned())));
        (
            root.get("n", key::number(1, 1..=9)),
            list,
            root.get("p", key::path()).unwrap(),
            root.get("q", key::path()).unwrap(),
        )
    })
    .unwrap();
    assert_eq!((n, list), (7, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!((here, there), (PathBuf::from("here"), Path::new("dir").join("there")));
}

#[test]
fn a_choice_names_all_there_is() {
    let choices = [("a", 1), ("b", 2), ("c", 3)];
    let choose = |text: &str| walk(text, &[], |mut root| root.get("key", key::choice("a way", &choices)));
    assert_eq!((choose("key = ' b '").unwrap(), choose("").unwrap()), (Some(2), None));
    let message = choose("key = 'd'").unwrap_err().problems[0].to_string();
    assert_eq!(message, "key: `d` is not a way; use \"a\", \"b\" or \"c\"");
}

#[test]
fn a_problem_of_the_environment_names_the_variable() {
    let errors =
        walk("", &[("ADIT__A__N", "70")], |mut root| root.section("a").get("n", key::number(1, 1..=9))).unwrap_err();
    let expected = "a.n: is 70, but must be between 1 and 9 (from the environment variable ADIT__A__N)";
    assert_eq!(errors.problems[0].to_string(), expected);
}
