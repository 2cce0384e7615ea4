//! Whose a file is. Root may run what writes it, while a server that is not root has to read it later.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::folder::what_is_there;

/// Gives `file` the owner, group and permissions that `before` has, if there is such a file; otherwise the owner of
/// `folder`, in which it is.
///
/// Where this process may not give files away, what replaces another one stays its own only in a folder of its own: it
/// then has the permissions of a new file. A link says nothing of what is to be in its place.
pub(super) fn settle(file: &File, before: &Path, folder: &Path) -> io::Result<()> {
    match fs::symlink_metadata(before) {
        Ok(before) if before.is_symlink() => give_to_owner_of(file, folder),
        Ok(before) => match give(file, &before) {
            Ok(()) => file.set_permissions(permissions_of(&before)),
            Err(error) if is_refused(&error) && is_owned_alike(&file.metadata()?, &fs::metadata(folder)?) => Ok(()),
            Err(error) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => give_to_owner_of(file, folder),
        Err(error) => Err(error),
    }
}

/// Gives `file` to the owner of `folder`, if this process may do so.
pub(super) fn give_to_owner_of(file: &File, folder: &Path) -> io::Result<()> {
    let folder = fs::metadata(folder)?;
    if is_owned_alike(&file.metadata()?, &folder) {
        return Ok(());
    }
    match give(file, &folder) {
        Err(error) if is_refused(&error) => Ok(()),
        given => given,
    }
}

/// Whether what this process makes in `directory`, or on the way to it, would belong to the same user as the directory, or
/// what there is of the way; and if that is a link, whether the link is that user's, too. A key that root makes in the
/// folder of somebody else is of no use there. Where the system does not tell, it is taken to be so.
pub fn is_ours(directory: &Path) -> bool {
    let there = what_is_there(directory);
    let Some(us) = us() else { return true };
    [fs::symlink_metadata(there), fs::metadata(there)].into_iter().flatten().all(|facts| is_of(&facts, us))
}

/// Whether whoever may change `target` anyway has made `link`; or root, or this process's user.
#[cfg(unix)]
pub(super) fn may_link(link: &fs::Metadata, target: &fs::Metadata) -> bool {
    is_of(link, 0) || is_owned_alike(link, target) || us().is_none_or(|us| is_of(link, us))
}

#[cfg(not(unix))]
pub(super) fn may_link(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// The user of this process: whoever a new file belongs to. `/proc` is not everywhere, and is root's for a program with
/// capabilities.
#[cfg(unix)]
fn us() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let made = tempfile::tempfile().and_then(|file| file.metadata());
    made.or_else(|_| fs::metadata("/proc/self")).map(|facts| facts.uid()).ok()
}

#[cfg(not(unix))]
fn us() -> Option<u32> {
    None
}

#[cfg(unix)]
fn is_of(file: &fs::Metadata, user: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.uid() == user
}

#[cfg(not(unix))]
fn is_of(_: &fs::Metadata, _: u32) -> bool {
    true
}

/// Returns whether both describe the same file.
#[cfg(unix)]
pub fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Returns whether both describe the same file. Where files have no numbers, it is assumed.
#[cfg(not(unix))]
pub fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// Only root gives away; some container's root may not, or knows the other user by no number.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
}

#[cfg(unix)]
fn give(file: &File, to: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (to.uid(), to.gid()) {
        std::os::unix::fs::fchown(file, Some(to.uid()), Some(to.gid()))?;
    }
    Ok(())
}

/// Whether both have the same owner; the group may be another one.
#[cfg(unix)]
fn is_owned_alike(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    one.uid() == other.uid()
}

/// Without what lets a program run as its owner.
#[cfg(unix)]
fn permissions_of(file: &fs::Metadata) -> fs::Permissions {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    fs::Permissions::from_mode(file.mode() & 0o777)
}

#[cfg(not(unix))]
fn permissions_of(file: &fs::Metadata) -> fs::Permissions {
    file.permissions()
}

#[cfg(not(unix))]
fn give(_: &File, _: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn is_owned_alike(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

    use super::super::{Lock, Readers, replace};
    use super::*;

    /// Somebody else's; `None` if these tests may not give files away, because root does not run them.
    fn somebodys_folder() -> Option<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(4711), Some(4712)).is_ok().then_some(dir)
    }

    fn owner(path: &Path) -> (u32, u32) {
        let metadata = fs::metadata(path).unwrap();
        (metadata.uid(), metadata.gid())
    }

    #[test]
    fn what_root_makes_anew_belongs_to_the_owner_of_the_folder() {
        let Some(dir) = somebodys_folder() else { return };
        let path = dir.path().join("server.key");
        replace(&path, b"key", Readers::Owner).unwrap();
        assert_eq!(owner(&path), (4711, 4712));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(Lock::wait(dir.path()).unwrap());
        assert_eq!(owner(&dir.path().join(".lock")), (4711, 4712));
    }

    #[test]
    fn a_link_that_is_replaced_gives_nothing_of_its_target_on() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "theirs").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o666)).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(&link, b"a secret", Readers::Owner).unwrap();
        let now = fs::symlink_metadata(&link).unwrap();
        assert_eq!((now.is_file(), now.mode() & 0o777), (true, 0o600));
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("folder", &link).unwrap();
        for missing in [false, true] {
            if missing {
                fs::create_dir(dir.path().join("folder")).unwrap();
            }
            assert!(is_ours(dir.path()) && is_ours(&dir.path().join("certs/deeper")) && is_ours(&link));
        }
        assert!(is_ours(Path::new("no-such/folder")));
        // Only root may give a folder away.
        if chown(dir.path(), Some(4711), None).is_ok() {
            assert!(!is_ours(dir.path()) && !is_ours(&dir.path().join("certs/deeper")));
            assert!(is_ours(&link));
            std::os::unix::fs::lchown(&link, Some(4711), None).unwrap();
            assert!(!is_ours(&link), "it leads to ours, and may lead elsewhere tomorrow");
        }
    }

    #[test]
    fn what_is_replaced_keeps_owner_and_mode_whoever_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        for (name, readers) in [("key", Readers::Owner), ("certificate", Readers::Everyone)] {
            let path = dir.path().join(name);
            fs::write(&path, "before").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let given_away = chown(&path, Some(4711), Some(4712)).is_ok();
            replace(&path, b"now", readers).unwrap();
            let now = fs::metadata(&path).unwrap();
            assert_eq!(now.mode() & 0o777, 0o640, "{name}");
            assert!(!given_away || owner(&path) == (4711, 4712), "{name}");
        }
    }
}
