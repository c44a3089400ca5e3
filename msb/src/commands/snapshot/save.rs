//! `msb snapshot save`

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use microsandbox::snapshots::Snapshots;

use super::advice::advise;
use crate::commands::progress::Progress;
use crate::failure::with_hint;

/// Writes a snapshot to an archive, a tar that is compressed by Zstandard
///
/// It is verified before. `tar --zstd -x` makes a directory of the archive that is used by its path, `msb snapshot load` a snapshot
/// with a name. Only snapshots that are based on images can be in one.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when it is written, 1 otherwise; 128+N when signal N ended it

Examples:
  msb snapshot save base -o base.tar.zst
  msb snapshot save base --with-image | ssh host msb snapshot load")]
pub(super) struct Arguments {
    /// Name or path of the snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,

    /// File that is written [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Adds the image that the snapshot is based on
    #[arg(long)]
    with_image: bool,
}

/// Saves it.
pub(super) fn execute(snapshots: &Snapshots, arguments: &Arguments) -> anyhow::Result<u8> {
    if arguments.output.is_none() && io::stdout().is_terminal() {
        return Err(with_hint(
            anyhow!("standard output is a terminal, which has no use for an archive"),
            "write to a file with -o, or to a program with |",
        ));
    }
    let (snapshot, with_image) = (&arguments.snapshot, arguments.with_image);
    let mut progress = Progress::new(0)?;
    let mut advance = |done, total| progress.advance_of(done, total);
    let saved = match &arguments.output {
        Some(path) => snapshots.save_file(snapshot, with_image, path, &mut advance),
        None => {
            let mut output = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
            snapshots.save(snapshot, with_image, &mut output, &mut advance)
        }
    };
    match (progress.finish(), saved) {
        (_, Ok(())) => Ok(0),
        (Some(signal), Err(_)) => Ok(128 + signal as u8),
        (None, Err(error)) => Err(advise(error)),
    }
}
