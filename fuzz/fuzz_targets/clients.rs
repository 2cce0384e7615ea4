//! A clients file, however broken: it is taken, or every problem is named, without a word of what is secret in it.

#![no_main]

use std::path::Path;

use adit::tenants::entry::ClientsFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ClientsFile::from_text(Path::new("clients.toml"), text) {
        Ok(file) => assert_eq!(ClientsFile::from_text(Path::new("clients.toml"), text).ok(), Some(file)),
        Err(errors) => assert!(!errors.problems.is_empty() && !errors.to_string().is_empty()),
    }
});
