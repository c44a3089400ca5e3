//! `msb image rm`

use clap::Args;
use microsandbox::images::{ImageError, Images};

use super::advice::advise;
use super::removed::lines;
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
}

/// Removes them.
pub(super) fn execute(images: &Images, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut status = 0;
    for image in &arguments.images {
        match images.remove(image) {
            Ok(removed) => output::print(&lines(&removed))?,
            Err(ImageError::ImageNotFound { .. }) if arguments.force => {}
            Err(error) => {
                failure::report(&advise(error));
                status = FAILED;
            }
        }
    }
    Ok(status)
}
