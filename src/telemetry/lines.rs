//! Whole lines on their way to whatever takes them: written many at a time, and counted when they cannot be.

use std::io::{self, Write};

use super::LogState;

/// So many bytes are written at once at most.
const CHUNK: usize = 64 * 1024;

/// What could not be written.
pub(super) struct Lost {
    pub(super) lines: u64,
    pub(super) error: io::Error,
}

/// Lines that wait for [`Lines::write_out`].
pub(super) struct Lines<W> {
    to: W,
    written: u64,
    waiting: Vec<u8>,
    /// Where each line that waits ends.
    ends: Vec<usize>,
    /// The last line that was written has no end: the next one must not be taken for the rest of it.
    is_torn: bool,
}

impl<W: Write> Lines<W> {
    /// `written` is what `to` holds already, in bytes, and `is_torn` whether the last line of it has no end.
    pub(super) fn new(to: W, written: u64, is_torn: bool) -> Self {
        Self { to, written, waiting: Vec::new(), ends: Vec::new(), is_torn }
    }

    /// Adds one, its end included.
    pub(super) fn add(&mut self, line: &[u8]) {
        if self.waiting.is_empty() && self.is_torn {
            self.waiting.push(b'\n');
        }
        self.waiting.extend_from_slice(line);
        self.ends.push(self.waiting.len());
    }

    /// Whether it is time for [`Lines::write_out`].
    pub(super) fn are_enough(&self) -> bool {
        self.waiting.len() >= CHUNK
    }

    /// Returns whether no line waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of all lines, those that wait included.
    pub(super) fn size(&self) -> u64 {
        self.written + self.waiting.len() as u64
    }

    /// Continues in `to`, which holds `written` bytes. What waits goes there, too.
    pub(super) fn switch(&mut self, to: W, written: u64) {
        (self.to, self.written, self.is_torn) = (to, written, false);
    }

    /// Writes what waits. What cannot be written is gone.
    pub(super) fn write_out(&mut self) -> Result<(), Lost> {
        let (mut done, mut failed) = (0, None);
        while done < self.waiting.len() && failed.is_none() {
            match self.to.write(&self.waiting[done..]) {
                Ok(0) => failed = Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => failed = Some(error),
            }
        }
        self.written += done as u64;
        let lines = self.ends.iter().filter(|end| **end > done).count() as u64;
        if let Some(last) = done.checked_sub(1) {
            self.is_torn = failed.is_some() && self.waiting[last] != b'\n';
        }
        self.waiting.clear();
        self.ends.clear();
        failed.map_or(Ok(()), |error| Err(Lost { lines, error }))
    }
}

/// Lines for what is no file of ours: standard error.
pub(super) struct Stream<W> {
    lines: Lines<W>,
    state: LogState,
}

impl<W: Write> Stream<W> {
    pub(super) fn new(to: W, state: LogState) -> Self {
        Self { lines: Lines::new(to, 0, false), state }
    }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line);
        if self.lines.are_enough() {
            self.flush()?;
        }
        Ok(line.len())
    }

    /// Nobody above could do anything about a failure: it is counted.
    fn flush(&mut self) -> io::Result<()> {
        if let Err(Lost { lines, error }) = self.lines.write_out() {
            self.state.lost(lines, format!("standard error cannot be written: {error}"));
        }
        self.state.look();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk {
        room: usize,
        holds: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= n;
            self.holds.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn write(lines: &mut Lines<Disk>, new: &[&str]) -> u64 {
        new.iter().for_each(|line| lines.add(line.as_bytes()));
        lines.write_out().map_or_else(|lost| lost.lines, |()| 0)
    }

    #[test]
    fn a_line_that_was_torn_by_a_full_disk_does_not_garble_the_next() {
        let mut lines = Lines::new(Disk { room: 12, holds: Vec::new() }, 0, false);
        assert_eq!(write(&mut lines, &["first\n", "second\n", "third\n"]), 2, "the torn one is lost, too");
        assert_eq!(write(&mut lines, &["fourth\n"]), 1);
        lines.to.room = 100;
        assert_eq!(write(&mut lines, &["fifth\n", "sixth\n"]), 0);
        assert_eq!(String::from_utf8_lossy(&lines.to.holds), "first\nsecond\nfifth\nsixth\n");
        assert_eq!(lines.size(), lines.to.holds.len() as u64);
    }

    #[test]
    fn what_a_disk_has_taken_whole_is_not_lost() {
        let mut lines = Lines::new(Disk { room: 6, holds: Vec::new() }, 0, false);
        assert_eq!(write(&mut lines, &["first\n", "second\n"]), 1);
        lines.to.room = 100;
        assert_eq!(write(&mut lines, &["third\n"]), 0);
        assert_eq!(lines.to.holds, b"first\nthird\n", "and no line is empty");
    }

    #[test]
    fn lines_that_a_closed_standard_error_does_not_take_are_counted() {
        let state = LogState::default();
        let mut plain = Stream::new(Disk { room: 0, holds: Vec::new() }, state.clone());
        plain.write_all(b"one\n").unwrap();
        plain.write_all(b"two\n").unwrap();
        plain.flush().unwrap();
        assert_eq!(state.lost_lines(), 2);
        assert!(state.problems()[0].contains("standard error"), "{:?}", state.problems());
    }
}
