//! `msb volume create`

use anyhow::Context;
use clap::Args;
use microsandbox::volumes::{VolumeConfig, VolumeKind, VolumeName, Volumes};

use super::advice::advise;
use super::view::View;
use crate::commands::Format;
use crate::options::{Label, parse_whole_mebibytes};
use crate::output;

/// Makes a volume and prints its name
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb volume create cache
  msb volume create cache --quota 2G --label env=prod
  msb volume create db --kind disk --size 20G")]
pub(super) struct Arguments {
    /// Name of the volume
    #[arg(value_name = "NAME", required_unless_present = "named")]
    name: Option<VolumeName>,

    /// The same, as an option
    #[arg(long = "name", value_name = "NAME", conflicts_with = "name")]
    named: Option<VolumeName>,

    /// A directory (dir), which sandboxes share, or a disk with a file system, for one at a time
    #[arg(long, value_name = "dir|disk", default_value = "dir")]
    kind: VolumeKind,

    /// Size of a disk, 8M or more; a bare number counts MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_whole_mebibytes)]
    size: Option<u32>,

    /// Most that sandboxes can put into a directory; a bare number counts MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_whole_mebibytes)]
    quota: Option<u32>,

    /// Something to remember about it
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = Label::parse)]
    label: Vec<Label>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "quiet")]
    format: Format,

    /// Prints nothing
    #[arg(short, long)]
    quiet: bool,
}

/// Makes it.
pub(super) fn execute(volumes: &Volumes, arguments: Arguments) -> anyhow::Result<u8> {
    let labels = arguments.label.into_iter();
    let config = VolumeConfig {
        kind: arguments.kind,
        quota_mib: arguments.quota,
        size_mib: arguments.size,
        labels: labels
            .map(|label| (label.key, label.value.unwrap_or_default()))
            .collect(),
    };
    // The grammar wants one of them.
    let name = arguments
        .name
        .or(arguments.named)
        .context("there is no name")?;
    let volume = volumes.create(&name, &config).map_err(advise)?;
    let text = match arguments.format {
        Format::Json => output::json(&View::of(&volume)?)?,
        Format::Text if arguments.quiet => String::new(),
        Format::Text => format!("{name}\n"),
    };
    output::print(&text)?;
    Ok(0)
}
