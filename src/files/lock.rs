//! One at a time makes files in a folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::{Readers, links, look_at_place, make_folder, owner, set_mode, with_path};

/// The right to make files in a directory, held by one process (and one holder in it) at a time; dropping it passes
/// it on. It lives in a file `.lock` there, which stays; its holder may leave a note in it.
#[derive(Debug)]
#[must_use = "a lock that is dropped at once protects nothing"]
pub struct Lock(File);

/// Bytes of the longest note.
const MAX_NOTE: u64 = 256;

/// In each directory that was ever locked.
const LOCK_FILE: &str = ".lock";

impl Lock {
    /// Waits for the lock on `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// The directory cannot be made or written to, somebody else's link is on the way to it, what is called `.lock` there
    /// is no file, or its file system knows no locks.
    pub fn wait(directory: &Path) -> io::Result<Self> {
        links::refuse_foreign(directory)?;
        make_folder(directory)?;
        let path = directory.join(LOCK_FILE);
        let lock = open(&path, directory).and_then(|file| file.lock().map(|()| file));
        lock.map(Self).map_err(|error| with_path(error, "cannot lock", &path))
    }

    /// Leaves a note for those who read [`Lock::noted`], in place of an earlier one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note(&self, text: &str) -> io::Result<()> {
        let mut file = &self.0;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text.as_bytes())
    }

    /// The note that the last holder of the lock on `directory` left, if there is one that can be read.
    pub fn noted(directory: &Path) -> Option<String> {
        let file = open_existing(&directory.join(LOCK_FILE)).ok()?;
        let mut note = String::new();
        file.take(MAX_NOTE).read_to_string(&mut note).ok()?;
        Some(note).filter(|note| !note.is_empty())
    }

    /// Whether it could be had, sooner or later. Leaves nothing behind.
    ///
    /// # Errors
    /// As [`Lock::wait`].
    pub fn look(directory: &Path) -> io::Result<()> {
        links::refuse_foreign(directory)?;
        let path = directory.join(LOCK_FILE);
        match open_existing(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => look_at_place(directory),
            opened => opened.map(drop).map_err(|error| with_path(error, "cannot lock", &path)),
        }
    }
}

fn open(path: &Path, directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    set_mode(&mut options, Readers::Owner);
    match options.open(path) {
        // Only one that was made just now is given away: another one may be anybody's.
        Ok(file) => owner::give_to_owner_of(&file, directory).map(|()| file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_existing(path),
        Err(error) => Err(error),
    }
}

/// Whoever owns the folder may have put anything there: a link would lead elsewhere, and a pipe would be waited for.
pub(super) fn open_existing(path: &Path) -> io::Result<File> {
    let found = fs::symlink_metadata(path)?;
    let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "it is no file; remove it");
    if !found.is_file() {
        return Err(no_file());
    }
    // For reading and writing: then not even a pipe that has just taken its place is waited for.
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if owner::is_same(&found, &file.metadata()?) { Ok(file) } else { Err(no_file()) }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_last_holder_of_a_lock_leaves_a_note() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lock::noted(dir.path()), None);
        let lock = Lock::wait(dir.path()).unwrap();
        assert_eq!(Lock::noted(dir.path()), None);
        lock.note("a longer note").unwrap();
        lock.note("a note").unwrap();
        drop(lock);
        assert_eq!(Lock::noted(dir.path()).as_deref(), Some("a note"));
        drop(Lock::wait(dir.path()).unwrap());
        assert_eq!(Lock::noted(dir.path()).as_deref(), Some("a note"), "taking the lock alone leaves it");
    }

    #[test]
    fn a_look_at_a_lock_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("certs");
        Lock::look(&folder).unwrap();
        assert!(!folder.exists());
        drop(Lock::wait(&folder).unwrap());
        Lock::look(&folder).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(Lock::look(&dir.path().join("file")).is_err() && Lock::look(&dir.path().join("file/x")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join(LOCK_FILE);
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "").unwrap();
        let refused = || {
            for error in [Lock::wait(dir.path()).unwrap_err(), Lock::look(dir.path()).unwrap_err()] {
                assert!(error.to_string().contains(".lock: it is no file"), "{error}");
            }
        };
        std::os::unix::fs::symlink(&elsewhere, &lock).unwrap();
        refused();
        fs::remove_file(&lock).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&lock).status().unwrap().success());
        refused();
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_behind_somebody_elses_link_is_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("folder"), dir.path().join("certs"));
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        Lock::look(&link).unwrap();
        // Only root may give a link away.
        if std::os::unix::fs::lchown(&link, Some(4711), None).is_err() {
            return;
        }
        for error in [Lock::wait(&link).unwrap_err(), Lock::look(&link).unwrap_err()] {
            assert!(error.to_string().contains("certs is a link whose owner"), "{error}");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
