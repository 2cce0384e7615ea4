//! Changes to `clients.toml` that preserve every comment and line of the operator.
//!
//! Each change is atomic: a reader sees the old file or the new one, writers take turns by a lock file beside it, and a
//! file that would be invalid is not written. The lock file also holds the digest of what was written, so that the
//! server can tell a change by a command from a file that is still being edited ([`was_written_by_command`]). Owner and
//! mode of the file stay: an operator who is root must not lock the server out of its own file.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod set_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use super::rewrite::rewrite;
use crate::files::{self, Lock, Readers};
use crate::schema::{ConfigErrors, FileText};
use crate::tenants::edit_error::EditError;
use crate::tenants::entry::{ClientsFile, digest_of, read};
use crate::values::Fingerprint;

/// The text of a file without clients. A running server takes an empty file for one that an editor has truncated
/// ([`ClientsFile::load_version`]).
const NO_CLIENTS: &str = "# Nobody may log in.\n";

/// Changes the clients file at `path` with `edit`, or leaves it as it is. Creates a missing file (0600), and its directory,
/// if the edit is possible without any clients. Blocks, also while another process writes the file.
///
/// # Errors
/// `edit` fails, the changed file would be invalid, or the file cannot be read or written. The file is unchanged then.
pub fn edit_file<T, E: From<EditError>>(
    path: &Path,
    mut edit: impl FnMut(&mut ClientsFile) -> Result<T, E>,
) -> Result<T, E> {
    files::refuse_foreign(path).map_err(EditError::Io)?;
    // The file behind a link is the one to change, and its directory the one to write in.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_missing = !target.exists();
    if is_missing && edit(&mut ClientsFile::default()).is_err() {
        read(path).map_err(EditError::Invalid)?;
    }
    let lock = lock_beside(&target).map_err(EditError::Io)?;
    let mut file = match read(&target) {
        Err(_) if is_missing && !target.exists() => FileText { path: target, text: String::new() },
        file => file.map_err(EditError::Invalid)?,
    };
    let before = ClientsFile::from_file(&file).map_err(EditError::Invalid)?;
    let digest_before = digest_of(&file.text);
    let mut after = before.clone();
    let result = edit(&mut after)?;
    if file.text == NO_CLIENTS {
        // It will no longer be true.
        file.text.clear();
    }
    let text = rewrite(&file.text, &before, &after).map_err(|_| {
        let message = "is written in a way that cannot be changed here; change it by hand";
        EditError::Invalid(ConfigErrors::one(Some(file.path.clone()), "", message))
    })?;
    file.text = if text.is_empty() { NO_CLIENTS.to_owned() } else { text };
    ClientsFile::from_file(&file).map_err(EditError::Refused)?;
    // Without the note the server treats the change as an edit by hand, which it may delay.
    let mut note = digest_of(&file.text).to_string();
    if was_written_by_command(&file.path, &digest_before) {
        // The server may be about to read the text from before.
        note = format!("{note} {digest_before}");
    }
    let _ = lock.note(&note);
    files::replace(&file.path, file.text.as_bytes(), Readers::Owner).map_err(EditError::Io)?;
    Ok(result)
}

/// Creates a clients file without clients at `path`. Leaves an existing one as it is.
///
/// # Errors
/// The file cannot be read or written.
pub fn create_clients_file(path: &Path) -> Result<(), EditError> {
    edit_file(path, |_| Ok(()))
}

/// Checks whether [`create_clients_file`] would succeed. Creates nothing.
///
/// # Errors
/// As there.
pub fn dry_run_create(path: &Path) -> Result<(), ConfigErrors> {
    let directory = files::directory_of(path);
    let check = files::refuse_foreign(path).and_then(|()| Lock::look(directory));
    check
        .and_then(|()| files::look_at_place(directory))
        .map_err(|error| ConfigErrors::one(Some(path.to_owned()), "", format!("cannot be made: {error}")))
}

/// Returns whether a command or the API wrote the version with this digest to the clients file at `path`, in one step.
/// Blocks.
pub fn was_written_by_command(path: &Path, digest: &Fingerprint) -> bool {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let digest = digest.to_string();
    Lock::noted(files::directory_of(&target)).is_some_and(|note| note.split(' ').any(|noted| noted == digest))
}

/// Locks the directory of `file`. Creates the directory, such as `config` for a first server, but not its parents: a
/// longer path that does not exist is more likely mistyped.
fn lock_beside(file: &Path) -> io::Result<Lock> {
    let directory = files::directory_of(file);
    if !directory.exists() && files::directory_of(directory).is_dir() {
        files::make_folder(directory)?;
    }
    directory.metadata().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))?;
    Lock::wait(directory)
}
