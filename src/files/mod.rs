//! Small files that must be whole or absent, and secret where they hold a key.
//!
//! [`replace`] writes one so that no reader ever sees half of it; [`Lock`] keeps two processes from making the same
//! file at once. Both block: they are for start-up and for the command line. `owner` sees to it that root leaves nothing
//! behind which the server cannot read. [`Watch`] tells when a file has changed, and does not block. No room above is
//! imported.

mod owner;
mod watch;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

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

/// The right to make files in a directory, held by one process (and one holder in it) at a time; dropping it passes
/// it on. It lives in an empty file `.lock` there, which stays.
#[derive(Debug)]
#[must_use = "a lock that is dropped at once protects nothing"]
pub struct Lock(#[expect(dead_code, reason = "the lock is held for as long as the file is open")] File);

/// In each directory that was ever locked.
const LOCK_FILE: &str = ".lock";

impl Lock {
    /// Waits for the lock on `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// The directory cannot be made or written to, or its file system knows no locks.
    pub fn wait(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory).map_err(|error| with_path(error, "cannot make the directory", directory))?;
        let path = directory.join(LOCK_FILE);
        let lock = open_lock(&path, directory).and_then(|file| file.lock().map(|()| file));
        lock.map(Self).map_err(|error| with_path(error, "cannot lock", &path))
    }

    /// Whether a lock that is there could be had, sooner or later. Makes nothing.
    ///
    /// # Errors
    /// As [`Lock::wait`].
    pub fn look(directory: &Path) -> io::Result<()> {
        let path = directory.join(LOCK_FILE);
        match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(with_path(error, "cannot lock", &path)),
            _ => Ok(()),
        }
    }
}

fn open_lock(path: &Path, directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    set_mode(&mut options, Readers::Owner);
    match options.open(path) {
        // Only one that was made just now is given away: another one may be a link to anywhere.
        Ok(file) => owner::give_to_owner_of(&file, directory).map(|()| file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new().write(true).open(path),
        Err(error) => Err(error),
    }
}

/// The directory `path` is in: `.` for a bare file name.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether what this process makes in `directory`, or on the way to it, would belong to the same user as the directory, or
/// what there is of the way. A key that root makes in the folder of somebody else is of no use there. Where the system does
/// not tell, it is taken to be so.
pub fn is_ours(directory: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let mut there = directory;
        while !there.exists() && there != Path::new(".") {
            there = directory_of(there);
        }
        let owner = |path: &Path| fs::metadata(path).map(|facts| facts.uid()).ok();
        match (owner(Path::new("/proc/self")), owner(there)) {
            (Some(us), Some(owner)) => us == owner,
            _ => true,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = directory;
        true
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
    fn a_lock_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = Lock::wait(&dir.path().join("made/on/the/way")).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_of_somebody_else_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            is_ours(dir.path()) && is_ours(&dir.path().join("certs/deeper")) && is_ours(Path::new("no-such/folder"))
        );
        // Only root may give a folder away.
        if std::os::unix::fs::chown(dir.path(), Some(4711), None).is_ok() {
            assert!(!is_ours(dir.path()) && !is_ours(&dir.path().join("certs/deeper")));
        }
    }

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        assert_eq!(directory_of(Path::new("key")), Path::new("."));
        assert_eq!(directory_of(Path::new("a/key")), Path::new("a"));
    }
}
