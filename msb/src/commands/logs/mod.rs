//! `msb logs`

mod lines;
mod printer;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::SystemTime;

use clap::Args;
use microsandbox::Sandbox;
use microsandbox::logs::{LogCursor, LogError, LogSource, LogStream, LogStreamOptions};
use microsandbox::names::Name;
use regex::bytes::Regex;

use self::printer::{Printer, Style};
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
    #[arg(long)]
    no_color: bool,
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
    let mut printer = Printer::new(Style {
        timestamps: arguments.timestamps,
        show_id: arguments.show_id,
        json: arguments.json,
        color: arguments.color || (!arguments.no_color && printer::is_terminal()),
        grep: arguments.grep.clone(),
        tail: arguments.tail.count(),
    });
    if show(&directory, arguments, &mut printer)?.is_break() {
        return Ok(0);
    }
    let _ = printer.finish()?;
    Ok(0)
}

/// Prints what there is, and what comes if that is wanted. Breaks off when nobody reads any more.
fn show(
    directory: &Path,
    arguments: &Arguments,
    printer: &mut Printer,
) -> anyhow::Result<ControlFlow<()>> {
    let mut last = None;
    let tail = arguments.tail.count().is_some();
    // The end of what there is must be known before what comes is printed.
    if tail || !arguments.follow {
        let stream = open(directory, arguments, None, false)?;
        if drain(stream, printer, &mut last)?.is_break() || printer.print_tail()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    if arguments.follow {
        let stream = open(directory, arguments, last, true)?;
        return drain(stream, printer, &mut last);
    }
    Ok(ControlFlow::Continue(()))
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

fn drain(
    mut stream: LogStream,
    printer: &mut Printer,
    last: &mut Option<LogCursor>,
) -> anyhow::Result<ControlFlow<()>> {
    while let Some(entry) = stream.blocking_recv().map_err(explain)? {
        *last = Some(entry.cursor);
        if printer.take(&entry)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
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
