//! `msb metrics`

mod prometheus;
pub(super) mod reading;

use std::time::Duration;

use clap::Args;
use microsandbox::names::Name;

use self::reading::{Order, Reading, Subject};
use super::runtime::block_on;
use super::stats::screen::Screen;
use crate::options::parse_duration;
use crate::output;

/// Shows what running sandboxes use
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them are shown, 1 otherwise

Examples:
  msb metrics
  msb metrics web --format json
  msb metrics --format prometheus > /var/lib/node_exporter/msb.prom")]
pub(super) struct Arguments {
    /// Names of the sandboxes [default: all that run]
    #[arg(value_name = "NAME")]
    names: Vec<Name>,

    /// What is shown first: the busiest, the largest, or by name
    #[arg(long, value_enum, default_value_t = Order::Name)]
    sort: Order,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Prints again and again
    #[arg(short, long)]
    watch: bool,

    /// Time between two readings
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s", requires = "watch")]
    interval: Duration,
}

/// How metrics are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people: a line for each.
    Table,
    /// For programs: an array, on one line with --watch.
    Json,
    /// Prometheus' text format.
    Prometheus,
}

/// Shows them.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    block_on(async {
        let mut subject = Subject::new(arguments.names);
        let mut ticks = tokio::time::interval(arguments.interval);
        let mut screen = Screen::new();
        loop {
            ticks.tick().await;
            let mut readings = subject.read(&mut screen).await?;
            arguments.sort.apply(&mut readings);
            let text = render(&readings, arguments.format, arguments.watch)?;
            let shown = match arguments.format {
                Format::Table if arguments.watch => screen.show(&text)?,
                _ => output::stream(&text)?,
            };
            if !arguments.watch || shown.is_break() || subject.is_gone(&readings) {
                return Ok(subject.status(&readings));
            }
        }
    })
}

fn render(readings: &[Reading], format: Format, on_one_line: bool) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => reading::in_columns(readings),
        Format::Json if on_one_line => format!("{}\n", serde_json::to_string(readings)?),
        Format::Json => output::json(readings)?,
        Format::Prometheus => prometheus::render(readings),
    })
}
