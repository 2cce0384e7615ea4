//! Suggestions for flags that other programs have under another name.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;

/// Names of flags in other programs, and the flags of this one, of which a sub-command has at most one.
const MEANT: [(&str, &[&str]); 14] = [
    ("--authtoken", &["--token"]),
    ("--auth-token", &["--token"]),
    ("--api-key", &["--token"]),
    ("--key", &["--token"]),
    ("--code", &["--invite"]),
    ("--invitation", &["--invite"]),
    ("--client", &["--id", "--clients"]),
    ("--client-id", &["--id"]),
    ("--user", &["--id"]),
    ("--hostname", &["--name"]),
    ("--domain", &["--name", "--domains"]),
    ("--auth", &["--basic-auth"]),
    ("--host", &["--server"]),
    ("--file", &["--config"]),
];

/// Adds the flag that was probably meant to an error about an unknown one. `command` is the name of the sub-command.
pub(super) fn suggest(mut error: clap::Error, command: Option<OsString>) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else { return error };
    let unknown = unknown.split('=').next().unwrap_or(unknown);
    let Some((_, meant)) = MEANT.iter().find(|(other, _)| *other == unknown) else { return error };
    let known = Cli::command();
    let command = command.and_then(|name| known.find_subcommand(name.to_str()?).cloned());
    let has = |flag: &str| {
        let long = flag.trim_start_matches('-');
        command.iter().flat_map(clap::Command::get_arguments).any(|argument| argument.get_long() == Some(long))
    };
    if let Some(flag) = meant.iter().find(|flag| has(flag)) {
        error.insert(ContextKind::SuggestedArg, ContextValue::String((*flag).to_owned()));
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn told(arguments: &[&str]) -> String {
        let error = Cli::try_parse_from([&["adit"], arguments].concat()).unwrap_err();
        suggest(error, arguments.first().map(OsString::from)).to_string()
    }

    #[test]
    fn flags_of_other_programs_lead_to_those_of_this_one() {
        for (arguments, flag) in [
            (&["http", "3000", "--authtoken", "x"][..], "--token"),
            (&["http", "3000", "--auth-token=x"], "--token"),
            (&["tcp", "22", "--hostname", "x"], "--name"),
            (&["login", "a", "--code", "x"], "--invite"),
            (&["agent", "--file", "x"], "--config"),
        ] {
            let text = told(arguments);
            assert!(text.contains(&format!("'{flag}'")) && text.contains("similar"), "{text}");
        }
        assert!(!told(&["password", "--authtoken"]).contains("--token'"), "it has no such flag");
    }
}
