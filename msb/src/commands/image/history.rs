//! `msb image history`

use clap::Args;
use microsandbox::images::{ImageDetails, Images};
use serde::Serialize;

use super::advice::advise;
use crate::commands::ListFormat;
use crate::options::display_rounded_size;
use crate::output;
use crate::table::table;

/// Characters of a command that are shown in a table.
const SHOWN: usize = 60;

/// Shows in what steps an image was made, the last one first
///
/// SIZE is that of the layer that a step made, as it is distributed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb image history debian
  msb image history debian --no-trunc")]
pub(super) struct Arguments {
    /// Name or digest of the image
    #[arg(value_name = "IMAGE")]
    image: String,

    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,

    /// Shows all of each command
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Debug, Serialize)]
struct Step {
    created: Option<String>,
    created_by: String,
    /// None if it made no layer.
    size_bytes: Option<u64>,
    comment: Option<String>,
}

/// Shows it.
pub(super) fn execute(images: &Images, arguments: &Arguments) -> anyhow::Result<u8> {
    let steps = steps(images.inspect(&arguments.image).map_err(advise)?);
    let limit = if arguments.no_trunc {
        usize::MAX
    } else {
        SHOWN
    };
    let row = |step: &Step| {
        let size = step.size_bytes.map(display_rounded_size);
        [
            step.created.as_deref().unwrap_or("-").to_owned(),
            size.unwrap_or_else(|| "-".to_owned()),
            shortened(&step.created_by, limit),
        ]
    };
    let text = match arguments.format {
        ListFormat::Table => table(
            ["MADE", "SIZE", "BY"],
            &steps.iter().map(row).collect::<Vec<_>>(),
        ),
        ListFormat::Json => output::json(&steps)?,
    };
    output::print(&text)?;
    Ok(0)
}

/// The steps, and layers of which no step tells.
fn steps(found: ImageDetails) -> Vec<Step> {
    let mut sizes = found
        .manifest
        .layers
        .iter()
        .map(|layer| layer.descriptor.size);
    let mut steps = Vec::new();
    for step in found.config.history {
        steps.push(Step {
            size_bytes: if step.empty_layer { None } else { sizes.next() },
            created: step.created,
            created_by: step.created_by.unwrap_or_default(),
            comment: step.comment,
        });
    }
    steps.extend(sizes.map(|size| Step {
        created: None,
        created_by: String::new(),
        size_bytes: Some(size),
        comment: None,
    }));
    steps.reverse();
    steps
}

fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}
