//! `msb snapshot ls`

use clap::Args;
use microsandbox::snapshots::Snapshots;

use super::advice::advise;
use super::view::View;
use crate::commands::ListFormat;
use crate::output;
use crate::table::table;

/// Lists the snapshots that have names, newest first
///
/// SIZE is what sandboxes that are made of one can write at most, USED what it takes up on the host. What it shares with others
/// counts, too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb snapshot ls
  msb snapshot ls --format json
  msb snapshot rm $(msb snapshot ls -q)")]
pub(super) struct Arguments {
    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,

    /// Prints names only
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
}

/// Lists them.
pub(super) fn execute(snapshots: &Snapshots, arguments: &Arguments) -> anyhow::Result<u8> {
    let snapshots = snapshots.list().map_err(advise)?;
    let views: Vec<_> = snapshots.iter().map(View::of).collect();
    let text = if arguments.quiet {
        let names = snapshots
            .iter()
            .map(|snapshot| format!("{}\n", snapshot.display_name()));
        names.collect()
    } else {
        match arguments.format {
            ListFormat::Table => table(
                ["NAME", "BASED ON", "SANDBOX", "SIZE", "USED", "CREATED"],
                &views.iter().map(row).collect::<Vec<_>>(),
            ),
            ListFormat::Json => output::json(&views)?,
        }
    };
    output::print(&text)?;
    Ok(0)
}

fn row(view: &View) -> [String; 6] {
    [
        view.name(),
        view.based_on(),
        view.sandbox.clone(),
        view.size(),
        view.used(),
        view.created_at.clone(),
    ]
}
