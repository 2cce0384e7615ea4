//! Hearing of it when a file has changed.
//!
//! Directories are watched, not the file: most editors and every deployment put a new file in the old one's place, and a
//! watch on the old one would never hear of that. On the way to the file every directory counts whose entry leads on:
//! the one the file is in, and those of the symbolic links before it (Kubernetes swaps such a link for a whole folder).

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// A change counts as made when nothing more has happened for so long: whoever writes a file does it in several steps.
const QUIET: Duration = Duration::from_millis(200);

/// Something that never comes to rest is looked at after so long.
const RESTLESS: Duration = Duration::from_secs(2);

/// A file that cannot be read for a reason that passes without a stir (no file descriptors, an I/O error) is looked at again
/// after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Symbolic links on the way to a file, at most; as on Linux.
const MAX_LINKS: usize = 40;

/// How often the way to the file is looked at again because it changed meanwhile.
const ATTEMPTS: usize = 8;

/// Watches one file, which need not be there yet. What is on the way to it may be replaced, too.
#[derive(Debug)]
pub struct Watch {
    inner: Arc<Mutex<Inner>>,
    stirred: Arc<Notify>,
    /// Something has stirred that was not looked at yet.
    is_stirred: bool,
    /// When it was last looked at, it could not be read for a reason that may pass.
    is_unread: bool,
    /// What it held when it was looked at; `None`: whatever it holds will be news.
    seen: Option<Contents>,
}

/// What a file holds: the digest, or nothing if it cannot be read.
type Contents = Option<[u8; 32]>;

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    watcher: RecommendedWatcher,
    /// The directories that are watched, and which ones these were.
    watched: BTreeMap<PathBuf, Identity>,
    /// The names in them that matter. All others may change as they like.
    names: Arc<Mutex<HashSet<OsString>>>,
}

impl Watch {
    /// Begins to watch `path`: what changes from now on is reported, so it is to be called before the file is read.
    ///
    /// # Errors
    /// The system cannot watch, or not that many directories, or this one must not be read.
    pub fn new(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let stirred = Arc::new(Notify::new());
        let names = Arc::<Mutex<HashSet<OsString>>>::default();
        let (stirs, matters) = (Arc::clone(&stirred), Arc::clone(&names));
        let heard = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| concerns(&event, &matters.lock())) {
                stirs.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(heard).map_err(to_io)?;
        let mut inner = Inner { path, watcher, watched: BTreeMap::new(), names };
        inner.follow()?;
        let (seen, is_unread) = inner.contents();
        Ok(Self { inner: Arc::new(Mutex::new(inner)), stirred, is_stirred: false, is_unread, seen: Some(seen) })
    }

    /// Resolves when the file holds something else than it did, or cannot be read any more, or can again: a moment after
    /// the last stir, so that what is written in several steps is one change. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            if !self.is_stirred {
                let limit = if self.is_unread { LOOK_AGAIN } else { Duration::MAX };
                let _ = timeout(limit, self.stirred.notified()).await;
                self.is_stirred = true;
            }
            let since = Instant::now();
            while since.elapsed() < RESTLESS && timeout(QUIET, self.stirred.notified()).await.is_ok() {}
            let inner = Arc::clone(&self.inner);
            let look = tokio::task::spawn_blocking(move || {
                let mut inner = inner.lock();
                if let Err(error) = inner.follow() {
                    tracing::warn!("cannot watch {} any more: {error}", inner.path.display());
                }
                inner.contents()
            });
            // It fails only when the runtime ends.
            let Ok((now, is_unread)) = look.await else { return };
            (self.is_stirred, self.is_unread) = (false, is_unread);
            if self.seen != Some(now) {
                self.seen = Some(now);
                return;
            }
        }
    }

    /// To be called by whoever reads the file at other times, too: what was read then may be gone when a stir is looked
    /// into, and the file hold what it did before. The next stir is a change, whatever the file holds.
    pub fn forget(&mut self) {
        self.seen = None;
    }
}

impl Inner {
    /// Watches what is on the way to the file now, and nothing else.
    fn follow(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            let way = way_to(&self.path);
            let wanted: BTreeMap<PathBuf, Identity> =
                way.iter().map(|(directory, _)| (directory.clone(), identity(directory))).collect();
            // A directory that is taken away, or put back, is named by its own name.
            let directories = wanted.keys().filter_map(|directory| directory.file_name());
            *self.names.lock() =
                way.iter().map(|(_, name)| name.as_os_str()).chain(directories).map(Into::into).collect();
            if result.is_ok() && wanted == self.watched {
                break;
            }
            result = self.watch(wanted);
        }
        result
    }

    fn watch(&mut self, wanted: BTreeMap<PathBuf, Identity>) -> io::Result<()> {
        let gone = self.watched.extract_if(.., |directory, is| wanted.get(directory) != Some(is));
        for (directory, _) in gone {
            // It fails if the directory itself is gone, and the watch with it.
            let _ = self.watcher.unwatch(&directory);
        }
        for (directory, is) in wanted {
            if !self.watched.contains_key(&directory) {
                self.watcher.watch(&directory, RecursiveMode::NonRecursive).map_err(to_io)?;
                self.watched.insert(directory, is);
            }
        }
        Ok(())
    }

    /// Returns what the file holds, and whether it could not be read for a reason that may pass.
    fn contents(&self) -> (Contents, bool) {
        // A pipe would keep us waiting.
        if !fs::metadata(&self.path).is_ok_and(|metadata| metadata.is_file()) {
            return (None, false);
        }
        match fs::read(&self.path) {
            Ok(contents) => (Some(Sha256::digest(contents).into()), false),
            Err(error) => (None, !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)),
        }
    }
}

/// Whether something may have happened to one of `names`. Being looked at is nothing.
fn concerns(event: &Event, names: &HashSet<OsString>) -> bool {
    let is_change = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    let named = event.paths.iter().any(|path| path.file_name().is_some_and(|name| names.contains(name)));
    event.need_rescan() || (is_change && (named || event.paths.is_empty()))
}

/// The directories whose entries lead to `path`, an absolute one, each with the entry: those of symbolic links, and the
/// one the file is in. Where something is missing the way ends. The directories' own paths are free of links.
fn way_to(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut way = Vec::new();
    let mut at = PathBuf::new();
    let mut ahead: VecDeque<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::Normal(name)) => {
                let next = at.join(name);
                let found = fs::symlink_metadata(&next);
                let target = found.as_ref().is_ok_and(|found| found.is_symlink()).then(|| fs::read_link(&next));
                if target.is_some() || found.is_err() || ahead.is_empty() {
                    way.push((at.clone(), name.to_owned()));
                }
                match target {
                    Some(Ok(target)) if links < MAX_LINKS => {
                        links += 1;
                        parts(&target).into_iter().rev().for_each(|part| ahead.push_front(part));
                    }
                    None if found.is_ok() => at = next,
                    _ => break,
                }
            }
            Some(Component::ParentDir) => {
                at.pop();
            }
            // An absolute one begins anew.
            Some(Component::RootDir | Component::Prefix(_)) => at.push(&part),
            Some(Component::CurDir) | None => {}
        }
    }
    way
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components().map(|part| part.as_os_str().to_owned()).collect()
}

/// By which a directory is told from another one that has taken its place.
type Identity = Option<(u64, u64)>;

#[cfg(unix)]
fn identity(directory: &Path) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Identity {
    None
}

fn to_io(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        notify::ErrorKind::PathNotFound => io::Error::from(io::ErrorKind::NotFound),
        notify::ErrorKind::MaxFilesWatch => io::Error::other("the system's limit of watched files is reached"),
        _ => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Readers, replace};

    /// Waits for a change.
    async fn soon(watch: &mut Watch) {
        timeout(Duration::from_secs(20), watch.changed()).await.expect("nothing was heard of the change");
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        // Some systems keep temporary files behind a link.
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    #[tokio::test]
    async fn a_file_may_be_written_replaced_removed_and_made_anew() {
        let (_dir, at) = folder();
        let path = at.join("agent.toml");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path).unwrap();
        fs::write(&path, "two").unwrap();
        soon(&mut watch).await;
        replace(&path, b"three", Readers::Owner).unwrap();
        soon(&mut watch).await;
        // Once more, for the file that has come in its place.
        fs::write(&path, "four").unwrap();
        soon(&mut watch).await;
        fs::remove_file(&path).unwrap();
        soon(&mut watch).await;
        fs::write(&path, "five").unwrap();
        soon(&mut watch).await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_swapped_link_to_a_folder_is_a_change() {
        use std::os::unix::fs::symlink;
        // As Kubernetes mounts a ConfigMap.
        let (_dir, at) = folder();
        for (version, text) in [("..v1", "one"), ("..v2", "two")] {
            fs::create_dir(at.join(version)).unwrap();
            fs::write(at.join(version).join("agent.toml"), text).unwrap();
        }
        symlink("..v1", at.join("..data")).unwrap();
        symlink("..data/agent.toml", at.join("agent.toml")).unwrap();
        let mut watch = Watch::new(&at.join("agent.toml")).unwrap();
        symlink("..v2", at.join("..data_new")).unwrap();
        fs::rename(at.join("..data_new"), at.join("..data")).unwrap();
        soon(&mut watch).await;
        // The way has changed, and is watched to its new end.
        fs::write(at.join("..v2/agent.toml"), "three").unwrap();
        soon(&mut watch).await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_folder_itself_may_be_replaced() {
        let (_dir, at) = folder();
        let make = |name: &str, text: &str| {
            fs::create_dir(at.join(name)).unwrap();
            fs::write(at.join(name).join("agent.toml"), text).unwrap();
        };
        make("config", "one");
        let mut watch = Watch::new(&at.join("config/agent.toml")).unwrap();
        make("other", "two");
        fs::rename(at.join("config"), at.join("old")).unwrap();
        fs::rename(at.join("other"), at.join("config")).unwrap();
        soon(&mut watch).await;
        fs::write(at.join("config/agent.toml"), "three").unwrap();
        soon(&mut watch).await;
        fs::remove_dir_all(at.join("config")).unwrap();
        soon(&mut watch).await;
        make("config", "four");
        soon(&mut watch).await;
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_nothing() {
        let (_dir, at) = folder();
        let path = at.join("agent.toml");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path).unwrap();
        fs::write(&path, "two").unwrap();
        let stirred = Arc::clone(&watch.stirred);
        timeout(Duration::from_secs(20), stirred.notified()).await.unwrap();
        stirred.notify_one();
        // In the middle of waiting for quiet.
        assert!(timeout(QUIET / 4, watch.changed()).await.is_err());
        soon(&mut watch).await;
    }

    #[tokio::test]
    async fn what_somebody_has_read_in_between_is_not_mistaken_for_what_was_there_before() {
        let (_dir, at) = folder();
        let path = at.join("agent.toml");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path).unwrap();
        fs::write(&path, "two").unwrap();
        // Here "two" is read.
        watch.forget();
        fs::write(&path, "one").unwrap();
        soon(&mut watch).await;
    }

    #[test]
    fn neighbours_and_readers_do_not_concern_it() {
        let names = ["agent.toml".into()].into();
        let event = |kind: EventKind, name: &str| Event::new(kind).add_path(Path::new("/etc/adit").join(name));
        let any = EventKind::Modify(notify::event::ModifyKind::Any);
        assert!(concerns(&event(any, "agent.toml"), &names));
        assert!(!concerns(&event(any, "adit.log"), &names));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert!(!concerns(&event(opened, "agent.toml"), &names));
        assert!(concerns(&event(EventKind::Access(AccessKind::Close(AccessMode::Write)), "agent.toml"), &names));
        assert!(concerns(&Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan), &names));
    }

    #[cfg(unix)]
    #[test]
    fn the_way_is_the_directories_that_decide() {
        use std::os::unix::fs::symlink;
        let (_dir, at) = folder();
        let way = |path: &str| {
            let show = |(directory, name): (PathBuf, OsString)| {
                format!("{}:{}", directory.strip_prefix(&at).unwrap().display(), name.display())
            };
            way_to(&at.join(path)).into_iter().map(show).collect::<Vec<_>>()
        };
        fs::create_dir_all(at.join("real/deep")).unwrap();
        fs::write(at.join("real/deep/file"), "").unwrap();
        symlink("real", at.join("link")).unwrap();
        symlink(at.join("link/deep/../deep/file"), at.join("entry")).unwrap();
        symlink("loop", at.join("loop")).unwrap();
        assert_eq!(way("real/deep/file"), ["real/deep:file"]);
        assert_eq!(way("entry"), [":entry", ":link", "real/deep:file"]);
        assert_eq!(way("link/missing/file"), [":link", "real:missing"]);
        assert_eq!(way("loop").len(), MAX_LINKS + 1);
    }
}
