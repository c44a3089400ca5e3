//! Tables, as lists are printed for people.

use crate::output;

/// Columns that line up, under their titles. The last is not filled up. A cell may come from anybody: it cannot move the cursor.
pub(crate) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| output::clean(cell)))
        .collect();
    let mut widths = titles.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(titles);
    for row in &rows {
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "1"], ["\u{fc}bung", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["NAME", "N"], &rows),
            "NAME   N\na      1\n\u{fc}bung\n"
        );
        assert_eq!(table(["NAME", "N"], &[]), "NAME  N\n");
    }

    #[test]
    fn a_cell_moves_no_cursor() {
        let rows = [["a\x1b[2J\r\nb", "\u{9b}1m"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["NAME", "N"], &rows), "NAME      N\na [2J  b   1m\n");
    }
}
