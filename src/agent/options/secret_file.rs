//! Secrets in files of their own.

use std::path::{Path, PathBuf};

use crate::schema::Entry;
use crate::values::{text_in, trimmed};

/// The file that `entry` names, and what it holds, without a byte order mark and the white space around it. May be nothing.
pub(crate) fn read_file(entry: Entry<'_>) -> Option<(PathBuf, String)> {
    let (report, key) = (entry.report(), entry.key().to_owned());
    let path = path_of(entry)?;
    match read(&path) {
        Ok(text) => Some((path, text)),
        Err(problem) => {
            report.problem(key, problem);
            None
        }
    }
}

/// The file that `entry` names; it need not exist.
pub(crate) fn path_of(entry: Entry<'_>) -> Option<PathBuf> {
    let (report, key) = (entry.report(), entry.key().to_owned());
    let path = entry.path()?;
    // Easily mixed up, and then the path must not be printed.
    if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adit_")) && !path.exists() {
        report.problem(key, "looks like the token itself; write it to a file and name that, or use token");
        return None;
    }
    Some(path)
}

/// Returns the content of the file at `path`, without a byte order mark and surrounding white space.
///
/// # Errors
/// A message that names the path and says what to check.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path)
        .map_err(|error| format!("cannot read {}: {error}; check path and permissions", path.display()))?;
    let text = text_in(&bytes).map_err(|error| format!("{} {error}", path.display()))?;
    Ok(trimmed(text).to_owned())
}
