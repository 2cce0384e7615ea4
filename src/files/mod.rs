//! Small files that must be whole or absent, and secret where they hold a key.
//!
//! [`replace`] writes one so that no reader ever sees half of it; [`Lock`] keeps two processes from making the same
//! file at once; [`make_folder`] makes the folder for both. All block: they are for start-up and for the command line.
//! [`Presence`] makes a running process known to others. `owner` sees to it that root leaves nothing behind which the server cannot read, and `links` that nobody leads root to
//! what is not theirs. [`Watch`] tells when a file has changed, and does not block. This module imports no other.

mod folder;
mod links;
mod lock;
mod owner;
mod presence;
mod watch;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub use folder::{look_at_place, make_folder};
pub use links::refuse_foreign;
pub use lock::Lock;
pub use owner::{is_ours, is_same};
pub use presence::{Presence, Present, presence};
pub use watch::Watch;

/// Who may read a file that is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone (mode 0600).
    Owner,
    /// Whoever gets at it (mode 0644, less what the umask takes away).
    Everyone,
}

/// Writes `contents` to `path`, in place of what may be there, so that a reader finds the old file or the new one
/// and never a part. A file that is replaced keeps its owner, group and mode; a new one is for `readers` and belongs to
/// the owner of its folder, if this process may give files away. On systems without Unix modes the file gets the rights
/// that its directory hands down.
///
/// # Errors
/// As the file system reports them, with the path in the message. The old file is then untouched. One of them is that
/// the old file's owner is somebody to whom this process may not give files, and the folder is not its own.
pub fn replace(path: &Path, contents: &[u8], readers: Readers) -> io::Result<()> {
    let named = |error| with_path(error, "cannot write", path);
    let temporary = beside(path).map_err(named)?;
    let written = write_new(&temporary, contents, readers, path).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to report; the leftover is empty or harmless, and has a name of its own.
        let _ = fs::remove_file(&temporary);
        return Err(named(error));
    }
    sync_directory(directory_of(path)).map_err(named)
}

/// Reads the whole of `path`, or `None` if there is no such file.
///
/// # Errors
/// As the file system reports them, with the path in the message.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(with_path(error, "cannot read", path)),
    }
}

/// The directory `path` is in: `.` for a bare file name.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A fresh name in the directory of `path`, so that renaming stays within one file system.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    Ok(directory_of(path).join(format!(".{}.{random:016x}.new", name.display())))
}

fn write_new(path: &Path, contents: &[u8], readers: Readers, before: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    set_mode(&mut options, readers);
    let mut file = options.open(path)?;
    file.write_all(contents)?;
    owner::settle(&file, before, directory_of(before))?;
    file.sync_all()
}

#[cfg(unix)]
fn set_mode(options: &mut OpenOptions, readers: Readers) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(match readers {
        Readers::Owner => 0o600,
        Readers::Everyone => 0o644,
    });
}

#[cfg(not(unix))]
fn set_mode(_: &mut OpenOptions, _: Readers) {}

/// Makes the new name last through a loss of power.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

fn with_path(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert_eq!(read_if_there(&path).unwrap(), None);
        replace(&path, b"a long first text", Readers::Owner).unwrap();
        replace(&path, b"short", Readers::Owner).unwrap();
        assert_eq!(read_if_there(&path).unwrap().unwrap(), b"short");
        assert_eq!(names_in(dir.path()), ["key"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = dir.path().join("key");
        replace(&path, b"secret", Readers::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        let public = dir.path().join("public");
        replace(&public, b"public", Readers::Everyone).unwrap();
        assert_eq!(mode(&public) & 0o600, 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn access_stays_as_it_was_and_begins_with_the_owner_alone() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clients.toml");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        replace(&path, b"first", Readers::Owner).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        // Only root may give a file away; for anyone else the owner stays anyway.
        let given_away = std::os::unix::fs::chown(&path, Some(4711), Some(4712)).is_ok();
        replace(&path, b"second", Readers::Owner).unwrap();
        assert_eq!(mode(), 0o664, "no umask takes a bit away");
        if given_away {
            let now = fs::metadata(&path).unwrap();
            assert_eq!((now.uid(), now.gid()), (4711, 4712));
        }
        assert_eq!(names_in(dir.path()), ["clients.toml"]);
    }

    #[test]
    fn a_failure_names_the_path_and_leaves_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("taken");
        fs::create_dir(&target).unwrap();
        let error = replace(&target, b"x", Readers::Owner).unwrap_err();
        assert!(error.to_string().contains(&*target.to_string_lossy()), "{error}");
        assert_eq!(names_in(dir.path()), ["taken"]);
        let error = replace(&dir.path().join("no/such"), b"x", Readers::Owner).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        assert_eq!(directory_of(Path::new("key")), Path::new("."));
        assert_eq!(directory_of(Path::new("a/key")), Path::new("a"));
    }
}
