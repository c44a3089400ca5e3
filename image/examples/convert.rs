//! Converts a layer to an EROFS image: `convert LAYER none|gzip|zstd IMAGE`.

use std::error::Error;
use std::fs::File;
use std::io::Write;

use image::Compression;
use image::layer::{Limits, convert};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, layer, compression, output] = &arguments[..] else {
        return Err("usage: convert LAYER none|gzip|zstd IMAGE".into());
    };
    let compression = match &compression[..] {
        "none" => Compression::None,
        "gzip" => Compression::Gzip,
        "zstd" => Compression::Zstd,
        other => return Err(format!("unknown compression {other}").into()),
    };
    let output = File::create(output)?;
    let converted = convert(File::open(layer)?, compression, &output, &Limits::default())?;
    writeln!(std::io::stdout(), "{converted:?}")?;
    Ok(())
}
