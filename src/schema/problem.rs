//! What is wrong with a configuration: everything at once, each with the place to look at.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
///
/// The message says what is wrong and what to do. It never repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a key path such as `tunnel.tls.cert` or `services[1].local`, a place in the text such as
    /// `line 3, column 8`, or nothing when the file as a whole is meant.
    pub key: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// Every problem of one configuration; there is at least one.
///
/// Printed, it is one line for each problem: `<file>: <key path>: <what is wrong and what to do>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file that was read; `None` when environment and flags were all there was.
    pub file: Option<PathBuf>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl ConfigErrors {
    /// A single problem.
    pub(crate) fn one(file: Option<PathBuf>, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file, problems: vec![Problem { key: key.into(), message: message.into() }] }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            if let Some(file) = &self.file {
                write!(f, "{}: ", file.display())?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_gets_its_own_line_with_file_and_key() {
        let mut errors = ConfigErrors::one(Some("server.toml".into()), "public.domain", "is empty");
        errors.problems.push(Problem { key: String::new(), message: "cannot be read".into() });
        assert_eq!(errors.to_string(), "server.toml: public.domain: is empty\nserver.toml: cannot be read");
        errors.file = None;
        assert_eq!(errors.to_string(), "public.domain: is empty\ncannot be read");
    }
}
