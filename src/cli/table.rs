//! Tables for people, with aligned columns, in colour on a terminal.

use anstyle::Style;

/// The space between two columns.
const GAP: &str = "  ";

/// The text of a cell, without line ends, and its style.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) style: Style,
}

impl Cell {
    /// Creates a cell without colours.
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

/// Returns the lines of a table under `header`. Each row has as many cells. If the table is wider than the terminal, each row
/// is a paragraph instead, with a line for each cell.
pub(super) fn table(header: &[&str], rows: &[Vec<Cell>]) -> String {
    table_within(header, rows, super::terminal::width())
}

fn table_within(header: &[&str], rows: &[Vec<Cell>], most: Option<usize>) -> String {
    let table = columns(header, rows);
    let is_wide =
        |most: usize| anstream::adapter::strip_str(&table).to_string().lines().any(|line| line.chars().count() > most);
    match most.filter(|most| is_wide(*most)) {
        Some(most) => paragraphs(header, rows, most),
        None => table,
    }
}

/// Returns a paragraph for each row: the first cell, and below it the others with the words of the header.
fn paragraphs(header: &[&str], rows: &[Vec<Cell>], most: usize) -> String {
    let labels: Vec<String> = header.iter().map(|text| text.to_lowercase()).collect();
    let width = labels.iter().skip(1).map(|label| label.chars().count()).max().unwrap_or_default();
    let room = most.saturating_sub(width + 2 * GAP.len()).max(1);
    let paragraph = |row: &Vec<Cell>| {
        let mut cells = row.iter();
        let mut text = cells.next().map(|Cell { text, style }| format!("{style}{text}{style:#}\n")).unwrap_or_default();
        for (Cell { text: words, style }, label) in cells.zip(labels.iter().skip(1)) {
            for (at, line) in lines_within(words, room).into_iter().enumerate() {
                let label = if at == 0 { label.as_str() } else { "" };
                text.push_str(&format!("{GAP}{label:width$}{GAP}{style}{line}{style:#}\n"));
            }
        }
        text
    };
    rows.iter().map(paragraph).collect()
}

/// Splits a text after commas and spaces into lines of at most `most` characters. A longer word has its own line.
fn lines_within(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive([',', ' ']) {
        let is_full = |line: &String| !line.is_empty() && line.chars().count() + word.trim_end().chars().count() > most;
        match lines.last_mut().filter(|line| !is_full(line)) {
            Some(line) => line.push_str(word),
            None => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

fn columns(header: &[&str], rows: &[Vec<Cell>]) -> String {
    let bold = Style::new().bold();
    let header: Vec<_> = header.iter().map(|text| Cell { text: (*text).to_owned(), style: bold }).collect();
    let lines = || std::iter::once(&header).chain(rows);
    let width = |column: usize| lines().filter_map(|cells| cells.get(column)).map(length).max().unwrap_or_default();
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: &Vec<Cell>| {
        let cell = |(Cell { text, style }, width): (&Cell, &usize)| {
            format!("{style}{text}{style:#}{:1$}", "", width.saturating_sub(text.chars().count()))
        };
        let cells: Vec<_> = cells.iter().zip(&widths).map(cell).collect();
        format!("{}\n", cells.join(GAP).trim_end())
    };
    lines().map(line).collect()
}

fn length(cell: &Cell) -> usize {
    cell.text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_wide_for_the_terminal_stands_in_paragraphs_without_broken_words() {
        let rows = [["alice", "alice,blog,shop", "never"], ["bob", "bob", "2026-01-01T00:00:00Z"]];
        let rows = rows.map(|row| row.map(Cell::plain).to_vec());
        let shown =
            |most| anstream::adapter::strip_str(&table_within(&["ID", "NAMES", "EXPIRES"], &rows, most)).to_string();
        assert_eq!(
            shown(Some(24)),
            "alice\n  names    alice,blog,\n           shop\n  expires  never\n\
             bob\n  names    bob\n  expires  2026-01-01T00:00:00Z\n"
        );
        let wide = shown(Some(44));
        assert!(wide.starts_with("ID     NAMES") && wide == shown(None), "{wide}");
    }

    #[test]
    fn columns_stand_one_below_the_other() {
        let rows = [["a", "é", "x"], ["longer", "bc", ""]].map(|row| row.map(Cell::plain).to_vec());
        let text = anstream::adapter::strip_str(&table(&["ID", "N", "LAST"], &rows)).to_string();
        assert_eq!(text, "ID      N   LAST\na       é   x\nlonger  bc\n");
    }
}
