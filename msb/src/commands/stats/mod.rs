//! `msb stats`

pub(super) mod screen;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use microsandbox::names::Name;

use self::screen::Screen;
use super::ListFormat;
use super::metrics::reading::{Order, Subject, in_columns};
use super::runtime::block_on;
use crate::output;

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows what running sandboxes use, as a table that stays up to date
///
/// Without a terminal, or with --no-stream, the table is printed once.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them are shown, 1 otherwise

Examples:
  msb stats
  msb stats --sort cpu
  msb stats --no-stream --format json web db")]
pub(super) struct Arguments {
    /// Names of the sandboxes [default: all that run]
    #[arg(value_name = "NAME")]
    names: Vec<Name>,

    /// Prints one reading only
    #[arg(long)]
    no_stream: bool,

    /// What is shown first: the busiest, the largest, or by name
    #[arg(long, value_enum, default_value_t = Order::Name)]
    sort: Order,

    /// How to print; JSON is an array, on one line for each reading of a stream
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,
}

/// Shows them.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let on_terminal = io::stdout().is_terminal();
    let live = !arguments.no_stream && (on_terminal || arguments.format == ListFormat::Json);
    block_on(async {
        let mut subject = Subject::new(arguments.names);
        let mut screen = Screen::new();
        // Use is measured from one reading to the next.
        subject.read(&mut screen).await?;
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let mut readings = subject.read(&mut screen).await?;
            arguments.sort.apply(&mut readings);
            let shown = match arguments.format {
                ListFormat::Table if live => screen.show(&in_columns(&readings))?,
                ListFormat::Table => output::stream(&in_columns(&readings))?,
                ListFormat::Json if live => {
                    output::stream(&format!("{}\n", serde_json::to_string(&readings)?))?
                }
                ListFormat::Json => output::stream(&output::json(&readings)?)?,
            };
            if !live || shown.is_break() || subject.is_gone(&readings) {
                return Ok(subject.status(&readings));
            }
        }
    })
}
