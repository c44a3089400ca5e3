//! `msb image tag`

use clap::Args;
use microsandbox::images::Images;
use microsandbox::images::image::Reference;

use super::advice::advise;
use super::view::View;
use crate::commands::Format;
use crate::output;

/// Gives an image a further name
///
/// An image that had the name loses it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb image tag debian mine:1
  msb image tag 3f2a9c1b ghcr.io/owner/image:1.2")]
pub(super) struct Arguments {
    /// Name or digest of the image
    #[arg(value_name = "IMAGE")]
    image: String,

    /// The name
    #[arg(value_name = "NAME")]
    name: Reference,

    /// How to print: text is nothing, json all that is known of the image
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Gives it.
pub(super) fn execute(images: &Images, arguments: &Arguments) -> anyhow::Result<u8> {
    let image = images
        .tag(&arguments.image, &arguments.name)
        .map_err(advise)?;
    if arguments.format == Format::Json {
        let view = View::of(&image);
        output::print(&output::json(&view)?)?;
    }
    Ok(0)
}
