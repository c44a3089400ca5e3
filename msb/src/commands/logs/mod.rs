//! `msb logs`

mod lines;
mod printer;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::SystemTime;

use clap::Args;
use microsandbox::Sandbox;
use microsandbox::logs::{
    LogCursor, LogError, LogOptions, LogSource, LogStream, LogStreamOptions, read_logs,
};
use microsandbox::names::Name;
use regex::bytes::Regex;

use self::printer::{Color, Printer, Style};
use super::advice::advise;
use super::runtime::block_on;
use crate::failure::with_hint;
use crate::options::{Tail, parse_moment, parse_tail};

/// Shows what the processes of a sandbox wrote, running or stopped
///
/// Standard error goes to standard error, everything else to standard output, byte for byte unless an option asks for lines.
#[derive(Debug, Args)]
#[command(
    after_help = "Moments are durations before now (10m, 2h) or times (2026-11-25T20:50:07Z).

Examples:
  msb logs web
  msb logs -f --tail 20 --timestamps web
  msb logs --since 10m --source all --grep 'error|warning' web
  msb logs --json web | jq .text"
)]
pub(super) struct Arguments {
    /// Name of the sandbox
    #[arg(value_name = "NAME")]
    name: Name,

    /// Goes on with what is written, until the sandbox has stopped
    #[arg(short, long)]
    follow: bool,

    /// Only the last N lines, with --json entries; or `all`
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_tail, default_value = "all", hide_default_value = true)]
    tail: Tail,

    /// Only what was written at this moment or later
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    since: Option<SystemTime>,

    /// Only what was written before this moment
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    until: Option<SystemTime>,

    /// Only what comes from there: processes without a terminal (stdout, stderr) and with one (output), the machine itself
    /// (system)
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "stdout,stderr,output"
    )]
    source: Vec<Source>,

    /// Begins each line with its time
    #[arg(short, long)]
    timestamps: bool,

    /// Begins each line with the number of its session
    #[arg(long)]
    show_id: bool,

    /// Only lines that match this regular expression
    #[arg(long, value_name = "PATTERN")]
    grep: Option<Regex>,

    /// Prints a JSON object for each entry
    #[arg(long, conflicts_with_all = ["timestamps", "show_id"])]
    json: bool,

    /// Colours lines by their source [default: on a terminal]
    #[arg(long, overrides_with = "no_color")]
    color: bool,

    /// Does not
    #[arg(long, overrides_with = "color")]
    no_color: bool,
}

/// Entries that are read at least for the last lines: reading them costs next to nothing.
const LEAST_ENTRIES: usize = 256;

/// Entries in which beginnings of the last lines are looked for. Of a session's first line nobody can say where it begins; and in a log
/// of many short sessions all would be read for it.
const MOST_FOR_BEGINNINGS: usize = 16 << 10;

impl Arguments {
    fn style(&self, tail: Option<usize>) -> Style {
        Style {
            timestamps: self.timestamps,
            show_id: self.show_id,
            json: self.json,
            color: match (self.color, self.no_color) {
                (true, _) => Color::always(true),
                (_, true) => Color::always(false),
                _ => Color::of_terminals(),
            },
            grep: self.grep.clone(),
            tail,
        }
    }
}

/// Sources, as they are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    Stdout,
    Stderr,
    Output,
    System,
    All,
}

/// Shows it.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let directory = block_on(async {
        match Sandbox::get(arguments.name.as_str()).await {
            Ok(sandbox) => Ok(sandbox.log_directory()),
            Err(error) => Err(advise(error).await),
        }
    })?;
    let _ = show(&directory, arguments)?;
    Ok(0)
}

/// Prints what there is, and what comes if that is wanted. Breaks off when nobody reads any more.
fn show(directory: &Path, arguments: &Arguments) -> anyhow::Result<ControlFlow<()>> {
    let Some(count) = arguments.tail.count() else {
        let stream = open(directory, arguments, None, arguments.follow)?;
        return drain(stream, Printer::new(arguments.style(None)));
    };
    let (mut printer, last) = read_tail(directory, arguments, count)?;
    if !arguments.follow {
        // A line without an end is the last one.
        let _ = printer.finish()?;
        return printer.print_tail(count);
    }
    // The end of what there is must be known before what comes is printed.
    if printer.print_tail(count)?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    drain(open(directory, arguments, last, true)?, printer)
}

/// Reads as much from the end of the log as the last `count` lines take, as far as possible from their beginnings on, and the cursor
/// at its end.
fn read_tail(
    directory: &Path,
    arguments: &Arguments,
    count: usize,
) -> anyhow::Result<(Printer, Option<LogCursor>)> {
    let mut wanted = count.max(LEAST_ENTRIES);
    loop {
        let options = LogOptions {
            tail: Some(wanted),
            since: arguments.since,
            until: arguments.until,
            sources: sources(&arguments.source),
        };
        let entries = read_logs(directory, &options).map_err(explain)?;
        let mut printer = Printer::new(arguments.style(Some(count)));
        for entry in &entries {
            // It holds all of them back.
            let _ = printer.take(entry)?;
        }
        let is_enough =
            printer.held_count() >= count && (printer.is_whole() || wanted >= MOST_FOR_BEGINNINGS);
        if is_enough || entries.len() < wanted {
            return Ok((printer, entries.last().map(|entry| entry.cursor)));
        }
        wanted = wanted.saturating_mul(4);
    }
}

fn open(
    directory: &Path,
    arguments: &Arguments,
    from_cursor: Option<LogCursor>,
    follow: bool,
) -> anyhow::Result<LogStream> {
    let options = LogStreamOptions {
        sources: sources(&arguments.source),
        since: arguments.since.filter(|_| from_cursor.is_none()),
        from_cursor,
        until: arguments.until,
        follow,
    };
    LogStream::open(directory, options).map_err(explain)
}

/// Prints the stream to its end.
fn drain(mut stream: LogStream, mut printer: Printer) -> anyhow::Result<ControlFlow<()>> {
    while let Some(entry) = stream.blocking_recv().map_err(explain)? {
        if printer.take(&entry)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    printer.finish()
}

fn explain(error: LogError) -> anyhow::Error {
    match error {
        LogError::Io {
            action: "follow", ..
        } => with_hint(error, "without --follow, what there is can be read"),
        error => error.into(),
    }
}

fn sources(chosen: &[Source]) -> Vec<LogSource> {
    if chosen.contains(&Source::All) {
        return LogSource::ALL.to_vec();
    }
    let source = |chosen: &Source| match chosen {
        Source::Stdout => Some(LogSource::Stdout),
        Source::Stderr => Some(LogSource::Stderr),
        Source::Output => Some(LogSource::Output),
        Source::System => Some(LogSource::System),
        Source::All => None,
    };
    chosen.iter().filter_map(source).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use clap::Parser;
    use microsandbox::logs::{LogBatch, LogWriter};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_last_lines_are_whole_however_long_ago_they_began() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(directory.path(), 1 << 20).unwrap();
        let mut batch = LogBatch::new();
        let mut push = |source, session, text: &str| {
            batch.push(source, session, SystemTime::now(), text.as_bytes());
        };
        push(LogSource::Stdout, 1, "first\nbe");
        push(LogSource::Stderr, 1, "rest ");
        for _ in 0..2_000 {
            push(LogSource::Stdout, 2, "other\n");
        }
        push(LogSource::Stdout, 1, "gun\n");
        push(LogSource::Stderr, 1, "of it");
        writer.write(&mut batch).unwrap();
        let printed = |count: usize| {
            let tail = format!("--tail={count}");
            let line = Line::parse_from(["logs", &tail, "web"]);
            let (mut printer, _) = read_tail(directory.path(), &line.arguments, count).unwrap();
            let _ = printer.finish().unwrap();
            printer.held()
        };
        assert_eq!(printed(1), ["rest of it\n"]);
        assert_eq!(printed(3), ["other\n", "begun\n", "rest of it\n"]);
        let all = printed(5_000);
        assert_eq!((all.len(), &all[0][..]), (2_003, "first\n"));
    }
}
