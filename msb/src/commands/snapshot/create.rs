//! `msb snapshot create`

use std::path::PathBuf;

use clap::Args;
use microsandbox::names::Name;
use microsandbox::snapshots::{SnapshotName, SnapshotOptions, Snapshots};

use super::view::created;
use crate::commands::Format;
use crate::commands::advice::advise;
use crate::commands::progress::Progress;
use crate::commands::runtime::block_on;
use crate::options::Label;
use crate::output;

/// Makes a snapshot of a stopped sandbox, and prints its name or its path
///
/// It has everything that the sandbox has changed in its root, and none of its volumes. The sandbox stays as it is. A snapshot is a
/// copy that shares its data with the sandbox where the file system can (reflinks of Btrfs and XFS), and has a digest of
/// it.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when it is made, 1 otherwise; 128+N when signal N ended it, and nothing remains then

Examples:
  msb stop web && msb snapshot create base --from web
  msb snapshot create base --from web -f --label commit=3f2a
  msb snapshot create base --from web --dest-dir ./snapshots   In the directory ./snapshots/base")]
pub(super) struct Arguments {
    /// Name of the snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,

    /// The sandbox that it is made of, which is stopped
    #[arg(long, value_name = "SANDBOX")]
    from: Name,

    /// Makes it a directory NAME in here, to be used by its path; the image that it is based on can be removed then
    #[arg(long, value_name = "DIR")]
    dest_dir: Option<PathBuf>,

    /// Something to remember about it
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = Label::parse)]
    label: Vec<Label>,

    /// Takes the place of a snapshot of that name, or at that path
    #[arg(short, long)]
    force: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "quiet")]
    format: Format,

    /// Prints nothing
    #[arg(short, long)]
    quiet: bool,
}

/// Makes it.
pub(super) fn execute(snapshots: &Snapshots, arguments: Arguments) -> anyhow::Result<u8> {
    let labels = arguments.label.into_iter();
    let options = SnapshotOptions {
        labels: labels
            .map(|label| (label.key, label.value.unwrap_or_default()))
            .collect(),
        replace: arguments.force,
    };
    let (name, from) = (&arguments.name, &arguments.from);
    let mut progress = Progress::new(0)?;
    let mut advance = |done, total| progress.advance_of(done, total);
    let made = match &arguments.dest_dir {
        None => snapshots.create(name, from, &options, &mut advance),
        Some(folder) => {
            snapshots.create_at(&folder.join(name.as_str()), from, &options, &mut advance)
        }
    };
    let made = match (progress.finish(), made) {
        (_, Ok(made)) => made,
        (Some(signal), Err(_)) => return Ok(128 + signal as u8),
        (None, Err(error)) => return block_on(async { Err(advise(error).await) }),
    };
    output::print(&created(&made, arguments.format, arguments.quiet)?)?;
    Ok(0)
}
