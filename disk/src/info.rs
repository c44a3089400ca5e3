//! What an image says about itself.

use std::io;
use std::path::{Path, PathBuf};

use crate::raw::Raw;
use crate::vmdk::Vmdk;
use crate::{DiskError, Format, Image, OpenOptions, qcow2};

/// Facts about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its format.
    pub format: Format,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Bytes that the image takes up on the host, its backing files not counted.
    pub allocated: u64,
    /// Bytes of a cluster or grain, if it has any.
    pub cluster_size: Option<u64>,
    /// The variant of the format, if there are several.
    pub subformat: Option<&'static str>,
    /// The image that holds what this one does not, as it is named in this one.
    pub backing_file: Option<PathBuf>,
    /// Snapshots that it contains.
    pub snapshots: u64,
    /// Whether whoever wrote it last did not close it.
    pub dirty: bool,
}

impl Info {
    /// What every image has.
    pub(crate) fn new(format: Format, image: &dyn Image) -> io::Result<Info> {
        Ok(Info {
            format,
            virtual_size: image.size(),
            allocated: image.allocated()?,
            cluster_size: None,
            subformat: None,
            backing_file: None,
            snapshots: 0,
            dirty: false,
        })
    }
}

/// Reads what the image at `path` says about itself. Its backing files are not opened.
///
/// # Errors
/// As [`open`](crate::open), also when its contents are encrypted.
pub fn info(path: &Path, options: &OpenOptions) -> Result<Info, DiskError> {
    let options = OpenOptions {
        read_only: true,
        ..options.clone()
    };
    match options.format {
        Format::Raw => Info::new(Format::Raw, &Raw::open(path, &options)?),
        Format::Qcow2 => return qcow2::info(path),
        Format::Vmdk => Vmdk::open(path, &options)?.info(),
    }
    .map_err(|source| DiskError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    })
}
