//! `msb disk create`

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use disk::Format;

use super::format::{advise, format_of, options};
use super::layout::layout;
use crate::commands::progress::Progress;
use crate::failure::with_hint;
use crate::options::parse_disk_size;

/// Makes an empty disk image
#[derive(Debug, Args)]
#[command(after_help = "Nothing is ever overwritten.

Options of the formats (-o):
  raw    preallocation=off|falloc|full
  qcow2  cluster_size=SIZE preallocation=off|metadata lazy_refcounts=on|off
  vmdk   subformat=monolithicSparse|monolithicFlat

Examples:
  msb disk create data.qcow2 20G
  msb disk create -f raw -o preallocation=falloc data 512M
  msb disk create -o subformat=monolithicFlat data.vmdk 1G
  msb disk create -b base.qcow2 -F qcow2 overlay.qcow2    As large as its backing file")]
pub(super) struct Arguments {
    /// Format of the image: raw, qcow2 or vmdk
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,

    /// What can be chosen about the format: NAME=VALUE,...
    #[arg(short, long = "options", value_name = "OPTIONS")]
    options: Vec<String>,

    /// The image that holds what the new one does not; relative to the folder of the new one
    #[arg(short, long, value_name = "FILE", requires = "backing_format")]
    backing: Option<PathBuf>,

    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing")]
    backing_format: Option<Format>,

    /// Permits backing files outside the folder of the new image: a file, or a folder and what is beneath it
    #[arg(long, value_name = "PATH")]
    allow: Vec<PathBuf>,

    /// The new image
    file: PathBuf,

    /// Size of the disk, with K, M, G or T behind it; a bare number counts bytes, as in qemu-img
    #[arg(value_parser = parse_disk_size)]
    size: Option<u64>,
}

/// Makes it. Returns the exit status: 128 and the number of the signal that ended it.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let format = format_of(&arguments.file, arguments.format, "-f")?;
    let backing = arguments.backing.clone().zip(arguments.backing_format);
    let size = match (arguments.size, &backing) {
        (Some(size), None) => size,
        (size, Some((name, format))) => {
            let folder = arguments.file.parent().unwrap_or(std::path::Path::new(""));
            let found = disk::open(
                &folder.join(name),
                &options(*format, true, &arguments.allow),
            )
            .map_err(advise)?;
            size.unwrap_or(found.size())
        }
        (None, None) => {
            return Err(with_hint(
                anyhow::anyhow!("the size of the disk is missing"),
                "give it behind the file, as in `msb disk create data.qcow2 20G`",
            ));
        }
    };
    if arguments.file.as_os_str().is_empty() {
        bail!("the name of the image is empty");
    }
    let layout = layout(format, size, &arguments.options, backing)?;
    let mut progress = Progress::new(size)?;
    let created = disk::create_with(&arguments.file, &layout, || progress.go_on());
    match (progress.finish(), created) {
        (_, Ok(())) => Ok(0),
        (Some(signal), Err(_)) => Ok(128 + signal as u8),
        (None, Err(error)) => Err(advise(error)),
    }
}
