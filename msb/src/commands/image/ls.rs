//! `msb image ls`

use clap::Args;
use microsandbox::images::{ImageHandle, Images};

use super::advice::advise;
use super::view::{View, short};
use crate::commands::ListFormat;
use crate::options::display_rounded_size;
use crate::output;
use crate::table::table;

/// Lists the images, newest first
///
/// SIZE is that of the layers as sandboxes see them. Layers that several images have are there once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb image ls
  msb image ls --format json
  msb image rm $(msb image ls -q)")]
pub(super) struct Arguments {
    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,

    /// Prints names only, and the digests of images that have none
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
}

/// Lists them.
pub(super) fn execute(images: &Images, arguments: &Arguments) -> anyhow::Result<u8> {
    let images = images.list().map_err(advise)?;
    let text = if arguments.quiet {
        let names = images.iter().flat_map(names);
        names.map(|name| format!("{name}\n")).collect()
    } else {
        match arguments.format {
            ListFormat::Table => table(
                ["IMAGE", "DIGEST", "SIZE", "CREATED"],
                &images.iter().flat_map(rows).collect::<Vec<_>>(),
            ),
            ListFormat::Json => {
                let views: Vec<_> = images.iter().map(View::of).collect();
                output::json(&views)?
            }
        }
    };
    output::print(&text)?;
    Ok(0)
}

fn names(image: &ImageHandle) -> Vec<String> {
    match image.references() {
        [] => vec![image.digest().to_string()],
        names => names.iter().map(|name| name.familiar_tagged()).collect(),
    }
}

/// A line for each name.
fn rows(image: &ImageHandle) -> Vec<[String; 4]> {
    let view = View::of(image);
    let names = match &view.references[..] {
        [] => vec!["-".to_owned()],
        names => names.to_vec(),
    };
    let row = |name| {
        [
            name,
            short(image),
            display_rounded_size(view.size_bytes),
            view.created_at.clone(),
        ]
    };
    names.into_iter().map(row).collect()
}
