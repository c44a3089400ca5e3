//! `msb disk check`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use disk::{CheckReport, Format, Repair};
use serde::Serialize;

use super::format::{advise, format_of, options};
use crate::commands::ListFormat;
use crate::output;

/// Exit status for an image with damaged metadata.
const CORRUPT: u8 = 2;

/// Exit status for an image that is sound and takes up more storage than it needs.
const LEAKS: u8 = 3;

/// Examines the metadata of a disk image that nobody uses
#[derive(Debug, Args)]
#[command(after_help = "Exit status, as qemu-img check has it:
  0 the image is sound, or is now
  1 it could not be examined
  2 it is damaged
  3 it is sound, but takes up storage that nothing refers to

Examples:
  msb disk check data.qcow2
  msb disk check -r leaks data.qcow2
  msb disk check --format json disk.vmdk")]
pub(super) struct Arguments {
    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,

    /// Format of the image: qcow2 or vmdk
    #[arg(short = 'f', value_name = "FORMAT")]
    image_format: Option<Format>,

    /// Repairs what is found: leaks, or all, by which damaged parts of the disk may become zeros
    #[arg(short, long, value_name = "WHAT")]
    repair: Option<What>,

    /// Permits extents outside the folder of the image: a file, or a folder and what is beneath it
    #[arg(long, value_name = "PATH")]
    allow: Vec<PathBuf>,

    /// The image
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Leaks,
    All,
}

/// Names as qemu-img(1) has them.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct View {
    corruptions: u64,
    leaks: u64,
    corruptions_fixed: u64,
    leaks_fixed: u64,
    messages: Vec<String>,
}

/// Examines it. Returns the exit status.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let format = format_of(&arguments.file, arguments.image_format, "-f")?;
    let repair = match arguments.repair {
        None => Repair::Nothing,
        Some(What::Leaks) => Repair::Leaks,
        Some(What::All) => Repair::All,
    };
    let options = options(format, true, &arguments.allow);
    let report = disk::check(&arguments.file, &options, repair).map_err(advise)?;
    let status = match (report.corruptions, report.leaks) {
        (0, 0) => 0,
        (0, _) => LEAKS,
        _ => CORRUPT,
    };
    let text = match arguments.format {
        ListFormat::Table => lines(&report),
        ListFormat::Json => output::json(&View::new(report))?,
    };
    output::print(&text)?;
    Ok(status)
}

impl View {
    fn new(report: CheckReport) -> View {
        View {
            corruptions: report.corruptions,
            leaks: report.leaks,
            corruptions_fixed: report.corruptions_fixed,
            leaks_fixed: report.leaks_fixed,
            messages: report.messages,
        }
    }
}

fn lines(report: &CheckReport) -> String {
    let mut text: String = report
        .messages
        .iter()
        .map(|message| format!("{}\n", output::clean(message)))
        .collect();
    for (count, what) in [
        (report.corruptions_fixed, "corruptions were repaired"),
        (report.leaks_fixed, "leaks were given back"),
        (report.corruptions, "corruptions"),
        (report.leaks, "leaks"),
    ] {
        if count > 0 {
            text.push_str(&format!("{count} {what}\n"));
        }
    }
    if report.corruptions == 0 && report.leaks == 0 {
        text.push_str("the image is sound\n");
    }
    text
}
