#![allow(unreachable_pub, reason = "`options!` declares public sections")]

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::schema::{ConfigErrors, Environment, FileText, Flags, KeyReference, Report, key, merge};

options! {
    /// A section before a key is added.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Before {
        /// How many.
        pub count: usize = key::number(3, 1..=9), reload;
    }
}

options! {
    /// The same section with another key: one more row.
    #[derive(Debug, Clone, PartialEq)]
    pub struct After {
        /// How many.
        pub count: usize = key::number(3, 1..=9), reload;
        /// How long.
        pub patience: Duration =
            key::duration(Duration::from_secs(10), Duration::from_secs(1)..=Duration::from_secs(60)), restart;
    }
}

fn read<S: Section>(text: &str) -> Result<S, ConfigErrors> {
    let file = FileText { path: "dir/x.toml".into(), text: text.into() };
    let values = merge(Some(&file), &Environment::default(), &Flags::new())?;
    let report = Report::new(Some(&file.path), Path::new("dir"));
    let section = S::read(&mut report.root(values));
    report.finish(Some(section))
}

#[test]
fn one_row_adds_a_key_to_reading_checks_reference_and_reload() {
    let unknown = read::<Before>("patience = '5s'").unwrap_err().to_string();
    assert!(unknown.contains("patience: unknown key"), "{unknown}");

    let default = read::<After>("").unwrap();
    assert_eq!(default, After { count: 3, patience: Duration::from_secs(10) });
    let given = read::<After>("patience = '5s'").unwrap();
    assert_eq!(given.patience, Duration::from_secs(5));
    let wrong = read::<After>("patience = '2h'").unwrap_err().to_string();
    assert!(wrong.contains("patience: ") && wrong.contains("between 1s and 1m"), "{wrong}");
    let mistyped = read::<After>("patence = '5s'").unwrap_err().to_string();
    assert!(mistyped.contains("did you mean `patience`?"), "{mistyped}");

    let described = Report::describe(|mut root| After::read(&mut root));
    let added = KeyReference {
        path: "patience".to_owned(),
        default: "`10s`".to_owned(),
        bounds: "1 s to 1 min".to_owned(),
        meaning: "How long.".to_owned(),
    };
    assert_eq!(described.last(), Some(&added));
    assert_eq!(After::KEYS, ["count", "patience"]);

    let mut reload = Reload::default();
    let applied = default.reload(&After { count: 4, ..given }, "", &mut reload);
    assert_eq!((reload.changed, reload.waiting), (vec!["count".to_owned()], vec!["patience".to_owned()]));
    assert_eq!(applied, After { count: 4, ..default }, "what waits for a restart stays as it is");
}
