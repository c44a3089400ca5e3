//! `msb disk convert`

use std::path::PathBuf;

use clap::Args;
use disk::Format;

use super::format::{advise, format_of, options};
use super::layout::layout;
use crate::commands::progress::Progress;

/// Copies a disk into a new image of any format
#[derive(Debug, Args)]
#[command(
    after_help = "The new image appears when it is complete; nothing is ever overwritten. It holds all of the disk: backing files are copied into it.

Examples:
  msb disk convert appliance.vmdk appliance.qcow2
  msb disk convert -f raw -O vmdk -o subformat=monolithicFlat /dev/vg/lv disk.vmdk"
)]
pub(super) struct Arguments {
    /// Format of the source: raw, qcow2 or vmdk
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Format of the new image
    #[arg(short = 'O', long, value_name = "FORMAT")]
    output_format: Option<Format>,

    /// What can be chosen about the new format, as for `msb disk create`
    #[arg(short, long = "options", value_name = "OPTIONS")]
    options: Vec<String>,

    /// Permits backing files and extents outside the folder of the source: a file, or a folder and what is beneath it
    #[arg(long, value_name = "PATH")]
    allow: Vec<PathBuf>,

    /// The source
    source: PathBuf,

    /// The new image
    target: PathBuf,
}

/// Copies it. Returns the exit status: 128 and the number of the signal that ended it.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let format = format_of(&arguments.source, arguments.format, "-f")?;
    let new_format = format_of(&arguments.target, arguments.output_format, "-O")?;
    let source =
        disk::open(&arguments.source, &options(format, true, &arguments.allow)).map_err(advise)?;
    let layout = layout(new_format, source.size(), &arguments.options, None)?;
    let mut progress = Progress::new(source.size())?;
    let converted = disk::convert(&*source, &arguments.target, &layout, |done| {
        progress.advance(done)
    });
    match (progress.finish(), converted) {
        (_, Ok(())) => Ok(0),
        (Some(signal), Err(_)) => Ok(128 + signal as u8),
        (None, Err(error)) => Err(advise(error)),
    }
}
