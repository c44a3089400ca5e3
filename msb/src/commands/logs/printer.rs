//! Entries as they are printed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;

use anyhow::Context;
use microsandbox::logs::{LogEntry, LogSource};
use regex::bytes::Regex;
use serde::Serialize;

use super::lines::{Line, Lines};
use crate::utc;

const RED: &str = "\x1b[31m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// How entries are printed.
#[derive(Debug)]
pub(super) struct Style {
    pub(super) timestamps: bool,
    pub(super) show_id: bool,
    pub(super) json: bool,
    pub(super) color: Color,
    pub(super) grep: Option<Regex>,
    /// The last so many are held back, until they are printed.
    pub(super) tail: Option<usize>,
}

impl Style {
    /// Colours alone do not: whoever sits at a terminal sees a prompt, too, which has no end.
    fn asks_for_lines(&self) -> bool {
        let Style {
            timestamps,
            show_id,
            json: _,
            color: _,
            grep,
            tail,
        } = self;
        *timestamps || *show_id || grep.is_some() || tail.is_some()
    }
}

/// Which of the two streams has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Color {
    /// Standard output, with the lines of the machine.
    pub(super) stdout: bool,
    /// Standard error, with those of standard error.
    pub(super) stderr: bool,
}

impl Color {
    /// Both, or none.
    pub(super) fn always(color: bool) -> Color {
        Color {
            stdout: color,
            stderr: color,
        }
    }

    /// Those that are terminals.
    pub(super) fn of_terminals() -> Color {
        Color {
            stdout: io::stdout().is_terminal(),
            stderr: io::stderr().is_terminal(),
        }
    }

    /// What entries of `source` begin with; they end with [`PLAIN`] then.
    fn of(self, source: LogSource) -> Option<&'static str> {
        match source {
            LogSource::Stderr => self.stderr.then_some(RED),
            LogSource::System => self.stdout.then_some(DIM),
            LogSource::Stdout | LogSource::Output => None,
        }
    }
}

/// Prints entries: as they are, unless the style asks for lines.
#[derive(Debug)]
pub(super) struct Printer {
    style: Style,
    /// Lines are put together, and nothing is printed of one that has no end yet.
    in_lines: bool,
    lines: Lines,
    /// The last ones so far, if only those are wanted.
    held: VecDeque<Output>,
}

/// Something to be printed.
#[derive(Debug)]
struct Output {
    to_stderr: bool,
    bytes: Vec<u8>,
    /// Nothing that was not read belongs to it.
    is_whole: bool,
}

/// An entry in JSON.
#[derive(Debug, Serialize)]
struct EntryView<'a> {
    timestamp: String,
    source: LogSource,
    session: Option<u64>,
    cursor: String,
    /// What is not UTF-8 is replaced.
    text: &'a str,
    /// The bytes in hexadecimal digits, if they are not UTF-8.
    data_hex: Option<String>,
}

impl Printer {
    /// Nothing is printed yet.
    pub(super) fn new(style: Style) -> Printer {
        Printer {
            in_lines: style.asks_for_lines(),
            style,
            lines: Lines::default(),
            held: VecDeque::new(),
        }
    }

    /// Prints `entry`. Breaks off when nobody reads any more.
    ///
    /// # Errors
    /// When it cannot be printed.
    pub(super) fn take(&mut self, entry: &LogEntry) -> anyhow::Result<ControlFlow<()>> {
        let mut outputs = Vec::new();
        if self.style.json {
            if self.matches(&entry.data) {
                outputs.push(as_json(entry)?);
            }
        } else if self.in_lines {
            let mut complete = Vec::new();
            let collected: Result<(), std::convert::Infallible> = self.lines.feed(entry, |line| {
                complete.push(line);
                Ok(())
            });
            let Ok(()) = collected;
            outputs.extend(complete.iter().filter_map(|line| self.as_line(line)));
        } else {
            outputs.push(Output {
                to_stderr: entry.source == LogSource::Stderr,
                bytes: match self.style.color.of(entry.source) {
                    Some(color) => colored(color, &entry.data),
                    None => entry.data.clone(),
                },
                is_whole: true,
            });
        }
        self.put(outputs)
    }

    /// How many are held back.
    pub(super) fn held_count(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is missing of what is held back and of what has no end yet.
    pub(super) fn is_whole(&self) -> bool {
        self.held.iter().all(|output| output.is_whole) && self.lines.are_whole()
    }

    /// What is held back.
    #[cfg(test)]
    pub(super) fn held(&self) -> Vec<String> {
        let text = |output: &Output| String::from_utf8_lossy(&output.bytes).into_owned();
        self.held.iter().map(text).collect()
    }

    /// Prints the last `count` that are held back; everything that follows is printed at once.
    ///
    /// # Errors
    /// When they cannot be printed.
    pub(super) fn print_tail(&mut self, count: usize) -> anyhow::Result<ControlFlow<()>> {
        self.style.tail = None;
        let mut held = std::mem::take(&mut self.held);
        held.drain(..held.len().saturating_sub(count));
        self.put(held.into())
    }

    /// Prints what has no end yet.
    ///
    /// # Errors
    /// When it cannot be printed.
    pub(super) fn finish(&mut self) -> anyhow::Result<ControlFlow<()>> {
        let rest = self.lines.rest();
        let outputs = rest.iter().filter_map(|line| self.as_line(line)).collect();
        self.put(outputs)
    }

    fn put(&mut self, outputs: Vec<Output>) -> anyhow::Result<ControlFlow<()>> {
        let Some(count) = self.style.tail else {
            return print(&outputs);
        };
        self.held.extend(outputs);
        let excess = self.held.len().saturating_sub(count);
        self.held.drain(..excess);
        Ok(ControlFlow::Continue(()))
    }

    fn matches(&self, bytes: &[u8]) -> bool {
        self.style
            .grep
            .as_ref()
            .is_none_or(|pattern| pattern.is_match(bytes))
    }

    fn as_line(&self, line: &Line) -> Option<Output> {
        // What a terminal shows ends with a carriage return, which is not part of the line.
        let text = line.bytes.strip_suffix(b"\r").unwrap_or(&line.bytes);
        if !self.matches(text) {
            return None;
        }
        let mut bytes = Vec::new();
        if self.style.timestamps {
            bytes.extend(utc::rfc3339_nanos(line.timestamp).as_bytes());
            bytes.push(b' ');
        }
        if self.style.show_id {
            let id = line.session.map_or("-".to_owned(), |id| id.to_string());
            bytes.extend(format!("[{id}] ").as_bytes());
        }
        match self.style.color.of(line.source) {
            Some(color) => bytes.extend(colored(color, &line.bytes)),
            None => bytes.extend(&line.bytes),
        }
        bytes.push(b'\n');
        Some(Output {
            to_stderr: line.source == LogSource::Stderr,
            bytes,
            is_whole: line.is_whole,
        })
    }
}

/// Text in a color, line by line: nothing else that is printed has it.
fn colored(color: &str, text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in text.split_inclusive(|&byte| byte == b'\n') {
        let line = piece.strip_suffix(b"\n").unwrap_or(piece);
        if !line.is_empty() {
            bytes.extend([color.as_bytes(), line, PLAIN.as_bytes()].concat());
        }
        bytes.extend(piece.get(line.len()..).unwrap_or_default());
    }
    bytes
}

fn as_json(entry: &LogEntry) -> anyhow::Result<Output> {
    let text = entry.text();
    let hex = || {
        entry
            .data
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    let view = EntryView {
        timestamp: utc::rfc3339_nanos(entry.timestamp),
        source: entry.source,
        session: entry.session_id,
        cursor: entry.cursor.to_string(),
        data_hex: std::str::from_utf8(&entry.data).is_err().then(hex),
        text: &text,
    };
    let mut bytes = serde_json::to_vec(&view)?;
    bytes.push(b'\n');
    Ok(Output {
        to_stderr: false,
        bytes,
        is_whole: true,
    })
}

fn print(outputs: &[Output]) -> anyhow::Result<ControlFlow<()>> {
    let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
    let mut write = || {
        for output in outputs {
            if output.to_stderr {
                stdout.flush()?;
                stderr.write_all(&output.bytes)?;
            } else {
                stdout.write_all(&output.bytes)?;
            }
        }
        stdout.flush()
    };
    match write() {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use microsandbox::logs::LogBatch;
    use microsandbox::logs::{LogOptions, LogWriter, read_logs};

    use super::*;

    /// Entries of a log, as they are read.
    fn entries(written: &[(LogSource, u64, &[u8])]) -> Vec<LogEntry> {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(directory.path(), 1 << 20).unwrap();
        let mut batch = LogBatch::new();
        for (second, (source, session, data)) in (1..).zip(written) {
            let time = UNIX_EPOCH + Duration::from_secs(second);
            batch.push(*source, *session, time, data);
        }
        writer.write(&mut batch).unwrap();
        let options = LogOptions {
            sources: LogSource::ALL.to_vec(),
            ..LogOptions::default()
        };
        read_logs(directory.path(), &options).unwrap()
    }

    fn style() -> Style {
        Style {
            timestamps: false,
            show_id: false,
            json: false,
            color: Color::always(false),
            grep: None,
            tail: None,
        }
    }

    /// What would be printed of each entry as soon as it comes.
    fn printed_at_once(style: Style, written: &[(LogSource, u64, &[u8])]) -> Vec<String> {
        let mut printer = Printer::new(style);
        // Held back, so that it can be looked at.
        printer.style.tail = Some(usize::MAX);
        for entry in entries(written) {
            let _ = printer.take(&entry).unwrap();
        }
        printer.held()
    }

    /// What would be printed.
    fn printed(style: Style, written: &[(LogSource, u64, &[u8])]) -> Vec<String> {
        // Held back, so that it can be looked at.
        let mut printer = Printer::new(Style {
            tail: Some(style.tail.unwrap_or(usize::MAX)),
            ..style
        });
        for entry in entries(written) {
            let _ = printer.take(&entry).unwrap();
        }
        let _ = printer.finish().unwrap();
        printer.held()
    }

    const OUT: LogSource = LogSource::Stdout;

    #[test]
    fn lines_are_put_together_by_session_and_source() {
        let written = [
            (OUT, 1, &b"one "[..]),
            (OUT, 2, b"other\n"),
            (LogSource::Stderr, 1, b"error\n"),
            (OUT, 1, b"line\nrest"),
        ];
        let lines = printed(
            Style {
                timestamps: true,
                show_id: true,
                ..style()
            },
            &written,
        );
        assert_eq!(
            lines,
            [
                "1970-01-01T00:00:02.000000000Z [2] other\n",
                "1970-01-01T00:00:03.000000000Z [1] error\n",
                "1970-01-01T00:00:01.000000000Z [1] one line\n",
                "1970-01-01T00:00:04.000000000Z [1] rest\n",
            ]
        );
        let tail = Some(2);
        assert_eq!(
            printed(Style { tail, ..style() }, &written),
            ["one line\n", "rest\n"]
        );
    }

    #[test]
    fn lines_that_match_and_colours() {
        let grep = Some(Regex::new("^e.r").unwrap());
        let written = [
            (OUT, 1, &b"an error\n"[..]),
            (LogSource::Stderr, 1, b"err\xff\n"),
        ];
        let lines = printed(
            Style {
                grep,
                color: Color::always(true),
                ..style()
            },
            &written,
        );
        assert_eq!(lines, ["\x1b[31merr\u{fffd}\x1b[0m\n"]);
    }

    #[test]
    fn colours_wait_for_no_end_of_a_line() {
        let written = [
            (OUT, 1, &b"name? "[..]),
            (LogSource::Stderr, 1, b"one\n\ntw"),
            (LogSource::System, 0, b"ready\n"),
        ];
        let color = Color::always(true);
        let coloured = printed_at_once(Style { color, ..style() }, &written);
        assert_eq!(
            coloured,
            [
                "name? ",
                "\x1b[31mone\x1b[0m\n\n\x1b[31mtw\x1b[0m",
                "\x1b[2mready\x1b[0m\n"
            ]
        );
        // Each stream for itself: one of them may be a file.
        let color = Color {
            stdout: true,
            stderr: false,
        };
        let coloured = printed_at_once(Style { color, ..style() }, &written);
        assert_eq!(coloured, ["name? ", "one\n\ntw", "\x1b[2mready\x1b[0m\n"]);
    }

    #[test]
    fn lines_of_terminals_end_where_people_see_it() {
        let grep = Some(Regex::new("^done$").unwrap());
        let written = [(LogSource::Output, 1, &b"done\r\nnot done\r\n"[..])];
        assert_eq!(printed(Style { grep, ..style() }, &written), ["done\r\n"]);
    }

    #[test]
    fn json_keeps_every_byte() {
        let json = true;
        let written = [(OUT, 7, &b"ok"[..]), (LogSource::System, 0, b"\xff\0")];
        let lines = printed(Style { json, ..style() }, &written);
        let values: Vec<serde_json::Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(values[0]["text"], "ok");
        assert_eq!(values[0]["session"], 7);
        assert_eq!(values[0]["source"], "stdout");
        assert_eq!(values[0]["data_hex"], serde_json::Value::Null);
        assert_eq!(values[1]["session"], serde_json::Value::Null);
        assert_eq!(values[1]["data_hex"], "ff00");
    }
}
