//! `adit token list`

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::files::Site;
use crate::cli::Failure;
use crate::cli::admin::AdminPort;
use crate::cli::table::{Cell, table};
use crate::tenants::entry::{ClientEntry, ClientsFile, InviteEntry};
use crate::tenants::list_change::ListItem;
use crate::values::ClientId;

const COLUMNS: usize = 5;
const HEADER: [&str; COLUMNS] = ["ID", "NAMES", "DOMAINS AND PORTS", "EXPIRES", "STATE"];
/// Behind the others; people see it only if the server could be asked.
const CONNECTED: &str = "CONNECTED";

/// Instead of it for programs, where the server could not be asked.
const UNKNOWN: &str = "?";

/// Since when whoever is connected is, by id.
type Connected = BTreeMap<String, String>;

pub(super) fn run(site: &Site) -> Result<(), Failure> {
    let rows = rows(&ClientsFile::load(&site.clients)?, Timestamp::now());
    // Who cannot ask sees what is in the file: `adit status` says why.
    let connected = site.server().and_then(|server| connected(&AdminPort::of(server).ok()?));
    print(&rows, Column::Connected(connected.as_ref()))
}

/// Shows the client `id` alone.
pub(super) fn show(file: &Path, id: &ClientId) -> Result<(), Failure> {
    let rows = rows(&ClientsFile::load(file)?, Timestamp::now());
    let its: Vec<_> = rows.into_iter().filter(|row| row.cells[0] == id.as_str()).collect();
    print(&its, Column::Left)
}

/// The last column.
#[derive(Debug, Clone, Copy)]
enum Column<'a> {
    /// It is left out.
    Left,
    /// Since when each client is connected, if the server could be asked.
    Connected(Option<&'a Connected>),
}

fn print(rows: &[Row], column: Column<'_>) -> Result<(), Failure> {
    let text = match column {
        Column::Connected(connected) if io::stdout().is_terminal() => for_people(rows, connected),
        Column::Left if io::stdout().is_terminal() => for_people(rows, None),
        column => plain(rows, column),
    };
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has had enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::other(error)),
        _ => Ok(()),
    }
}

/// Asks the running server; of several agents of a client, the one that has been here longest.
fn connected(port: &AdminPort) -> Option<Connected> {
    let mut connected = Connected::new();
    for tunnel in port.connect().ok()?.tunnels().ok()? {
        let since: Timestamp = tunnel.since.parse().ok()?;
        let since = Timestamp::from_second(since.as_second()).ok()?.to_string();
        let first = connected.entry(tunnel.client).or_insert_with(|| since.clone());
        if since < *first {
            *first = since;
        }
    }
    Some(connected)
}

/// A client or an invitation, cell by cell; what is empty is `-`. All of it is ASCII: labels, domains, numbers.
#[derive(Debug)]
struct Row {
    cells: [String; COLUMNS],
    colour: AnsiColor,
    is_client: bool,
}

impl Row {
    /// Since when it is connected; an invitation never is.
    fn since<'a>(&self, connected: &'a Connected) -> &'a str {
        connected.get(&self.cells[0]).filter(|_| self.is_client).map_or("-", String::as_str)
    }
}

fn rows(file: &ClientsFile, now: Timestamp) -> Vec<Row> {
    let clients = file.clients.iter().map(|(id, entry)| client(id, entry, now));
    clients.chain(file.invites.iter().map(|(key, entry)| invite(key, entry, now))).collect()
}

fn client(id: &ClientId, entry: &ClientEntry, now: Timestamp) -> Row {
    let domains = entry.domains.iter().map(ListItem::text);
    let ports = entry.tcp_ports.iter().map(ListItem::text);
    let expires = entry.expires.map_or_else(|| "never".to_owned(), |expires| expires.to_string());
    let (state, colour) = match entry.overlapping(now) {
        _ if entry.has_expired(now) => ("expired".to_owned(), AnsiColor::Red),
        Some(previous) => (format!("rotating until {}", previous.until), AnsiColor::Yellow),
        None => ("active".to_owned(), AnsiColor::Green),
    };
    let names = joined(entry.names.iter().map(ListItem::text));
    Row { cells: [id.to_string(), names, joined(domains.chain(ports)), expires, state], colour, is_client: true }
}

fn invite(key: &str, entry: &InviteEntry, now: Timestamp) -> Row {
    let whom = entry.id.as_ref().map_or("anybody", ClientId::as_str);
    let (state, colour) = match entry.has_expired(now) {
        true => (format!("expired invitation for {whom}"), AnsiColor::Red),
        false => (format!("invitation for {whom}"), AnsiColor::Cyan),
    };
    let names = joined(entry.names.iter().map(ListItem::text));
    Row { cells: [key.to_owned(), names, joined([]), entry.expires.to_string(), state], colour, is_client: false }
}

fn joined(words: impl IntoIterator<Item = String>) -> String {
    match words.into_iter().collect::<Vec<_>>().join(",") {
        none if none.is_empty() => "-".to_owned(),
        words => words,
    }
}

/// For programs: a line for each, its cells with tabs between them, and always as many.
fn plain(rows: &[Row], column: Column<'_>) -> String {
    let line = |row: &Row| match column {
        Column::Left => format!("{}\n", row.cells.join("\t")),
        Column::Connected(connected) => {
            let since = connected.map_or(UNKNOWN, |connected| row.since(connected));
            format!("{}\t{since}\n", row.cells.join("\t"))
        }
    };
    rows.iter().map(line).collect()
}

fn for_people(rows: &[Row], connected: Option<&Connected>) -> String {
    let header: Vec<_> = HEADER.into_iter().chain(connected.map(|_| CONNECTED)).collect();
    let rows: Vec<_> = rows.iter().map(|row| cells(row, connected)).collect();
    table(&header, &rows)
}

fn cells(row: &Row, connected: Option<&Connected>) -> Vec<Cell> {
    let mut cells: Vec<_> = row.cells.iter().map(Cell::plain).collect();
    cells[0].style = Style::new().bold();
    cells[COLUMNS - 1].style = Style::new().fg_color(Some(row.colour.into()));
    cells.extend(connected.map(|connected| Cell::plain(row.since(connected))));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::InviteCode;
    use crate::tenants::entry::invite_key;

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
        let rows = rows_of(&format!(
            "[invites.{first}]\ncode_hash = '{open}'\nid = 'dave'\nexpires = 2027-01-01T00:00:00Z\n\
             [invites.{second}]\ncode_hash = '{old}'\nexpires = 2026-01-01T00:00:00Z\n"
        ));
        let plain = plain(&rows, Column::Connected(None));
        let mut lines: Vec<_> = plain.lines().collect();
        let invites = lines.split_off(3);
        assert_eq!(
            lines,
            [
                "alice\talice,blog,*.blog\talice.example,20000-20010,25565\tnever\tactive\t?",
                "bob\tbob\t-\t2026-01-01T00:00:00Z\texpired\t?",
                "carol\tcarol\t-\tnever\trotating until 2027-01-01T00:00:00Z\t?",
            ]
        );
        let of_dave = format!("{first}\tdave\t-\t2027-01-01T00:00:00Z\tinvitation for dave\t?");
        let of_nobody = format!("{second}\t-\t-\t2026-01-01T00:00:00Z\texpired invitation for anybody\t?");
        assert_eq!(invites.len(), 2);
        assert!(invites.contains(&of_dave.as_str()) && invites.contains(&of_nobody.as_str()), "{invites:?}");
        assert!(!plain.contains("argon2id") && !plain.contains("sha256"));
    }

    #[test]
    fn people_get_columns_one_below_the_other() {
        let table = anstream::adapter::strip_str(&for_people(&rows_of(""), None)).to_string();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("ID     NAMES              DOMAINS AND PORTS"), "{table}");
        for (line, state) in lines[1..].iter().zip(["active", "expired", "rotating"]) {
            assert_eq!(line.find(state), lines[0].find("STATE"), "{table}");
        }
    }

    #[test]
    fn who_is_connected_stands_in_a_column_of_its_own() {
        let connected = Connected::from([("carol".to_owned(), "2026-05-01T00:00:00Z".to_owned())]);
        let text = plain(&rows_of(""), Column::Connected(Some(&connected)));
        let last: Vec<_> = text.lines().map(|line| line.split('\t').nth(COLUMNS).unwrap()).collect();
        assert_eq!(last, ["-", "-", "2026-05-01T00:00:00Z"]);
        let table = anstream::adapter::strip_str(&for_people(&rows_of(""), Some(&connected))).to_string();
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].ends_with("  CONNECTED"), "{table}");
        assert_eq!(lines[3].find("2026-05-01"), lines[0].find("CONNECTED"), "{table}");
    }
}
