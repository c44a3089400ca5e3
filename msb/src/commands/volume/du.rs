//! `msb volume du`

use clap::Args;
use microsandbox::volumes::{VolumeName, Volumes};
use serde::Serialize;

use super::advice::advise;
use crate::commands::ListFormat;
use crate::failure::{self, FAILED};
use crate::options::display_rounded_size;
use crate::output;
use crate::table::table;

/// Tells how much room volumes take up on the host
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb volume du
  msb volume du cache --format json")]
pub(super) struct Arguments {
    /// Names of the volumes [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<VolumeName>,

    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,
}

#[derive(Debug, Serialize)]
struct Usage {
    name: String,
    used_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    total_bytes: u64,
    volumes: Vec<Usage>,
}

/// Adds it up.
pub(super) fn execute(volumes: &Volumes, arguments: &Arguments) -> anyhow::Result<u8> {
    let found = if arguments.names.is_empty() {
        volumes
            .list()
            .map_err(advise)?
            .into_iter()
            .map(Ok)
            .collect()
    } else {
        let names = arguments.names.iter();
        names.map(|name| volumes.get(name)).collect::<Vec<_>>()
    };
    let mut status = 0;
    let mut report = Report {
        total_bytes: 0,
        volumes: Vec::new(),
    };
    for volume in found {
        let used = volume.and_then(|volume| Ok((volume.name().to_string(), volume.used_bytes()?)));
        match used {
            Ok((name, used_bytes)) => {
                report.total_bytes = report.total_bytes.saturating_add(used_bytes);
                report.volumes.push(Usage { name, used_bytes });
            }
            Err(error) => {
                failure::report(&advise(error));
                status = FAILED;
            }
        }
    }
    let text = match arguments.format {
        ListFormat::Table => in_columns(&report),
        ListFormat::Json => output::json(&report)?,
    };
    output::print(&text)?;
    Ok(status)
}

fn in_columns(report: &Report) -> String {
    let row = |name: &str, bytes| [display_rounded_size(bytes), name.to_owned()];
    let mut rows: Vec<_> = report
        .volumes
        .iter()
        .map(|usage| row(&usage.name, usage.used_bytes))
        .collect();
    if rows.len() > 1 {
        rows.push(row("(all)", report.total_bytes));
    }
    table(["USED", "NAME"], &rows)
}
