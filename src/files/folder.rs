//! Folders that are made on the way to a file.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{directory_of, owner, with_path};

/// Makes `folder`, and what is missing on the way to it. Each that is made belongs to the owner of the folder that it is
/// in, if this process may give it away. One that is there already stays as it is.
///
/// # Errors
/// As the file system reports them, with the path in the message.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = directory_of(folder);
    if folder != parent {
        make_folder(parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => give(folder, parent),
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| with_path(error, "cannot make the directory", folder))
}

fn give(made: &Path, parent: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    // The owner of the parent may have put another thing in its place: the `.` keeps from waiting for a pipe, and what was
    // opened through a link is not what is there.
    let opened = File::open(made.join("."))?;
    let found = fs::symlink_metadata(made)?;
    if !owner::is_same(&found, &opened.metadata()?) {
        return Err(io::Error::other("somebody has replaced it"));
    }
    owner::give_to_owner_of(&opened, parent)
}

/// Whether this process could make a file in `folder`, or in what is there of the way to it. Leaves nothing behind.
///
/// # Errors
/// As the file system reports them, with the path in the message.
pub fn look_at_place(folder: &Path) -> io::Result<()> {
    let there = what_is_there(folder);
    // One without a name, which is gone at once.
    tempfile::tempfile_in(there).map(drop).map_err(|error| {
        // It may come with the name of the file that was not made.
        let error = error.raw_os_error().map_or(error, io::Error::from_raw_os_error);
        match there == folder {
            true => with_path(error, "cannot write in the directory", folder),
            false => with_path(error, "cannot make the directory", folder),
        }
    })
}

/// `folder`, or as much of the way to it as is there.
pub(super) fn what_is_there(folder: &Path) -> &Path {
    let is_missing =
        |path: &Path| matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound);
    let mut there = folder;
    while is_missing(there) && there != directory_of(there) {
        there = directory_of(there);
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_once_and_say_why_they_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        look_at_place(&deep).unwrap();
        assert!(!dir.path().join("a").exists());
        make_folder(&deep).unwrap();
        make_folder(&deep).unwrap();
        assert!(deep.is_dir());
        look_at_place(&deep).unwrap();
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
        fs::write(deep.join("file"), "").unwrap();
        for folder in [deep.join("file"), deep.join("file/below")] {
            assert!(look_at_place(&folder).is_err());
            let error = make_folder(&folder).unwrap_err().to_string();
            assert!(error.contains("cannot make the directory") && error.contains("c/file"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_root_makes_on_the_way_belongs_to_the_owner_of_the_folder() {
        use std::os::unix::fs::{MetadataExt as _, chown};
        let dir = tempfile::tempdir().unwrap();
        // Only root may give a folder away.
        if chown(dir.path(), Some(4711), Some(4712)).is_err() {
            return;
        }
        make_folder(&dir.path().join("var/certs")).unwrap();
        for made in ["var", "var/certs"] {
            let made = fs::metadata(dir.path().join(made)).unwrap();
            assert_eq!((made.uid(), made.gid()), (4711, 4712));
        }
    }
}
