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

/// Returns the lines of a table under `header`. Each row has as many cells.
pub(super) fn table(header: &[&str], rows: &[Vec<Cell>]) -> String {
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
    fn columns_stand_one_below_the_other() {
        let rows = [["a", "é", "x"], ["longer", "bc", ""]].map(|row| row.map(Cell::plain).to_vec());
        let text = anstream::adapter::strip_str(&table(&["ID", "N", "LAST"], &rows)).to_string();
        assert_eq!(text, "ID      N   LAST\na       é   x\nlonger  bc\n");
    }
}
