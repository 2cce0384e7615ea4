//! A file by which a running process is known, with what it says to others.
//!
//! The process holds a lock on it for as long as it lives, however it ends; the file stays. Several processes may hold one
//! together, and the one that spoke last is heard.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::lock::open_existing;
use super::{Readers, directory_of, links, owner, set_mode, with_path};

/// Bytes of the longest text.
const MAX_TEXT: u64 = 64 * 1024;

/// This process, as others see it.
#[derive(Debug)]
#[must_use = "the process is known for as long as this lives"]
pub struct Presence(File);

/// What another process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Present {
    /// No process holds the file.
    Nobody,
    /// A process holds it and has said this, or nothing yet.
    Says(String),
}

impl Presence {
    /// Makes this process known by the file at `path`, which is made if it is missing. Blocks for a moment while another
    /// process looks.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn claim(path: &Path) -> io::Result<Self> {
        let named = |error| with_path(error, "cannot make", path);
        links::refuse_foreign(directory_of(path))?;
        let file = open(path).map_err(named)?;
        file.lock_shared().map_err(named)?;
        Ok(Self(file))
    }

    /// Says `text` from now on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn say(&self, text: &str) -> io::Result<()> {
        let mut file = &self.0;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text.as_bytes())
    }
}

/// Whether a process is known by the file at `path`, and what it says; `None`, if there is no such file.
///
/// # Errors
/// The file cannot be read, is no regular file, or its file system has no locks.
pub fn presence(path: &Path) -> io::Result<Option<Present>> {
    let named = |error| with_path(error, "cannot read", path);
    let file = match open_existing(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(named)?,
    };
    match file.try_lock() {
        // The lock ends with the file, here.
        Ok(()) => return Ok(Some(Present::Nobody)),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(named(error)),
    }
    let mut text = String::new();
    file.take(MAX_TEXT).read_to_string(&mut text).map_err(named)?;
    Ok(Some(Present::Says(text)))
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    set_mode(&mut options, Readers::Owner);
    match options.open(path) {
        // Only one that was made just now is given away: another one may be anybody's.
        Ok(file) => owner::give_to_owner_of(&file, directory_of(path)).map(|()| file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_existing(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_for_as_long_as_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known");
        assert_eq!(presence(&path).unwrap(), None);
        let one = Presence::claim(&path).unwrap();
        assert_eq!(presence(&path).unwrap(), Some(Present::Says(String::new())));
        one.say("a longer text").unwrap();
        one.say("a text").unwrap();
        assert_eq!(presence(&path).unwrap(), Some(Present::Says("a text".to_owned())));
        let other = Presence::claim(&path).unwrap();
        drop(one);
        assert_eq!(presence(&path).unwrap(), Some(Present::Says("a text".to_owned())), "there is another one");
        drop(other);
        assert_eq!(presence(&path).unwrap(), Some(Present::Nobody));
        drop(Presence::claim(&path).unwrap());
        assert_eq!(presence(&path).unwrap(), Some(Present::Nobody), "and again");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("known"), dir.path().join("elsewhere"));
        std::fs::write(&elsewhere, "").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(presence(&path).is_err() && Presence::claim(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(presence(&path).is_err() && Presence::claim(&path).is_err());
    }
}
