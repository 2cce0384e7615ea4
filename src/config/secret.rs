//! Secrets in files of their own.

use std::path::PathBuf;

use super::table::Entry;

/// The file that `entry` names, and what it holds, without the white space around it. May be nothing.
pub(super) fn read_file(entry: Entry<'_>) -> Option<(PathBuf, String)> {
    let (report, key) = (entry.report(), entry.key().to_owned());
    let path = entry.path()?;
    // Easily mixed up, and then the path must not be printed.
    if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adit_")) && !path.exists() {
        report.problem(key, "looks like the token itself; write it to a file and name that, or use token");
        return None;
    }
    match std::fs::read_to_string(&path) {
        Ok(text) => Some((path, text.trim().to_owned())),
        Err(error) => {
            report.problem(key, format!("cannot read {}: {error}; check path and permissions", path.display()));
            None
        }
    }
}
