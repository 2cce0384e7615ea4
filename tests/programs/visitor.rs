//! Visitors: `curl`, which knows by itself that every name under `localhost` is this machine.

use std::process::Command;
use std::time::Duration;

use crate::processes::{DEADLINE, tool, until};

/// What a visitor got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    head: String,
}

impl Answer {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The stable code of an error.
    pub(crate) fn error_code(&self) -> &str {
        self.header("X-Adit-Error").unwrap_or_default()
    }
}

/// `curl` that does as it is told here, whatever the user's own settings are.
pub(crate) fn curl(url: &str) -> Command {
    let mut command = tool("curl");
    command.args(["-q", "--silent", "--show-error", "--noproxy", "*", url]);
    command
}

/// Asks for `url`, with further arguments for `curl`.
pub(crate) fn visit(url: &str, arguments: &[&str]) -> Answer {
    try_visit(url, arguments).unwrap_or_else(|why| panic!("no whole answer from {url} {arguments:?}: {why}"))
}

/// Asks again until `wanted` likes the answer.
pub(crate) fn visit_until(what: &str, limit: Duration, url: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    until(what, limit, || try_visit(url, &[]).ok().filter(&wanted))
}

fn try_visit(url: &str, arguments: &[&str]) -> Result<Answer, String> {
    let mut command = curl(url);
    let limit = DEADLINE.as_secs().to_string();
    let output = command.args(["--include", "--max-time", &limit]).args(arguments).output().expect("curl is installed");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).map_err(|error| error.to_string())?;
    let mut rest = text.as_str();
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {text}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no status: {head}"))?;
        if status >= 200 {
            return Ok(Answer { status, head: head.to_owned(), body: body.to_owned() });
        }
        rest = body;
    }
}
