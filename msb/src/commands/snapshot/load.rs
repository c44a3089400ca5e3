//! `msb snapshot load`

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use microsandbox::snapshots::{LoadOptions, SnapshotName, Snapshots};

use super::advice::advise;
use super::view::created;
use crate::commands::Format;
use crate::commands::progress::Progress;
use crate::failure::{Hint, with_hint};
use crate::output;

/// Makes a snapshot of an archive of `msb snapshot save`, and prints its name
///
/// It is verified. An image that comes with it is added to those that are here; it gets the name that it had, unless another image
/// has it.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when it is made, 1 otherwise; 128+N when signal N ended it, and nothing remains then

Examples:
  msb snapshot load -i base.tar.zst
  msb snapshot load --name other <base.tar.zst")]
pub(super) struct Arguments {
    /// The archive [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Name of the snapshot here [default: the one that it had]
    #[arg(short, long, value_name = "NAME")]
    name: Option<SnapshotName>,

    /// Takes the place of a snapshot of that name
    #[arg(short, long)]
    force: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "quiet")]
    format: Format,

    /// Prints nothing
    #[arg(short, long)]
    quiet: bool,
}

/// Loads it.
pub(super) fn execute(snapshots: &Snapshots, arguments: Arguments) -> anyhow::Result<u8> {
    let input = open(arguments.input.as_deref())?;
    let options = LoadOptions {
        name: arguments.name,
        replace: arguments.force,
    };
    let progress = RefCell::new(Progress::new(0)?);
    let input = Watched {
        input,
        progress: &progress,
    };
    let loaded = snapshots.load(input, &options, &mut |done, total| {
        progress.borrow_mut().advance_of(done, total)
    });
    let loaded = match (progress.into_inner().finish(), loaded) {
        (_, Ok(loaded)) => loaded,
        (Some(signal), Err(_)) => return Ok(128 + signal as u8),
        (None, Err(error)) => return Err(advise(error)),
    };
    output::print(&created(&loaded, arguments.format, arguments.quiet)?)?;
    Ok(0)
}

fn open(path: Option<&Path>) -> anyhow::Result<File> {
    let Some(path) = path else {
        if io::stdin().is_terminal() {
            return Err(with_hint(
                anyhow!("standard input is a terminal, and no archive"),
                "name a file: `msb snapshot load -i base.tar.zst`",
            ));
        }
        let input = io::stdin().as_fd().try_clone_to_owned();
        return Ok(File::from(input.context("cannot use standard input")?));
    };
    File::open(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .hint("`msb snapshot save` makes archives")
}

/// An archive that may be a pipe: a signal ends the wait for it.
struct Watched<'p> {
    input: File,
    progress: &'p RefCell<Progress>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.progress.borrow_mut().wait_for(self.input.as_fd());
        match wanted.map_err(io::Error::other)? {
            ControlFlow::Continue(()) => self.input.read(buffer),
            ControlFlow::Break(()) => Err(io::Error::other("it was given up")),
        }
    }
}
