//! `msb image prune`

use clap::Args;
use microsandbox::images::Images;

use super::advice::advise;
use super::removed::{View, lines};
use crate::commands::Format;
use crate::commands::confirmation::is_to_go;
use crate::options::display_rounded_size;
use crate::output;

/// Removes images that no sandbox was made of and that have no name, and what is left of downloads that were broken off
///
/// Waits for those who are adding images.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb image prune -f
  msb image prune --all                     Also images with names
  msb image prune -f --format json | jq .freed_bytes")]
pub(super) struct Arguments {
    /// Also images that have names
    #[arg(short, long)]
    all: bool,

    /// Does not ask
    #[arg(short, long)]
    force: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Removes them.
pub(super) fn execute(images: &Images, arguments: &Arguments) -> anyhow::Result<u8> {
    if !arguments.force && !confirm(arguments.all)? {
        return Ok(0);
    }
    let removed = images.prune(arguments.all).map_err(advise)?;
    let text = match arguments.format {
        Format::Text => {
            let freed = display_rounded_size(removed.pruned.bytes);
            format!("{}freed: {freed}\n", lines(&removed))
        }
        Format::Json => output::json(&View::from(&removed))?,
    };
    output::print(&text)?;
    Ok(0)
}

fn confirm(all: bool) -> anyhow::Result<bool> {
    is_to_go(match all {
        true => "all images that no sandbox was made of",
        false => "all images without a name that no sandbox was made of",
    })
}
