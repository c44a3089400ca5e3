//! `msb image rm`

use clap::Args;
use microsandbox::images::{ImageError, Images};

use super::advice::advise;
use super::removed::{View, lines};
use crate::commands::Format;
use crate::failure::{self, FAILED};
use crate::output;

/// Takes names away from images, removes those that have none then, and prints what it did
///
/// An image that is given by its digest loses all its names. One that a sandbox was made of is not removed. The others are, whatever happens to one of them.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all are removed, 1 otherwise

Examples:
  msb image rm debian
  msb image rm -f $(msb image ls -q)")]
pub(super) struct Arguments {
    /// Names or digests of the images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,

    /// Is content with images that do not exist
    #[arg(short, long)]
    force: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Removes them.
pub(super) fn execute(images: &Images, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut status = 0;
    let mut view = View::default();
    for image in &arguments.images {
        match images.remove(image) {
            Ok(removed) => match arguments.format {
                Format::Text => output::print(&lines(&removed))?,
                Format::Json => view.add(&removed),
            },
            Err(ImageError::ImageNotFound { .. }) if arguments.force => {}
            Err(error) => {
                failure::report(&advise(error));
                status = FAILED;
            }
        }
    }
    if arguments.format == Format::Json {
        output::print(&output::json(&view)?)?;
    }
    Ok(status)
}
