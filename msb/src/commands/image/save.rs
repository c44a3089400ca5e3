//! `msb image save`

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use microsandbox::images::Images;
use microsandbox::images::image::archive;
use microsandbox::images::image::progress::Silent;

use super::advice::advise;
use crate::commands::layer_bars::with_bars;
use crate::failure::with_hint;

/// Writes images to a tar archive
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb image save -o debian.tar debian
  msb image save debian python:3.12 | zstd >images.tar.zst
  msb image save --format oci -o debian.oci.tar debian")]
pub(super) struct Arguments {
    /// Names or digests of the images; those given by name have that name in the archive
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,

    /// File that is written [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// For whom
    #[arg(long, value_enum, default_value_t = Format::Docker)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For `docker load`; also an OCI image layout
    Docker,
    /// An OCI image layout
    Oci,
}

/// Saves them.
pub(super) fn execute(images: &Images, arguments: &Arguments) -> anyhow::Result<u8> {
    let names: Vec<_> = arguments.images.iter().map(String::as_str).collect();
    let format = match arguments.format {
        Format::Docker => archive::Format::Docker,
        Format::Oci => archive::Format::Oci,
    };
    let saved = match &arguments.output {
        Some(path) => with_bars(false, |progress| {
            images.save_file(&names, format, path, &*progress)
        }),
        None if io::stdout().is_terminal() => {
            return Err(with_hint(
                anyhow!("standard output is a terminal, which has no use for an archive"),
                "write to a file with -o, or to a program with |",
            ));
        }
        None => {
            let mut output = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
            images.save(&names, format, &mut output as &mut dyn Write, &Silent)
        }
    };
    saved.map_err(advise)?;
    Ok(0)
}
