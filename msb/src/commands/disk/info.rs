//! `msb disk info`

use std::path::PathBuf;

use clap::Args;
use disk::{Format, Info};
use serde::Serialize;

use super::format::{advise, format_of, options};
use crate::commands::ListFormat;
use crate::options::display_size;
use crate::output;

/// Describes a disk image
#[derive(Debug, Args)]
#[command(after_help = "Backing files are named, not opened.

Examples:
  msb disk info data.qcow2
  msb disk info --format json appliance.vmdk
  msb disk info -f raw /dev/loop0")]
pub(super) struct Arguments {
    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,

    /// Format of the image: raw, qcow2 or vmdk
    #[arg(short = 'f', value_name = "FORMAT")]
    image_format: Option<Format>,

    /// Permits extents outside the folder of the image: a file, or a folder and what is beneath it
    #[arg(long, value_name = "PATH")]
    allow: Vec<PathBuf>,

    /// The image
    file: PathBuf,
}

/// Names and units as qemu-img(1) has them.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct View {
    filename: String,
    format: &'static str,
    virtual_size: u64,
    actual_size: u64,
    cluster_size: Option<u64>,
    subformat: Option<&'static str>,
    backing_filename: Option<String>,
    snapshots: u64,
    dirty_flag: bool,
}

/// Prints it.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let format = format_of(&arguments.file, arguments.image_format, "-f")?;
    let info =
        disk::info(&arguments.file, &options(format, true, &arguments.allow)).map_err(advise)?;
    let view = View::new(arguments.file.to_string_lossy().into_owned(), info);
    let text = match arguments.format {
        ListFormat::Table => view.lines(),
        ListFormat::Json => output::json(&view)?,
    };
    output::print(&text)?;
    Ok(0)
}

impl View {
    fn new(filename: String, info: Info) -> View {
        View {
            filename,
            format: info.format.name(),
            virtual_size: info.virtual_size,
            actual_size: info.allocated,
            cluster_size: info.cluster_size,
            subformat: info.subformat,
            backing_filename: info
                .backing_file
                .map(|path| path.to_string_lossy().into_owned()),
            snapshots: info.snapshots,
            dirty_flag: info.dirty,
        }
    }

    fn lines(&self) -> String {
        let size = |bytes| match display_size(bytes) {
            shown if shown.ends_with("bytes") => shown,
            shown => format!("{shown} ({bytes} bytes)"),
        };
        let mut lines = vec![
            ("image", self.filename.clone()),
            ("format", self.format.to_owned()),
            ("virtual size", size(self.virtual_size)),
            ("disk size", size(self.actual_size)),
        ];
        lines.extend(self.subformat.map(|name| ("subformat", name.to_owned())));
        lines.extend(self.cluster_size.map(|bytes| ("cluster size", size(bytes))));
        lines.extend(
            self.backing_filename
                .clone()
                .map(|name| ("backing file", name)),
        );
        if self.snapshots > 0 {
            lines.push(("snapshots", self.snapshots.to_string()));
        }
        if self.dirty_flag {
            lines.push((
                "dirty",
                "yes: whoever wrote it last did not close it".to_owned(),
            ));
        }
        lines
            .into_iter()
            // Names come from the image, and must not move the cursor.
            .map(|(name, value)| format!("{name:13} {}\n", output::clean(&value)))
            .collect()
    }
}
