//! `msb disk resize`

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use disk::Format;

use super::format::{advise, format_of, options};
use crate::failure::with_hint;
use crate::options::{NewSize, display_size, parse_new_size};

/// Changes the size of a disk image that nobody uses
#[derive(Debug, Args)]
#[command(
    after_help = "The partitions and file systems on the disk stay as large as they are.

Examples:
  msb disk resize data.qcow2 40G
  msb disk resize data.qcow2 +10G
  msb disk resize --shrink data.raw -1G     What was behind the new end is lost"
)]
pub(super) struct Arguments {
    /// Format of the image: raw or qcow2
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Permits to make it smaller, by which what is behind the new end is lost
    #[arg(long)]
    shrink: bool,

    /// Permits backing files outside the folder of the image: a file, or a folder and what is beneath it
    #[arg(long, value_name = "PATH")]
    allow: Vec<PathBuf>,

    /// The image
    file: PathBuf,

    /// The new size, or with + or - the difference
    #[arg(value_name = "[+|-]SIZE", value_parser = parse_new_size, allow_hyphen_values = true)]
    size: NewSize,
}

/// Changes it.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let format = format_of(&arguments.file, arguments.format, "-f")?;
    let shown = arguments.file.display();
    if format == Format::Vmdk {
        return Err(with_hint(
            anyhow!("an image of the format {format} keeps its size"),
            "convert it to qcow2 or raw first (msb disk convert)",
        ));
    }
    let image =
        disk::open(&arguments.file, &options(format, false, &arguments.allow)).map_err(advise)?;
    let before = image.size();
    let size = match arguments.size {
        NewSize::To(size) => Some(size),
        NewSize::Grow(more) => before.checked_add(more),
        NewSize::Shrink(less) => before.checked_sub(less).filter(|&size| size > 0),
    };
    let size = size.ok_or_else(|| {
        anyhow!(
            "{shown} has {}: that cannot be the new size",
            display_size(before)
        )
    })?;
    if size < before && !arguments.shrink {
        return Err(with_hint(
            anyhow!("{shown} would lose what is behind {}", display_size(size)),
            "add --shrink if that may go",
        ));
    }
    image
        .resize(size)
        .and_then(|()| image.flush())
        .with_context(|| format!("cannot resize {shown}"))?;
    Ok(0)
}
