//! `msb volume inspect`

use clap::Args;
use microsandbox::volumes::{VolumeName, Volumes};

use super::advice::advise;
use super::view::View;
use crate::commands::Format;
use crate::output;

/// Shows all that is known of volumes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb volume inspect cache
  msb volume inspect cache db --format json")]
pub(super) struct Arguments {
    /// Names of the volumes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<VolumeName>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Shows it.
pub(super) fn execute(volumes: &Volumes, arguments: &Arguments) -> anyhow::Result<u8> {
    let view = |name| View::of(&volumes.get(name).map_err(advise)?);
    let views = arguments
        .names
        .iter()
        .map(view)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let text = match arguments.format {
        Format::Text => {
            let descriptions: Vec<_> = views.iter().map(View::describe).collect();
            descriptions.join("\n")
        }
        Format::Json => output::json(&views)?,
    };
    output::print(&text)?;
    Ok(0)
}
