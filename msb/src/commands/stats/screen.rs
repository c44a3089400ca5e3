//! Text that is shown again and again: on a terminal in the same place, elsewhere one below the other.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

use crate::{output, terminal};

/// A part of the terminal, from where the cursor was at first.
#[derive(Debug)]
pub(in crate::commands) struct Screen {
    /// Lines that are shown.
    lines: usize,
}

impl Screen {
    /// Shows nothing yet.
    pub(in crate::commands) fn new() -> Screen {
        Screen { lines: 0 }
    }

    /// Something else is about to be printed: what comes next is shown below it.
    pub(in crate::commands) fn leave(&mut self) {
        self.lines = 0;
    }

    /// Shows `text` in the place of what was shown before, as far as the terminal has room; where there is none, all of it. Breaks
    /// off when nobody looks any more.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(in crate::commands) fn show(&mut self, text: &str) -> anyhow::Result<ControlFlow<()>> {
        if !io::stdout().is_terminal() {
            return output::stream(text);
        }
        let size = terminal::size();
        output::stream(&self.redraw(text, size.rows.into(), size.columns.into()))
    }

    fn redraw(&mut self, text: &str, rows: usize, columns: usize) -> String {
        let mut shown = String::new();
        if self.lines > 0 {
            // Up, to the first column.
            shown.push_str(&format!("\x1b[{}A\r", self.lines));
        }
        self.lines = 0;
        for line in text.lines().take(rows.saturating_sub(1)) {
            // A line that wraps would be two.
            shown.extend(line.chars().take(columns));
            // The rest of what stood there.
            shown.push_str("\x1b[K\n");
            self.lines += 1;
        }
        // And of the lines below.
        shown.push_str("\x1b[J");
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_takes_the_place_of_another() {
        let mut screen = Screen::new();
        let text = "title\none\ntwo\n";
        assert_eq!(
            screen.redraw(text, 24, 80),
            "title\x1b[K\none\x1b[K\ntwo\x1b[K\n\x1b[J"
        );
        assert_eq!(
            screen.redraw(text, 3, 4),
            "\x1b[3A\rtitl\x1b[K\none\x1b[K\n\x1b[J"
        );
        assert!(screen.redraw(text, 24, 80).starts_with("\x1b[2A\r"));
        screen.leave();
        assert!(screen.redraw(text, 24, 80).starts_with("title"));
    }
}
