//! Whether a log file could be written, for who only looks.

use std::fs::OpenOptions;
use std::io;

use crate::telemetry::options::LogOptions;

/// Whether logs could be started with this configuration. A file that is there stays as it is, and none is made. Blocks.
///
/// # Errors
/// The file cannot be written, or its folder is not there or cannot be written; the message names the file.
pub fn check_log_file(config: &LogOptions) -> io::Result<()> {
    let Some(file) = &config.file else { return Ok(()) };
    let path = &file.path;
    let there = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // A pipe would wait until somebody reads it.
        Ok(found) if !found.is_file() => Ok(()),
        Ok(_) => OpenOptions::new().append(true).open(path).map(drop),
        // One without a name, which is gone at once: the folder alone says whether there may be another.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = file.folder();
            std::fs::metadata(folder).and_then(|_| tempfile::tempfile_in(folder)).map(drop)
        }
        Err(error) => Err(error),
    };
    there.map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::telemetry::options::LogFile;

    fn check(path: &Path) -> Result<(), String> {
        let file = Some(LogFile { path: path.to_owned(), size: 1_024, keep: 1 });
        check_log_file(&LogOptions { file, ..LogOptions::plain("info") }).map_err(|error| error.to_string())
    }

    #[test]
    fn a_look_says_what_a_start_would_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adit.log");
        check(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(&path, "a line\n").unwrap();
        check(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a line\n");
        let nowhere = dir.path().join("nowhere/adit.log");
        assert!(check(&nowhere).unwrap_err().contains("nowhere/adit.log"));
        assert!(!dir.path().join("nowhere").exists());
        assert!(check(dir.path()).is_err(), "a folder is no file");
        check_log_file(&LogOptions::plain("info")).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_that_nobody_reads_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        check(&pipe).unwrap();
    }
}
