//! Errors as people read them: what, why, and what to do.

use std::error::Error;
use std::fmt;

use crate::output;

/// Exit status of `msb run`, `msb exec` and others that stand for a process in a guest for their own errors, as docker and env(1) use it: whatever runs in
/// the guest rarely does.
pub(crate) const RUN_FAILED: u8 = 125;

/// Exit status of the other commands for their errors.
pub(crate) const FAILED: u8 = 1;

/// Exit status of the other commands for wrong usage, as clap has it.
pub(crate) const WRONG_USAGE: u8 = 2;

/// Most lines of the guest kernel's log that are shown with an error.
const MAX_CONSOLE_LINES: usize = 20;

/// An error with more to say than why it happened.
#[derive(Debug)]
struct Noted {
    error: anyhow::Error,
    note: Note,
}

#[derive(Debug)]
enum Note {
    /// What the user can do.
    Hint(String),
    /// What the guest's kernel said last.
    Console(String),
}

impl fmt::Display for Noted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl Error for Noted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds to an error what to do about it.
pub(crate) trait Hint<T> {
    /// Adds `hint`, a sentence without a full stop that tells the user what to do.
    fn hint(self, hint: impl fmt::Display) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint(self, hint: impl fmt::Display) -> anyhow::Result<T> {
        self.map_err(|error| with_hint(error, hint))
    }
}

/// An error with what to do about it.
pub(crate) fn with_hint(error: impl Into<anyhow::Error>, hint: impl fmt::Display) -> anyhow::Error {
    anyhow::Error::new(Noted {
        error: error.into(),
        note: Note::Hint(hint.to_string()),
    })
}

/// An error with the last lines of the guest kernel's log.
pub(crate) fn with_console(error: impl Into<anyhow::Error>, log: &[u8]) -> anyhow::Error {
    let note = Note::Console(String::from_utf8_lossy(log).into_owned());
    anyhow::Error::new(Noted {
        error: error.into(),
        note,
    })
}

/// Prints an error: one line that says what, one per cause, one per hint.
pub(crate) fn report(error: &anyhow::Error) {
    output::tell(&render(error));
}

fn render(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut notes = Vec::new();
    let mut last = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let mut noted = cause.downcast_ref::<Noted>();
        while let Some(Noted { error, note }) = noted {
            notes.push(note);
            noted = error.downcast_ref();
        }
        let message = clean(&cause.to_string());
        // Some errors say the same as their source.
        if message != last {
            let label = if depth == 0 { "error: " } else { "  cause: " };
            text.push_str(&format!("{label}{message}\n"));
        }
        last = message;
    }
    // The innermost note is the most particular one.
    for note in notes.into_iter().rev() {
        match note {
            Note::Hint(hint) => text.push_str(&format!("  hint: {}\n", clean(hint))),
            Note::Console(log) => {
                let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
                for line in lines
                    .iter()
                    .skip(lines.len().saturating_sub(MAX_CONSOLE_LINES))
                {
                    text.push_str(&format!("  guest: {}\n", without_controls(line)));
                }
            }
        }
    }
    text
}

/// Makes a message continue `error:`: in lower case, unless it begins with an acronym.
fn clean(message: &str) -> String {
    let mut characters = message.trim().chars();
    let first = characters.next();
    let second = characters.clone().next();
    let acronym = second.is_some_and(|second| !second.is_lowercase() && second != ' ');
    let first = first.map(|first| {
        if acronym {
            first
        } else {
            first.to_ascii_lowercase()
        }
    });
    without_controls(&first.into_iter().chain(characters).collect::<String>())
}

/// One line that cannot move the cursor: parts of it may come from the guest.
fn without_controls(text: &str) -> String {
    output::clean(text.trim_end())
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn what_why_and_what_to_do() {
        let error = Err::<(), _>(io::Error::from_raw_os_error(libc::ENOENT))
            .hint("run `make kernel`")
            .context("Cannot open the kernel")
            .unwrap_err();
        assert_eq!(
            render(&error),
            "error: cannot open the kernel\n  \
             cause: no such file or directory (os error 2)\n  \
             hint: run `make kernel`\n"
        );
    }

    #[test]
    fn sentences_and_acronyms_are_told_apart() {
        for (message, cleaned) in [
            ("A sandbox runs", "a sandbox runs"),
            ("KVM is missing", "KVM is missing"),
            ("/x is a file", "/x is a file"),
        ] {
            assert_eq!(clean(message), cleaned);
        }
    }

    #[test]
    fn a_hint_alone_adds_no_cause() {
        let error = with_hint(anyhow!("KVM is missing"), "run `msb doctor`");
        assert_eq!(
            render(&error),
            "error: KVM is missing\n  hint: run `msb doctor`\n"
        );
    }

    #[test]
    fn the_last_lines_of_the_guest_come_before_the_hint() {
        let log = (0..30)
            .map(|line| format!("line {line}\r\n\r\n"))
            .collect::<String>();
        let error = with_console(anyhow!("the guest did not come up"), log.as_bytes());
        let text = render(&with_hint(error, "look at the log"));
        assert!(
            text.starts_with("error: the guest did not come up\n  guest: line 10\n"),
            "{text}"
        );
        assert!(
            text.ends_with("  guest: line 29\n  hint: look at the log\n"),
            "{text}"
        );
    }

    #[test]
    fn a_message_cannot_move_the_cursor() {
        let error = anyhow!("cannot run \"\u{1b}[2J\nerror: all is well\"");
        assert_eq!(
            render(&error),
            "error: cannot run \" [2J error: all is well\"\n"
        );
    }
}
