//! Merges EROFS images of layers, the lowest first, into one disk: `merge DISK LAYER...`.

use std::error::Error;
use std::fs::File;
use std::io::{Write, copy};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let disk = arguments.next().ok_or("usage: merge DISK LAYER...")?;
    let layers = arguments.map(File::open).collect::<Result<Vec<_>, _>>()?;
    let output = File::create(&disk)?;
    let bytes = image::erofs::merge(&layers.iter().collect::<Vec<_>>(), &output)?;
    let mut output = File::options().append(true).open(&disk)?;
    for mut layer in layers {
        copy(&mut layer, &mut output)?;
    }
    writeln!(std::io::stdout(), "{bytes} bytes of metadata")?;
    Ok(())
}
