//! `msb volume ls`

use clap::Args;
use microsandbox::volumes::{VolumeHandle, Volumes};

use super::advice::advise;

use super::view::View;
use crate::commands::ListFormat;
use crate::options::Label;
use crate::output;
use crate::table::table;

/// Lists the volumes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb volume ls
  msb volume ls --label env=prod
  msb volume rm $(msb volume ls -q)")]
pub(super) struct Arguments {
    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,

    /// Prints names only
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,

    /// Only those with this label
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = Label::parse)]
    label: Vec<Label>,
}

/// Lists them.
pub(super) fn execute(volumes: &Volumes, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut volumes = volumes.list().map_err(advise)?;
    volumes.retain(|volume| arguments.label.iter().all(|label| has(volume, label)));
    let text = if arguments.quiet {
        let names = volumes.iter().map(|volume| format!("{}\n", volume.name()));
        names.collect()
    } else {
        let views = volumes
            .iter()
            .map(View::of)
            .collect::<anyhow::Result<Vec<_>>>()?;
        match arguments.format {
            ListFormat::Table => table(
                ["NAME", "KIND", "SIZE", "USED", "CREATED"],
                &views.iter().map(row).collect::<Vec<_>>(),
            ),
            ListFormat::Json => output::json(&views)?,
        }
    };
    output::print(&text)?;
    Ok(0)
}

fn row(view: &View) -> [String; 5] {
    [
        view.name.clone(),
        view.kind.to_owned(),
        view.size(),
        view.used(),
        view.created().to_owned(),
    ]
}

fn has(volume: &VolumeHandle, label: &Label) -> bool {
    match (volume.labels().get(&label.key), &label.value) {
        (Some(value), Some(wanted)) => value == wanted,
        (found, None) => found.is_some(),
        (None, Some(_)) => false,
    }
}
