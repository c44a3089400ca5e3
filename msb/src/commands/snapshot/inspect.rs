//! `msb snapshot inspect`

use clap::Args;
use microsandbox::snapshots::Snapshots;

use super::advice::advise;
use super::verify::verify;
use super::view::View;
use crate::commands::Format;
use crate::output;

/// Shows all that is known of snapshots
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb snapshot inspect base
  msb snapshot inspect ./snapshots/base --format json | jq '.[0].digest'
  msb snapshot inspect --verify base")]
pub(super) struct Arguments {
    /// Names or paths of the snapshots
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,

    /// Reads all their data, too, and compares it with what was copied
    #[arg(long)]
    verify: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Shows it.
pub(super) fn execute(snapshots: &Snapshots, arguments: &Arguments) -> anyhow::Result<u8> {
    let views = arguments.snapshots.iter().map(|snapshot| {
        let found = snapshots.get(snapshot).map_err(advise)?;
        Ok(View::of(&found))
    });
    let views = views.collect::<anyhow::Result<Vec<_>>>()?;
    if arguments.verify {
        let status = verify(snapshots, &arguments.snapshots, |_| Ok(()))?;
        if status != 0 {
            return Ok(status);
        }
    }
    let text = match arguments.format {
        Format::Text => {
            let descriptions: Vec<_> = views.iter().map(View::describe).collect();
            descriptions.join("\n")
        }
        Format::Json => output::json(&views)?,
    };
    output::print(&text)?;
    Ok(0)
}
