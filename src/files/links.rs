//! Whose links are followed. Root may be led astray by a link in a folder that is somebody else's.

use std::fs;
use std::io;
use std::path::Path;

use super::{directory_of, owner};

/// As many as Linux follows.
const MAX_LINKS: usize = 40;

/// Looks at each symbolic link on the way to `path`, and at itself. A link of root's, of this process's user or of the owner
/// of what it leads to is as good as the place itself; anybody else could have the process write where they may not.
///
/// What happens to the links afterwards is not seen. On systems without Unix owners every link is as good.
///
/// # Errors
/// The first link that is none of these; the message names it.
pub fn refuse_foreign(path: &Path) -> io::Result<()> {
    follow(path, &mut 0)
}

fn follow(path: &Path, links: &mut usize) -> io::Result<()> {
    for place in path.ancestors().filter(|place| !place.as_os_str().is_empty()) {
        // What cannot be looked at is no link that leads anywhere.
        let (Ok(link), Ok(target)) = (fs::symlink_metadata(place), fs::metadata(place)) else { continue };
        if !link.is_symlink() || *links >= MAX_LINKS {
            continue;
        }
        *links += 1;
        if !owner::may_link(&link, &target) {
            let message = format!(
                "{} is a link whose owner is neither root nor the owner of what it leads to; give it to one of them \
                 (`chown -h`)",
                place.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        follow(&directory_of(place).join(fs::read_link(place)?), links)?;
    }
    Ok(())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    #[test]
    fn links_of_root_and_of_the_owner_of_their_target_are_followed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        fs::create_dir(place("folder")).unwrap();
        fs::write(place("folder/file"), "").unwrap();
        symlink("folder", place("to-folder")).unwrap();
        symlink("to-folder/file", place("to-file")).unwrap();
        symlink("nowhere", place("to-nowhere")).unwrap();
        symlink("loop", place("loop")).unwrap();
        for path in ["folder/file", "to-folder", "to-folder/file", "to-folder/new", "to-file", "to-nowhere", "loop"] {
            refuse_foreign(&place(path)).unwrap();
        }
        // Only root may give links away.
        if lchown(place("to-folder"), Some(4711), None).is_err() {
            return;
        }
        for path in ["to-folder", "to-folder/file", "to-folder/new", "to-file"] {
            let error = refuse_foreign(&place(path)).unwrap_err().to_string();
            assert!(error.contains("to-folder is a link whose owner"), "{path}: {error}");
        }
        chown(place("folder"), Some(4711), None).unwrap();
        refuse_foreign(&place("to-file")).unwrap();
    }
}
