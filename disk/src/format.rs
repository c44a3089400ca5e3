//! Names of the formats.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How an image file holds the sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    /// One after the other.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// VMware's format.
    Vmdk,
}

/// A text is the name of no format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the format {name:?} is unknown: it is one of raw, qcow2, vmdk")]
pub struct UnknownFormat {
    /// What was given.
    pub name: String,
}

impl Format {
    /// Its name, as qemu-img(1) spells it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
        }
    }

    /// What the file name extension says. Contents are never looked at: a guest can write them, and could make a raw
    /// image look like one that names other files of the host.
    pub fn from_extension(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "raw" | "img" | "ext4" | "xfs" | "erofs" | "squashfs" | "iso" => Some(Format::Raw),
            "qcow2" => Some(Format::Qcow2),
            "vmdk" => Some(Format::Vmdk),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Format, UnknownFormat> {
        [Format::Raw, Format::Qcow2, Format::Vmdk]
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| UnknownFormat {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for format in [Format::Raw, Format::Qcow2, Format::Vmdk] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("qcow".parse::<Format>().is_err());
    }

    #[test]
    fn an_extension_tells_the_format_and_nothing_else_does() {
        assert_eq!(
            Format::from_extension(Path::new("/a/disk.QCOW2")),
            Some(Format::Qcow2)
        );
        assert_eq!(
            Format::from_extension(Path::new("disk.img")),
            Some(Format::Raw)
        );
        assert_eq!(Format::from_extension(Path::new("disk")), None);
        assert_eq!(Format::from_extension(Path::new("/dev/loop0")), None);
    }
}
