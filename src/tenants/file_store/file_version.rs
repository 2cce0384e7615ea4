//! Detects changes of a file without reading it.

use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Metadata of a file that changes whenever the file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileVersion {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and when the inode changed, in seconds and nanoseconds.
    inode: (u64, u64, i64, i64),
}

impl FileVersion {
    /// Returns the version of the file at `path`, following links; `None` if the metadata cannot be read, which then stands for
    /// the file's state. Blocks.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata: io::Result<_> = std::fs::metadata(path);
        metadata.ok().map(|metadata| Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            inode: inode(&metadata),
        })
    }
}

#[cfg(unix)]
fn inode(metadata: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    (0, 0, 0, 0)
}
