//! The token of `agent.toml`: from the file itself, a token file, or the environment.

use std::path::PathBuf;

use super::secret_file;
use crate::schema::{Entry, Origin, Report, TOKEN_VARIABLE, Table, key};
use crate::values::{Secret, bare};

/// More than any token has, and less than would not fit a login, in bytes.
const MAX_TOKEN: usize = 1024;

/// A token, and the file it was read from.
pub(super) type FoundToken = (Secret, Option<PathBuf>);

/// Where a token may come from.
enum TokenSource<'r> {
    Text(Entry<'r>),
    File(Entry<'r>),
    Variable(String),
}

/// The token from the highest layer that has one, if any has; two in one layer are refused.
pub(super) fn read(root: &mut Table<'_>, variable: Option<&str>) -> Option<Option<FoundToken>> {
    let report = root.report();
    let mut sources: Vec<(Origin, TokenSource<'_>)> = Vec::new();
    let text = key::any("a text").without("required, or one of `token_file`, `ADIT_TOKEN` and a saved login").doc(
        "Proves the agent's identity. Two of `token`, `token_file` and `ADIT_TOKEN` in one layer are an error; a higher \
         layer takes precedence.",
    );
    sources.extend(root.take("token", &text).map(|entry| (entry.origin(), TokenSource::Text(entry))));
    let file = key::any("a path").doc(
        "A file that contains the token; quotes, white space and a byte order mark around it are ignored. If it is \
         missing or empty, an agent that does not run at a terminal waits for it.",
    );
    sources.extend(root.take("token_file", &file).map(|entry| (entry.origin(), TokenSource::File(entry))));
    sources.extend(variable.map(|text| (Origin::Environment, TokenSource::Variable(text.to_owned()))));
    let highest = sources.iter().map(|(origin, _)| *origin).max();
    sources.retain(|(origin, _)| Some(*origin) == highest);
    let (_, source) = sources.pop()?;
    if !sources.is_empty() {
        report.problem("token", "is given more than once; keep one of token, token_file and ADIT_TOKEN");
        return Some(None);
    }
    Some(read_token(report, source))
}

fn read_token(report: &Report, source: TokenSource<'_>) -> Option<FoundToken> {
    let (text, origin) = match source {
        TokenSource::Text(entry) => {
            let origin = entry.origin().suffix("token");
            (bare(&entry.text()?).to_owned(), origin)
        }
        TokenSource::File(entry) => {
            let origin = entry.origin().suffix("token_file");
            return read_token_file(report, secret_file::path_of(entry)?, &origin);
        }
        TokenSource::Variable(text) => (bare(&text).to_owned(), format!(" (from {TOKEN_VARIABLE})")),
    };
    match problem_with(&text) {
        None => Some((Secret::new(text), None)),
        Some(problem) => {
            report.problem("token", format!("{problem}{origin}"));
            None
        }
    }
}

/// Returns the token in the file at `path`, or an empty one if the caller can wait for it.
fn read_token_file(report: &Report, path: PathBuf, origin: &str) -> Option<FoundToken> {
    let problem = match secret_file::read(&path) {
        Ok(text) => match problem_with(bare(&text)) {
            None => return Some((Secret::new(bare(&text)), Some(path))),
            Some(problem) => format!("{problem}{origin}"),
        },
        Err(problem) => problem,
    };
    report.deferrable("token_file", problem).then(|| (Secret::new(""), Some(path)))
}

fn problem_with(token: &str) -> Option<&'static str> {
    if token.is_empty() {
        Some("holds no token; put in the one that `adit token new` printed")
    } else if token.len() > MAX_TOKEN {
        Some("is too long to be a token; put in the one that `adit token new` printed, and nothing else")
    } else if token.contains("=adit_") {
        Some("holds a setting, not only a token; put in what is behind the `=`, and nothing else")
    } else if token.contains(char::is_whitespace) {
        Some("has white space or a line end inside; put in the token that `adit token new` printed, and nothing else")
    } else if token.contains(['"', '\'']) {
        Some("has a quote that belongs to no token; put in the one that `adit token new` printed, and nothing else")
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("has a character that no token has; put in the one that `adit token new` printed, and nothing else")
    } else {
        None
    }
}
