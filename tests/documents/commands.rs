//! What a document tells the reader to type is what the program, the Makefile and the configuration know.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use adit::cli::Cli;
use clap::Parser as _;
use clap::error::ErrorKind;

use super::reference::tables;
use super::shell::commands;
use super::{documents, filled_in, top};

/// The commands of a document with its blocks of `sh` and what follows a prompt (whole), and with its code in lines of text
/// (perhaps named without what they need).
struct Commands {
    whole: Vec<Vec<String>>,
    named: Vec<Vec<String>>,
}

fn commands_in(text: &str) -> Commands {
    let (mut block, mut prompted, mut prose) = (String::new(), String::new(), String::new());
    let mut language = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), language) {
            (Some(_), Some(_)) => language = None,
            (Some(begun), None) => language = Some(begun),
            (None, Some("sh")) => block += &format!("{line}\n"),
            (None, Some(_)) => prompted.extend(line.strip_prefix("$ ").map(|command| format!("{command}\n"))),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    let in_text = prose.split('`').skip(1).step_by(2).flat_map(|code| commands(&code.replace("\\|", "OR")));
    Commands { whole: commands(&filled_in(&(block + &prompted))), named: in_text.collect() }
}

/// What the program is given, if it is the program that this runs: as another user, or in a container.
fn of_adit(words: &[String]) -> Option<Vec<String>> {
    let is_assignment = |word: &str| word.split_once('=').is_some_and(|(name, _)| name.chars().all(is_of_a_name));
    let mut words = words.iter().map(String::as_str).skip_while(|word| is_assignment(word)).peekable();
    loop {
        match words.next()? {
            "sudo" | "runuser" => {
                words.next_if_eq(&"-u").and_then(|_| words.next());
                words.next_if_eq(&"--");
            }
            "docker" | "podman" => {
                words.by_ref().find(|word| *word == "run")?;
                words.by_ref().find(|word| ["server", "agent"].contains(word))?;
                break;
            }
            word if word.rsplit('/').next() == Some("adit") => break,
            _ => return None,
        }
    }
    Some(words.map(fitting).collect())
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// Something that fits in place of a word in capitals, which the reader fills in.
fn fitting(word: &str) -> String {
    let is_for_the_reader = |part: &str| part.len() > 1 && part.chars().all(|letter| letter.is_ascii_uppercase());
    let fill = |part: &str| match part {
        "PORT" => "3000".to_owned(),
        part if is_for_the_reader(part) => "alice".to_owned(),
        part => part.to_owned(),
    };
    word.split(':').map(fill).collect::<Vec<_>>().join(":")
}

/// Whether the program takes this; `named` commands may lack what they need.
fn is_taken(arguments: &[String], named: bool) -> Result<(), String> {
    use ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion, MissingRequiredArgument,
        MissingSubcommand,
    };
    let lacking = [MissingRequiredArgument, MissingSubcommand, DisplayHelpOnMissingArgumentOrSubcommand];
    match Cli::try_parse_from(std::iter::once("adit").chain(arguments.iter().map(String::as_str))) {
        Err(error) if [DisplayHelp, DisplayVersion].contains(&error.kind()) => Ok(()),
        Err(error) if named && lacking.contains(&error.kind()) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Ok(()),
    }
}

/// Holds every document against `check`, which gives how much it looked at and what is wrong.
fn in_every_document(least: usize, check: impl Fn(&str) -> (usize, Vec<String>)) {
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        let (looked_at, found) = check(&fs::read_to_string(&document).unwrap());
        checked += looked_at;
        let name = document.strip_prefix(top()).unwrap_or(Path::new("?")).display().to_string();
        wrong.extend(found.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    assert!(checked >= least, "only {checked} found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_command_line_in_the_documents_is_one_of_the_programs() {
    in_every_document(80, |text| {
        let Commands { whole, named } = commands_in(text);
        let all = whole.iter().map(|words| (words, false)).chain(named.iter().map(|words| (words, true)));
        let ours: Vec<_> = all.filter_map(|(words, named)| Some((of_adit(words)?, named))).collect();
        let refused = ours.iter().filter_map(|(arguments, named)| {
            let error = is_taken(arguments, *named).err()?;
            Some(format!("adit {}: {error}", arguments.join(" ")))
        });
        (ours.len(), refused.collect())
    });
}

#[test]
fn a_command_line_that_the_program_does_not_take_is_noticed() {
    let refused = |text: &str| {
        let found = commands_in(text).whole.iter().filter_map(|words| of_adit(words)).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "{text}");
        is_taken(&found[0], false).is_err()
    };
    for (command, is_refused) in [
        ("(umask 077 && runuser -u adit -- adit token new ID --clients FILE > file)", false),
        ("X=1 sudo -u adit ./adit token neww ID", true),
        ("docker compose -f x.yaml run --rm server token new alice --client x", true),
        ("A=$(adit http PORT --sever HOST:8080)", true),
        ("adit http PORT --server HOST:8080 \\\n  --id ID --token TOKEN", false),
        ("adit http --id x", true),
        // A function of that name would hide the program in the lines that follow.
        ("adit() { curl -sS \"http://127.0.0.1:9091$1\"; }", true),
    ] {
        assert_eq!(refused(&format!("```sh\n{command}\n```\n")), is_refused, "{command}");
    }
    assert!(is_taken(&commands_in("`adit http --id ID`").named[0][1..], true).is_ok(), "named without its port");
}

#[test]
fn every_target_of_make_in_the_documents_is_in_the_makefile() {
    let makefile = fs::read_to_string(top().join("Makefile")).unwrap();
    let is_target =
        |name: &str| makefile.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")));
    in_every_document(60, |text| {
        let Commands { whole, named } = commands_in(text);
        let made = whole.iter().chain(&named).filter(|words| words[0] == "make").flat_map(|words| &words[1..]);
        let targets: Vec<&String> = made.filter(|word| !word.contains('=') && !word.starts_with('-')).collect();
        let unknown = targets.iter().filter(|target| !is_target(target));
        (targets.len(), unknown.map(|target| format!("make {target}: there is no such target")).collect())
    });
}

#[test]
fn every_variable_in_the_documents_is_a_key() {
    let keys = tables::keys();
    let known: BTreeSet<&str> = keys.iter().flat_map(|(_, keys)| keys).map(|key| key.path.as_str()).collect();
    in_every_document(8, |text| {
        let variables = text.split("ADIT__").skip(1).map(|rest| {
            let end = rest.find(|letter| !is_of_a_name(letter)).unwrap_or(rest.len());
            &rest[..end]
        });
        let variables: Vec<&str> = variables.filter(|name| !name.is_empty()).collect();
        let is_known = |name: &str| known.contains(name.to_lowercase().replace("__", ".").as_str());
        let unknown = variables.iter().filter(|name| !is_known(name));
        (variables.len(), unknown.map(|name| format!("ADIT__{name}: there is no such key")).collect())
    });
}
