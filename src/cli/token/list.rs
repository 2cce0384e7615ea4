//! `adit token list`

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use crate::cli::Failure;
use crate::config::{Claim, ClientEntry, ClientsFile, InviteEntry};
use crate::values::{ClientId, Name};

const COLUMNS: usize = 5;
const HEADER: [&str; COLUMNS] = ["ID", "NAMES", "DOMAINS AND PORTS", "EXPIRES", "STATE"];
/// Between two columns of the table.
const GAP: &str = "  ";

pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let rows = rows(&ClientsFile::load(file)?, Timestamp::now());
    let text = if io::stdout().is_terminal() { table(&rows) } else { plain(&rows) };
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has had enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::other(error)),
        _ => Ok(()),
    }
}

/// A client or an invitation, cell by cell; what is empty is `-`. All of it is ASCII: labels, domains, numbers.
#[derive(Debug)]
struct Row {
    cells: [String; COLUMNS],
    colour: AnsiColor,
}

fn rows(file: &ClientsFile, now: Timestamp) -> Vec<Row> {
    let clients = file.clients.iter().map(|(id, entry)| client(id, entry, now));
    clients.chain(file.invites.iter().map(|(key, entry)| invite(key, entry, now))).collect()
}

fn client(id: &ClientId, entry: &ClientEntry, now: Timestamp) -> Row {
    let domains = entry.domains.iter().map(ToString::to_string);
    let ports = entry.tcp_ports.iter().map(|range| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    let expires = entry.expires.map_or_else(|| "never".to_owned(), |expires| expires.to_string());
    let (state, colour) = match entry.overlapping(now) {
        _ if entry.has_expired(now) => ("expired".to_owned(), AnsiColor::Red),
        Some(previous) => (format!("rotating until {}", previous.until), AnsiColor::Yellow),
        None => ("active".to_owned(), AnsiColor::Green),
    };
    let names = names(&entry.names, &entry.wildcards);
    Row { cells: [id.to_string(), names, joined(domains.chain(ports)), expires, state], colour }
}

fn invite(key: &str, entry: &InviteEntry, now: Timestamp) -> Row {
    let whom = entry.id.as_ref().map_or("anybody", ClientId::as_str);
    let (state, colour) = match entry.has_expired(now) {
        true => (format!("expired invitation for {whom}"), AnsiColor::Red),
        false => (format!("invitation for {whom}"), AnsiColor::Cyan),
    };
    let names = names(&entry.names, &entry.wildcards);
    Row { cells: [key.to_owned(), names, joined([]), entry.expires.to_string(), state], colour }
}

fn names(names: &[Name], wildcards: &[Name]) -> String {
    let wildcards = wildcards.iter().cloned().map(|name| Claim::Below(name).to_string());
    joined(names.iter().map(ToString::to_string).chain(wildcards))
}

fn joined(words: impl IntoIterator<Item = String>) -> String {
    match words.into_iter().collect::<Vec<_>>().join(",") {
        none if none.is_empty() => "-".to_owned(),
        words => words,
    }
}

/// For programs: a line for each, its cells with tabs between them.
fn plain(rows: &[Row]) -> String {
    rows.iter().map(|row| row.cells.join("\t") + "\n").collect()
}

/// For people.
fn table(rows: &[Row]) -> String {
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row.cells[column].len());
        cells.max().unwrap_or_default().max(HEADER[column].len())
    });
    let bold = Style::new().bold();
    let line = |cells: [&str; COLUMNS], styles: [Style; COLUMNS]| {
        let cell = |column: usize| {
            let style = styles[column];
            format!("{style}{}{style:#}{:2$}", cells[column], "", widths[column] - cells[column].len())
        };
        let cells: Vec<_> = (0..COLUMNS).map(cell).collect();
        format!("{}\n", cells.join(GAP).trim_end())
    };
    let header = line(HEADER, [bold; COLUMNS]);
    let rows = rows.iter().map(|row| {
        let mut styles = [Style::new(); COLUMNS];
        styles[0] = bold;
        styles[COLUMNS - 1] = Style::new().fg_color(Some(row.colour.into()));
        line(std::array::from_fn(|column| row.cells[column].as_str()), styles)
    });
    std::iter::once(header).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::InviteCode;
    use crate::config::invite_key;

    fn rows_of(more: &str) -> Vec<Row> {
        let text = format!(
            "[clients.alice]\ntoken_hash = '$argon2id$a'\nnames = ['alice', 'blog', '*.blog']\n\
             domains = ['alice.example']\ntcp_ports = ['20000-20010', 25565]\n\
             [clients.bob]\ntoken_hash = '$argon2id$b'\nexpires = 2026-01-01T00:00:00Z\n\
             previous = {{ token_hash = '$argon2id$c', until = 2027-01-01T00:00:00Z }}\n\
             [clients.carol]\ntoken_hash = '$argon2id$b'\n\
             previous = {{ token_hash = '$argon2id$c', until = 2027-01-01T00:00:00Z }}\n{more}"
        );
        let file = ClientsFile::from_text(Path::new("clients.toml"), &text).unwrap();
        rows(&file, "2026-06-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn programs_get_a_line_for_each_with_tabs() {
        let [open, old] = [(); 2].map(|()| InviteCode::generate(None, None).unwrap().digest());
        let (first, second) = (invite_key(&open), invite_key(&old));
        let plain = plain(&rows_of(&format!(
            "[invites.{first}]\ncode_hash = '{open}'\nid = 'dave'\nexpires = 2027-01-01T00:00:00Z\n\
             [invites.{second}]\ncode_hash = '{old}'\nexpires = 2026-01-01T00:00:00Z\n"
        )));
        let mut lines: Vec<_> = plain.lines().collect();
        let invites = lines.split_off(3);
        assert_eq!(
            lines,
            [
                "alice\talice,blog,*.blog\talice.example,20000-20010,25565\tnever\tactive",
                "bob\tbob\t-\t2026-01-01T00:00:00Z\texpired",
                "carol\tcarol\t-\tnever\trotating until 2027-01-01T00:00:00Z",
            ]
        );
        let of_dave = format!("{first}\tdave\t-\t2027-01-01T00:00:00Z\tinvitation for dave");
        let of_nobody = format!("{second}\t-\t-\t2026-01-01T00:00:00Z\texpired invitation for anybody");
        assert_eq!(invites.len(), 2);
        assert!(invites.contains(&of_dave.as_str()) && invites.contains(&of_nobody.as_str()), "{invites:?}");
        assert!(!plain.contains("argon2id") && !plain.contains("sha256"));
    }

    #[test]
    fn people_get_columns_one_below_the_other() {
        let table = anstream::adapter::strip_str(&table(&rows_of(""))).to_string();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("ID     NAMES              DOMAINS AND PORTS"), "{table}");
        for (line, state) in lines[1..].iter().zip(["active", "expired", "rotating"]) {
            assert_eq!(line.find(state), lines[0].find("STATE"), "{table}");
        }
    }
}
