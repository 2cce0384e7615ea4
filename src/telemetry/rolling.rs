//! A log file that makes room for the next one each day, and when it is large.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::LogState;
use super::lines::{Lines, Lost};
use crate::files::is_same;
use crate::telemetry::options::LogFile;

const DAY: u64 = 24 * 60 * 60;

/// How many seconds after another file could not be begun it is tried again, and how seldom standard error hears of lines
/// that are lost.
const TRY_AGAIN: u64 = 60;

/// Writes lines to a file. When the first line of another day comes, or the file is as large as it may be, it becomes
/// `….1`, that one `….2` and so on.
///
/// Days are those of UTC, as are the times in the lines: they have no midnight that comes twice or not at all. A file that is
/// there already is of the day when it was last written to. What is no file (a pipe, a device) is only written to. When
/// another program moves or deletes the file, the next lines go to a new one.
pub(super) struct Rolling {
    config: LogFile,
    /// Seconds since 1970.
    clock: Box<dyn FnMut() -> u64 + Send>,
    lines: Lines<File>,
    /// Of its lines, counted since 1970.
    day: u64,
    /// What the path led to when the file was opened.
    opened: fs::Metadata,
    is_file: bool,
    /// When another file could not be begun.
    stuck: Option<u64>,
    /// When standard error was last told that lines are lost.
    told: Option<u64>,
    state: LogState,
}

impl Rolling {
    /// Opens the file, and makes it if it is not there.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn open(config: &LogFile, state: LogState) -> io::Result<Self> {
        let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self::with_clock(config, state, Box::new(seconds))
    }

    fn with_clock(config: &LogFile, state: LogState, mut clock: Box<dyn FnMut() -> u64 + Send>) -> io::Result<Self> {
        let (file, found) = append_to(&config.path)?;
        let written = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let written = written.filter(|_| found.len() > 0).map(|since| since.as_secs());
        let day = written.unwrap_or_else(&mut clock) / DAY;
        let lines = Lines::new(file, found.len(), is_torn(&config.path, found.len()));
        let is_file = found.is_file();
        let config = config.clone();
        Ok(Self { config, clock, lines, day, opened: found, is_file, stuck: None, told: None, state })
    }

    /// A clock that is put right by less than a day goes on in the same file.
    fn is_due(&self, now: u64) -> bool {
        let today = now / DAY;
        let is_over = today > self.day || self.day > today + 1;
        self.is_file && self.lines.size() > 0 && (is_over || self.lines.size() >= self.config.size)
    }

    fn make_room(&mut self, now: u64) {
        self.write_out(now);
        let path = &self.config.path;
        match push_back(path, self.config.keep).and_then(|()| append_to(path)) {
            Ok((file, found)) => {
                self.lines = Lines::new(file, found.len(), false);
                self.opened = found;
                (self.day, self.stuck) = (now / DAY, None);
                self.state.stuck(None);
            }
            Err(error) => {
                self.stuck = Some(now);
                let why = format!("the log file {} grows, no other can be begun: {error}", path.display());
                tell(&why);
                self.state.stuck(Some(why));
            }
        }
    }

    /// Opens the file again if another program, like logrotate, has moved or deleted it. If that fails, the lines stay in the
    /// file that is open.
    fn follow(&mut self) {
        if !self.is_file || self.lines.is_empty() {
            return;
        }
        let is_moved = match fs::metadata(&self.config.path) {
            Ok(found) => !is_same(&found, &self.opened),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if is_moved && let Ok((file, found)) = append_to(&self.config.path) {
            self.lines.switch(file, found.len());
            self.is_file = found.is_file();
            self.opened = found;
        }
    }

    fn write_out(&mut self, now: u64) {
        self.follow();
        if let Err(Lost { lines, error }) = self.lines.write_out() {
            let why = format!("{} cannot be written: {error}", self.config.path.display());
            if is_long_ago(self.told, now) {
                self.told = Some(now);
                tell(&format!("lines of the log are lost: {why}"));
            }
            self.state.lost(lines, why);
        }
        self.state.look();
    }
}

impl Write for Rolling {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let now = (self.clock)();
        if self.is_due(now) && is_long_ago(self.stuck, now) {
            self.make_room(now);
        }
        if self.lines.size() == 0 {
            self.day = now / DAY;
        }
        self.lines.add(line);
        if self.lines.are_enough() {
            self.write_out(now);
        }
        Ok(line.len())
    }

    /// Nobody above could do anything about a failure: it is counted.
    fn flush(&mut self) -> io::Result<()> {
        let now = (self.clock)();
        self.write_out(now);
        Ok(())
    }
}

/// A clock that was put back must not make it wait.
fn is_long_ago(last: Option<u64>, now: u64) -> bool {
    last.is_none_or(|last| now.abs_diff(last) >= TRY_AGAIN)
}

/// Standard error may be gone: then nobody is told.
fn tell(what: &str) {
    let _ = writeln!(io::stderr(), "WARNING: {what}");
}

fn append_to(path: &Path) -> io::Result<(File, fs::Metadata)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let found = file.metadata()?;
    Ok((file, found))
}

/// Whether the last line of a file of this size has no end. One that may not be read is taken for whole.
fn is_torn(path: &Path, size: u64) -> bool {
    let last = || {
        let (mut file, mut last) = (File::open(path)?, [b'\n']);
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        io::Result::Ok(last != [b'\n'])
    };
    size > 0 && last().unwrap_or(false)
}

/// Makes every file an earlier one. A gap between them is filled first, so that nothing more is lost when it has to be tried
/// again.
fn push_back(path: &Path, keep: usize) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let free = (1..keep).find(|n| !earlier(path, *n).exists()).unwrap_or(keep);
    (0..free).rev().try_for_each(|n| fs::rename(earlier(path, n), earlier(path, n + 1)))
}

fn earlier(path: &Path, n: usize) -> PathBuf {
    let mut name = OsString::from(path);
    if n > 0 {
        name.push(format!(".{n}"));
    }
    name.into()
}

#[cfg(test)]
mod tests;
