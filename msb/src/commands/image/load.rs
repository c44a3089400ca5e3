//! `msb image load`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use microsandbox::images::Images;
use microsandbox::images::image::Reference;
use microsandbox::images::image::archive::Input;

use super::advice::advise;
use super::view::View;
use crate::commands::Format;
use crate::commands::layer_bars::with_bars;
use crate::failure::with_hint;
use crate::output;

/// Adds the images of an archive or a directory, and prints their names
///
/// Takes archives of `docker save` and `podman save`, OCI archives, both also compressed by gzip or zstd, and directories with an OCI image layout. An image that has no name there is given one with --tag, or is named by its digest, which is printed then.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb image load debian.tar
  docker save debian | msb image load
  msb image load --tag mine:1 ./layout
  msb image load --only 3.12 python.tar")]
pub(super) struct Arguments {
    /// The archive or the directory; - for an archive from standard input, as without a path
    #[arg(value_name = "PATH", default_value = "-", hide_default_value = true)]
    path: PathBuf,

    /// The archive or the directory, as `docker load` has it
    #[arg(short, long, value_name = "PATH", conflicts_with = "path")]
    input: Option<PathBuf>,

    /// A further name for the image
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<Reference>,

    /// Only the image that has this name or tag there
    #[arg(long, value_name = "NAME")]
    only: Option<String>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "quiet")]
    format: Format,

    /// Prints nothing
    #[arg(short, long)]
    quiet: bool,
}

/// Loads them.
pub(super) fn execute(images: &Images, arguments: Arguments) -> anyhow::Result<u8> {
    let path = arguments.input.as_ref().unwrap_or(&arguments.path);
    let input = if path == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(with_hint(
                anyhow!("standard input is a terminal, and no archive"),
                "name a file, or redirect it: `msb image load <debian.tar`",
            ));
        }
        let input = io::stdin().as_fd().try_clone_to_owned();
        Input::Open(File::from(input.context("cannot use standard input")?))
    } else {
        Input::Path(path)
    };
    let wanted = arguments.only.as_deref();
    let loaded = with_bars(arguments.quiet, |progress| {
        images.load(input, wanted, &arguments.tag, &*progress)
    });
    let loaded = loaded.map_err(advise)?;
    let text = match arguments.format {
        Format::Json => {
            let views: Vec<_> = loaded.iter().map(View::of).collect();
            output::json(&views)?
        }
        Format::Text if arguments.quiet => String::new(),
        Format::Text => {
            let names = loaded
                .iter()
                .map(|image| format!("{}\n", image.display_name()));
            names.collect()
        }
    };
    output::print(&text)?;
    Ok(0)
}
